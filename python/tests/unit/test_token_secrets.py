"""The secrets file: who may read it, what it may hold, and that a bad one is never shown."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest

from flashpods.config_base import ConfigError
from flashpods.errors import InternalError
from flashpods.token.secrets import MOST_BYTES, Vault, locate, read

GOOD = {"anthropic_api_key": "sk-ant-1", "github_token": "ghp_1"}
OTHER_USER = 12345


def write(tmp_path: Path, text: str | bytes | None = None, mode: int = 0o600) -> Path:
    file = tmp_path / "secrets.json"
    content = json.dumps(GOOD) if text is None else text
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    file.chmod(mode)
    return file


def access_list(file: Path, *entries: tuple[int, int, int]) -> None:
    raw = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    os.setxattr(file, "system.posix_acl_access", raw)


NOBODY = 0xFFFFFFFF
OWNER, MASK, GROUP, OTHER = (1, 4, NOBODY), (0x10, 4, NOBODY), (4, 0, NOBODY), (0x20, 0, NOBODY)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_good_file(tmp_path: Path, mode: int) -> None:
    assert read(write(tmp_path, mode=mode)) == GOOD


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666, 0o644, 0o601, 0o440])
@pytest.mark.parametrize("credential", [False, True])
def test_a_file_open_to_others(tmp_path: Path, mode: int, credential: bool) -> None:
    with pytest.raises(ConfigError, match=f"mode {mode:04o}, which opens it to others: chown root"):
        read(write(tmp_path, mode=mode), credential=credential)


def test_a_file_of_another_user(tmp_path: Path) -> None:
    file = write(tmp_path)
    os.chown(file, OTHER_USER, -1)
    with pytest.raises(ConfigError, match=f"owned by user {OTHER_USER}"):
        read(file)


def test_a_credential_that_systemd_opened_to_us(tmp_path: Path) -> None:
    """Its group bits are the mask of the access list."""
    file = write(tmp_path, mode=0o440)
    access_list(file, OWNER, (2, 4, os.geteuid()), GROUP, MASK, OTHER)
    assert read(file, credential=True) == GOOD
    with pytest.raises(ConfigError, match="mode 0440"):
        read(file)  # elsewhere than in the credentials' directory it is as strict as ever


@pytest.mark.parametrize(
    "entry", [(2, 4, OTHER_USER), (8, 4, OTHER_USER), (4, 4, NOBODY)], ids=["user", "group", "own"]
)
def test_a_credential_open_to_others(tmp_path: Path, entry: tuple[int, int, int]) -> None:
    file = write(tmp_path, mode=0o440)
    group = () if entry[0] == 4 else (GROUP,)
    access_list(file, *sorted([OWNER, *group, entry, MASK, OTHER]))
    with pytest.raises(ConfigError, match="mode 0440"):
        read(file, credential=True)


def test_what_is_no_file(tmp_path: Path) -> None:
    real = write(tmp_path)
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(real)
    os.mkfifo(pipe, 0o600)
    with pytest.raises(ConfigError, match="link: Too many levels of symbolic links"):
        read(link)
    for odd in (pipe, tmp_path):
        with pytest.raises(ConfigError, match="is not a regular file"):
            read(odd)
    with pytest.raises(ConfigError, match="nothing: No such file"):
        read(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is not JSON"),
        ("hunter2", "is not JSON"),
        (b"\xff\xfehunter2", "is not JSON"),
        ("[" * 60_000, "is not JSON"),
        ('["hunter2"]', "one JSON object"),
        ('"hunter2"', "one JSON object"),
        ('{"hunter2 ": "x"}', "entry 1: the key"),
        ('{"GITHUB_TOKEN": "hunter2"}', "entry 1: the key"),
        ('{"a": "x", "github_token": 7}', "github_token: must be a string"),
        ('{"github_token": ""}', "github_token: must be a string"),
        ('{"github_token": "hunter2\\n"}', "github_token: must be a string"),
        ('{"github_token": "hunter2 x"}', "github_token: must be a string"),
        ('{"github_token": "hunter2é"}', "github_token: must be a string"),
        ('{"github_token": null}', "github_token: must be a string"),
        ('{"github_token": {"a": "hunter2"}}', "github_token: must be a string"),
        (json.dumps({"github_token": "x" * 4097}), "github_token: must be a string"),
        ('{"github_token": "hunter2", "github_token": "hunter3"}', "has a key twice"),
        (b" " * (MOST_BYTES + 1), f"over {MOST_BYTES} bytes"),
    ],
)
def test_bad_content_is_refused_without_showing_it(
    tmp_path: Path, text: str | bytes, says: str
) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        read(write(tmp_path, text))
    assert "hunter" not in str(refused.value)
    error = refused.value
    assert error.__cause__ is None
    assert error.__context__ is None or error.__suppress_context__
    assert "\n" not in str(refused.value)


def test_credentials_come_first(tmp_path: Path) -> None:
    setting = Path("/etc/flashpods/secrets.json")
    assert locate(setting, None) == (setting, False)
    assert locate(setting, str(tmp_path)) == (setting, False)
    loaded = write(tmp_path)
    assert locate(setting, str(tmp_path)) == (loaded, True)


def test_a_vault_gives_what_it_has(tmp_path: Path) -> None:
    vault = Vault({"GITHUB_TOKEN"})
    assert not vault.filled
    with pytest.raises(InternalError) as refused:
        vault.get(["GITHUB_TOKEN"])
    assert (refused.value.status, refused.value.code) == (500, "secrets_unavailable")
    assert vault.fill(write(tmp_path))
    assert not vault.fill(write(tmp_path))
    assert vault.get(["GITHUB_TOKEN"]) == {"GITHUB_TOKEN": "ghp_1"}
    assert "ghp" not in repr(vault)
    with pytest.raises(InternalError):
        vault.get(["GITHUB_TOKEN", "NPM_TOKEN"])
    vault.empty()
    assert not vault.filled


def test_a_bad_file_leaves_the_old_secrets(tmp_path: Path) -> None:
    vault = Vault({"GITHUB_TOKEN", "ANTHROPIC_API_KEY"})
    vault.fill(write(tmp_path))
    for text in ('{"github_token": "new"}', "{", "[]"):
        with pytest.raises(ConfigError):
            vault.fill(write(tmp_path, text))
        assert vault.get(["GITHUB_TOKEN"]) == {"GITHUB_TOKEN": "ghp_1"}
    vault.fill(write(tmp_path, json.dumps({**GOOD, "github_token": "ghp_2"})))
    assert vault.get(["GITHUB_TOKEN"]) == {"GITHUB_TOKEN": "ghp_2"}


def test_a_secret_that_the_policy_grants_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"lacks npm_token, which tokens\.policy grants"):
        Vault({"NPM_TOKEN", "GITHUB_TOKEN"}).fill(write(tmp_path))
