"""The laptop's WireGuard file: for the host's real key, taken by WireGuard's own reader."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flashpods.admin.main import app


def wg(*words: str, given: str = "") -> str:
    done = subprocess.run(
        ["wg", *words], input=given, capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout.strip()


@pytest.fixture
def key(tmp_path: Path) -> Path:
    (tmp_path / "settings.json").write_text("{}")
    path = tmp_path / "private.key"
    path.write_text(wg("genkey") + "\n")
    return path


def call(key: Path, *words: str) -> Any:
    settings = str(key.with_name("settings.json"))
    common = ["--key-file", str(key), "--settings", settings]
    return CliRunner().invoke(app, ["laptop", *words, *common])


def test_the_snippet_is_what_wireguard_reads(key: Path, tmp_path: Path) -> None:
    said = call(key, "--endpoint", "build.example.org")
    assert said.exit_code == 0
    private, public = key.read_text().strip(), wg("pubkey", given=key.read_text())
    assert f"PublicKey = {public}\n" in said.stdout
    assert private not in said.output
    conf = tmp_path / "wg0.conf"
    conf.write_text(said.stdout.replace("LAPTOP_PRIVATE_KEY", wg("genkey")))
    conf.chmod(0o600)
    stripped = subprocess.run(
        ["wg-quick", "strip", conf], capture_output=True, text=True, check=True, timeout=120
    ).stdout
    assert "Endpoint = build.example.org:51820" in stripped
    assert "AllowedIPs = 10.0.0.1/32" in stripped
    assert json.loads(call(key, "--endpoint", "x", "--json").stdout)["public_key"] == public


def test_ipv6_is_in_brackets(key: Path) -> None:
    said = call(key, "--endpoint", "2001:db8::7", "--address", "10.0.0.9", "--port", "4000")
    assert "Endpoint = [2001:db8::7]:4000" in said.stdout
    assert "Address = 10.0.0.9/32" in said.stdout


@pytest.mark.parametrize(
    ("words", "code", "exit_code"),
    [
        (("--address", "ten"), "invalid_address", 2),
        (("--key-file", "/nonexistent"), "no_wireguard_key", 1),
        (("--key-file", "/etc/hostname"), "no_wireguard_key", 1),
    ],
)
def test_what_can_not_be_is_named(
    key: Path, words: tuple[str, ...], code: str, exit_code: int
) -> None:
    settings = str(key.with_name("settings.json"))
    said = CliRunner().invoke(
        app,
        [
            "laptop",
            "--endpoint",
            "x",
            "--key-file",
            str(key),
            "--settings",
            settings,
            *words,
            "--json",
        ],
    )
    assert (said.exit_code, json.loads(said.stdout)["error"]) == (exit_code, code)
