"""``flashpods config``: write this machine's configuration, and show what holds."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import typer

from flashpods.cli.session import EXIT_INTERRUPTED, EXIT_USAGE, Ui
from flashpods.client.config import (
    ClientConfig,
    check_token,
    check_values,
    default_config_path,
    read_values,
    token_paths,
)
from flashpods.client.errors import ConfigError

__all__ = ["InitOptions", "init_config", "show_config"]


@dataclass(frozen=True, slots=True, kw_only=True)
class InitOptions:
    """What the command line of ``config init`` says."""

    host: str | None
    port: int | None
    gitignore: bool | None
    token_stdin: bool
    force: bool


def init_config(options: InitOptions, *, as_json: bool) -> int:
    """Write the file and the token beside it; return the exit code.

    What is there already stays: another value for it needs ``force``. Either all is valid, or
    nothing is written.
    """
    ui = Ui(as_json=as_json)
    path = default_config_path(os.environ)
    try:
        return _init(ui, path, options)
    except ConfigError as error:
        ui.error(error)
        return EXIT_USAGE
    except typer.Abort:  # ctrl-C, or the end of the input, at a question
        return EXIT_INTERRUPTED
    except OSError as error:
        where = error.filename or path
        ui.error(ConfigError(f"cannot write {where}: {error.strerror}; is it managed elsewhere?"))
        return EXIT_USAGE


def _init(ui: Ui, path: Path, options: InitOptions) -> int:
    have = read_values(path)
    ask = sys.stdin.isatty() and not ui.as_json and not options.token_stdin
    host = options.host
    if host is None and "api_host" not in have and ask:
        host = typer.prompt("Host", default="10.0.0.1", err=True)
    given = {"api_host": host, "api_port": options.port, "gitignore": options.gitignore}
    wanted: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    check_values(wanted, "config init")
    changed = [k for k, v in wanted.items() if k in have and have[k] != v]
    if changed and not options.force:
        raise ConfigError(
            f"{path} says otherwise of {', '.join(changed)}: add --force to change it",
            code="config_exists",
        )
    merged = {**have, **wanted}
    changes = merged != have or not path.exists()
    token_path = _token_path(path, changes=changes)
    token = _new_token(token_path, options, ask=ask)
    if token is not None and "token_file" in have:
        raise ConfigError(
            f"{path} says that the token is in {have['token_file']}: write it there, or take "
            "token_file out",
            code="config_exists",
        )
    written = []
    if changes:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write(path, json.dumps(merged, indent=2) + "\n", 0o644)
        written.append(str(path))
    if token is not None:
        token_path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write(token_path, token + "\n", 0o600)
        written.append(str(token_path))
    if ui.as_json:
        ui.emit({"config": str(path), "values": merged, "token_written": token is not None})
    else:
        ui.note(f"wrote {' and '.join(written)}" if written else f"{path} says so already")
        ui.note("`flashpods doctor` tries it")
    return 0


def _token_path(config_path: Path, *, changes: bool) -> Path:
    """Return where the token goes: beside a configuration of ours, else to the user's own place.

    One that this call leaves as it is may be all users' (``/etc/flashpods/client.json``).
    """
    beside, *own = token_paths(os.environ, config_path)
    return beside if changes or beside.exists() or not own else own[0]


def _new_token(file: Path, options: InitOptions, *, ask: bool) -> str | None:
    """Return the token to write; None if none is given."""
    if options.token_stdin:
        text = sys.stdin.read(65536)
    elif ask and not file.exists() and not os.environ.get("FLASHPODS_API_TOKEN"):
        text = typer.prompt("API token (empty: none now)", default="", hide_input=True, err=True)
        if not text:
            return None
    else:
        return None
    lines = text.split()
    token = check_token(lines[0] if lines else "", "standard input")
    with suppress(FileNotFoundError):
        if file.read_text("utf-8", "replace").strip() != token and not options.force:
            raise ConfigError(
                f"{file} holds another token: add --force to change it", code="config_exists"
            )
    return token


def _write(path: Path, text: str, mode: int) -> None:
    """Write a whole file or nothing, with its mode from the beginning."""
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
        try:
            os.fchmod(file.fileno(), mode)
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def show_config(*, as_json: bool) -> int:
    """Print the configuration that holds; return the exit code."""
    ui = Ui(as_json=as_json)
    try:
        config = ClientConfig.load()
    except ConfigError as error:
        ui.error(error)
        return EXIT_USAGE
    path = default_config_path(os.environ)
    values: dict[str, Any] = {f.name: getattr(config, f.name) for f in fields(config)}
    del values["token"]
    values |= {"default_exclude": list(config.default_exclude), "base_url": config.base_url}
    if as_json:
        ui.emit({"file": str(path), "file_exists": path.exists(), **values})
        return 0
    from flashpods.cli.tables import show_pairs  # noqa: PLC0415 - rich only where it shows

    note = "" if path.exists() else " (not there: defaults)"
    values["default_exclude"] = " ".join(config.default_exclude)
    values["token_source"] = f"from {config.token_source}"
    show_pairs(ui.console(), [("file", f"{path}{note}"), *values.items()])
    return 0
