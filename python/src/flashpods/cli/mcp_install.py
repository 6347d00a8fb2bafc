"""``flashpods mcp install``: put the server into a coding agent's configuration.

Only our entry changes; everything else in the file stays, comments in TOML too. A file that can't
be read as what it should be is not touched. The token is never written: the server finds it where
``flashpods`` does.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from flashpods.cli.mcp_agents import AGENTS, Agent, entry, place
from flashpods.cli.session import EXIT_USAGE, Ui
from flashpods.client.errors import ConfigError

__all__ = ["InstallOptions", "default_command", "install", "merge_json", "merge_toml"]

NAME: Final = "flashpods"
PROGRAM: Final = "flashpods-mcp"
MAX_BYTES: Final = 64 << 20  # ~/.claude.json holds histories


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallOptions:
    """What the command line says."""

    agent: str
    project: Path | None = None
    show: bool = False  # print it, write nothing
    command: list[str] | None = None


def default_command(env: Mapping[str, str], *, portable: bool) -> list[str]:
    """Return how to start the server.

    Args:
        env: for the PATH.
        portable: for a file that others share: no path of this machine.
    """
    found = shutil.which(PROGRAM, path=env.get("PATH"))
    # uvx runs from a cache that it may clear at any time.
    lasting = found is not None and "archive-v0" not in str(Path(found).resolve())
    if not lasting or found is None:
        return ["uvx", "--from", "flashpods", PROGRAM]
    return [PROGRAM] if portable else [found]


def merge_json(text: str, key: str, value: dict[str, Any], where: str) -> str:
    """Return the file's text with our entry in it; the same text if it is there already.

    Raises:
        ConfigError: it is no JSON object, or what is at the key is none.
    """
    try:
        whole = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise ConfigError(
            f"{where} is not plain JSON ({error}), so it was left alone; add by hand what "
            "`flashpods mcp install --print` shows"
        ) from error
    servers = whole.setdefault(key, {}) if isinstance(whole, dict) else None
    if not isinstance(servers, dict):
        raise ConfigError(f"{where}: {key} is not an object, so it was left alone; mend it first")
    if servers.get(NAME) == value:
        return text
    servers[NAME] = value
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def toml_block(key: str, value: dict[str, Any]) -> str:
    """Return our table. JSON's strings, lists and numbers are TOML's as well."""
    lines = [f"{name} = {json.dumps(item)}" for name, item in value.items()]
    return "\n".join([f"[{key}.{NAME}]", *lines, ""])


def merge_toml(text: str, key: str, value: dict[str, Any], where: str) -> str:
    """Return the file's text with our table in it; the same text if it is there already.

    Raises:
        ConfigError: it is no TOML, or our table is written in a way that can't be replaced.
    """
    before = _toml(text, where)
    servers = before.get(key, {})
    if isinstance(servers, dict) and servers.get(NAME) == value:
        return text
    header = re.compile(rf"^\[\s*{key}\s*\.\s*(?:{NAME}|\"{NAME}\")\s*(?:\.[^\]]*)?\]\s*(?:#.*)?$")
    kept, ours = [], False
    for line in text.splitlines():
        if line.lstrip().startswith("["):
            ours = header.match(line.strip()) is not None
        if not ours:
            kept.append(line)
    body = "\n".join(kept).rstrip("\n")
    merged = (f"{body}\n\n" if body else "") + toml_block(key, value)
    expected = {**before, key: {**(servers if isinstance(servers, dict) else {}), NAME: value}}
    with suppress(tomllib.TOMLDecodeError):
        if tomllib.loads(merged) == expected:
            return merged
    raise ConfigError(
        f"{where} has {key} in a form that can't be changed safely, so it was left alone; add by "
        "hand what `flashpods mcp install --print` shows"
    )


def _toml(text: str, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where} is not TOML ({error}), so it was left alone") from error


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path} is over {MAX_BYTES} bytes, so it was left alone")
        return path.read_text("utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error


def _write(path: Path, text: str) -> None:
    """Replace the file in one step, with its mode; a link to it stays a link."""
    real = Path(os.path.realpath(path))
    try:
        real.parent.mkdir(parents=True, exist_ok=True)
        mode = real.stat().st_mode & 0o777 if real.exists() else 0o600
        fd, name = tempfile.mkstemp(dir=real.parent, prefix=f".{real.name}.")
        try:
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(mode)
            Path(name).rename(real)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def _snippet(agent: Agent, value: dict[str, Any]) -> str:
    if agent.form == "codex":
        return toml_block(agent.key, value).rstrip()
    return json.dumps({agent.key: {NAME: value}}, indent=2)


def install(options: InstallOptions, *, as_json: bool) -> int:
    """Write the entry, or show it; return the exit code."""
    ui = Ui(as_json=as_json)
    try:
        return _install(ui, options)
    except ConfigError as error:
        ui.error(error)
        return EXIT_USAGE


def _install(ui: Ui, options: InstallOptions) -> int:
    agent = AGENTS[options.agent]
    path = place(agent, project=options.project, env=os.environ)
    if path is None:
        kind = "a project" if options.project is not None else "a user"
        raise ConfigError(f"{agent.title} keeps no servers for {kind}")
    portable = options.project is not None
    command = options.command or default_command(os.environ, portable=portable)
    value = entry(agent, command)
    if options.show:
        if ui.as_json:
            ui.emit({"agent": options.agent, "path": str(path), "entry": value, "changed": False})
        else:
            ui.note(f"for {agent.title}, in {path}:")
            print(_snippet(agent, value))
        return 0
    text = _read(path)
    merge = merge_toml if agent.form == "codex" else merge_json
    merged = merge(text, agent.key, value, str(path))
    changed = merged != text
    if changed:
        _write(path, merged)
    if ui.as_json:
        ui.emit({"agent": options.agent, "path": str(path), "entry": value, "changed": changed})
    else:
        what = "added flashpods to" if changed else "flashpods is already in"
        ui.note(f"{what} {path}; restart {agent.title} to {'use' if changed else 'see'} it")
    return 0
