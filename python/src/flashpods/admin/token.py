"""``flashpods-admin rotate-token``: another bearer token, with an overlap of both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from flashpods.admin.command import EXIT_OK, AdminError, Command, Json, SettingsFile, execute

if TYPE_CHECKING:
    from flashpods.admin.live import LiveApi
    from flashpods.cli.session import Ui
    from flashpods.config import Settings

__all__ = ["COMMAND"]

TOKEN_BYTES: Final = 32
TAKE_UP_SECONDS: Final = 10.0


def rotate_token(
    finish: Annotated[
        bool, typer.Option("--finish", help="End the overlap: only the new token is good.")
    ] = False,
    show: Annotated[bool, typer.Option("--show", help="Print the new token on stdout.")] = False,
    json: Json = False,
    settings: SettingsFile = None,
) -> None:
    """Write a new token above the old one; both are good until --finish.

    Then give the new one to the laptops, and end the overlap with --finish. The API takes the file
    up by itself within seconds; where systemd handed it a copy, the API is restarted, which ends
    no job. Repeated: nothing changes while there are two, or with --finish while there is one.
    """
    raise typer.Exit(
        execute(
            lambda ui, s: _rotate(ui, s, finish=finish, show=show), as_json=json, settings=settings
        )
    )


def _rotate(ui: Ui, settings: Settings, *, finish: bool, show: bool) -> int:
    from flashpods.config import read_tokens  # noqa: PLC0415 - the host's side

    file = settings.http.token_file
    tokens = list(read_tokens(file))
    wanted = tokens[:1] if finish else tokens if len(tokens) == 2 else [_new(), *tokens]
    changed = wanted != tokens
    if changed:
        _write(file, wanted)
    state = _taken_up(settings, good=wanted[0], bad=tokens[-1] if finish and changed else None)
    if ui.as_json:
        token = {"token": wanted[0].decode()} if show else {}
        ui.emit({"changed": changed, "tokens": len(wanted), "api": state, **token})
        return EXIT_OK
    ui.note(_words(file, changed=changed, overlap=len(wanted) == 2, state=state))
    if show:
        print(wanted[0].decode())  # noqa: T201 - the one place where it is asked for
    return EXIT_OK


def _words(file: Path, *, changed: bool, overlap: bool, state: str) -> str:
    if overlap:
        begun = "a new token is" if changed else "a rotation is under way already; the new token is"
        return f"{begun} the first line of {file}, both are good ({state}); end it with --finish"
    if changed:
        return f"only the new token of {file} is good now ({state})"
    return f"{file} holds one token; there was no overlap to end"


def _new() -> bytes:
    import secrets  # noqa: PLC0415

    return secrets.token_hex(TOKEN_BYTES).encode()


def _write(file: Path, tokens: list[bytes]) -> None:
    """Replace the file, with the owner and the mode that it has."""
    from flashpods.admin.backups.status import write_whole  # noqa: PLC0415

    try:
        before = file.stat()
        text = "".join(f"{token.decode()}\n" for token in tokens)
        write_whole(file, text, mode=before.st_mode & 0o777, owner=(before.st_uid, before.st_gid))
    except OSError as e:
        raise AdminError(
            f"http.token_file {file}: {e.strerror}; run this as root",
            code="token_not_written",
        ) from e


def _taken_up(settings: Settings, *, good: bytes, bad: bytes | None) -> str:
    """Wait until the API knows; restart it where its file is a copy.

    Raises:
        AdminError: ``token_not_taken``.
    """
    from flashpods.admin.live import LiveApi  # noqa: PLC0415 - the host's side
    from flashpods.admin.units import API, Units  # noqa: PLC0415

    api = LiveApi(settings)

    if api.health() is None:
        return "the API does not run; it reads the file at its start"
    if _knows(api, good, bad):
        return "the API knows it"
    units = Units.of_this_machine()
    if units is not None and units.states(API)[API] == "active":
        units.restart(API)
        if api.wait_for_database(60) and _knows(api, good, bad):
            return "the API was restarted and knows it"
    raise AdminError(
        f"the file is written, but the API at {api.url} does not take it up; restart it, and see "
        f"its journal",
        code="token_not_taken",
    )


def _knows(api: LiveApi, good: bytes, bad: bytes | None) -> bool:
    """Ask, for :data:`TAKE_UP_SECONDS` at most, until the one is good and the other is not."""
    import time  # noqa: PLC0415

    end = time.monotonic() + TAKE_UP_SECONDS
    while time.monotonic() < end:
        if api.accepts(good) and (bad is None or api.accepts(bad) is False):
            return True
        time.sleep(0.2)
    return False


COMMAND: Final = Command(
    "rotate-token",
    rotate_token,
    (
        "flashpods-admin rotate-token",
        "flashpods-admin rotate-token --show",
        "flashpods-admin rotate-token --finish",
    ),
)
