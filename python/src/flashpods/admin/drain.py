"""``flashpods-admin drain`` and ``resume``: stop taking new jobs, for as long as it is needed."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Final

import typer

from flashpods.admin.command import EXIT_OK, Command, Json, SettingsFile, execute
from flashpods.admin.durations import duration

if TYPE_CHECKING:
    from flashpods.adapters.sqlite.store import SqliteStore
    from flashpods.cli.session import Ui
    from flashpods.config import Settings

__all__ = ["DRAIN", "EXIT_TIMED_OUT", "RESUME"]

EXIT_TIMED_OUT: Final = 124  # as timeout(1) says it


def drain(
    wait: Annotated[
        bool, typer.Option("--wait", help="Return when no job is left, or time is up.")
    ] = False,
    timeout: Annotated[
        timedelta | None,
        typer.Option(
            "--timeout", parser=duration, metavar="TIME", help="How long to wait: 90s, 30m, 2h."
        ),
    ] = None,
    cancel_after: Annotated[
        timedelta | None,
        typer.Option(
            "--cancel-after", parser=duration, metavar="TIME", help="Then cancel what still runs."
        ),
    ] = None,
    json: Json = False,
    settings: SettingsFile = None,
) -> None:
    """Take no new jobs from now on; those that are there go on.

    POST /jobs answers 503 with Retry-After, /health, /capacity and flashpods ps say so. It holds
    until flashpods-admin resume, also over restarts and reboots. Repeated: the same.
    With --wait the exit code is 124 when jobs are left after --timeout; the host goes on draining.
    """
    if not wait and (timeout or cancel_after):
        raise typer.BadParameter("--timeout and --cancel-after need --wait")
    if timeout and cancel_after and cancel_after >= timeout:
        raise typer.BadParameter("--cancel-after must be shorter than --timeout")
    patience = (timeout, cancel_after) if wait else None
    raise typer.Exit(
        execute(lambda ui, s: _drain(ui, s, patience), as_json=json, settings=settings)
    )


def _drain(
    ui: Ui, settings: Settings, patience: tuple[timedelta | None, timedelta | None] | None
) -> int:
    from flashpods.admin.draining import Draining, begin, wait  # noqa: PLC0415 - the host's side
    from flashpods.admin.live import LiveApi  # noqa: PLC0415
    from flashpods.admin.opened import with_store  # noqa: PLC0415

    api = LiveApi(settings)
    api.unlock()  # root reads the token; the database is then opened as its owner

    async def work(store: SqliteStore) -> Draining:
        state = await begin(store, say=ui.note)
        if patience is None:
            return state
        timeout, cancel_after = patience
        return await wait(
            store,
            timeout=timeout,
            cancel_after=cancel_after,
            cancel=api.cancel,
            say=ui.note,
        )

    state = with_store(settings, work)
    if ui.as_json:
        ui.emit({"draining": True, "active": state.active, "cancelled": state.cancelled})
    elif patience is not None and not state.active:
        ui.note("drained: no job is left")
    return EXIT_TIMED_OUT if patience is not None and state.active else EXIT_OK


def resume(json: Json = False, settings: SettingsFile = None) -> None:
    """Take new jobs again. Repeated, or on a host that does not drain: nothing changes."""
    raise typer.Exit(execute(_resume, as_json=json, settings=settings))


def _resume(ui: Ui, settings: Settings) -> int:
    from flashpods.adapters.clock import SystemClock  # noqa: PLC0415 - the host's side
    from flashpods.admin.opened import with_store  # noqa: PLC0415

    async def work(store: SqliteStore) -> bool:
        before = await store.draining()
        await store.set_draining(False, at=SystemClock().now())
        return before

    before = with_store(settings, work)
    if ui.as_json:
        ui.emit({"draining": False, "was_draining": before})
    else:
        ui.note("new jobs are taken again" if before else "the host took new jobs already")
    return EXIT_OK


DRAIN: Final = Command(
    "drain",
    drain,
    (
        "flashpods-admin drain",
        "flashpods-admin drain --wait --timeout 30m",
        "flashpods-admin drain --wait --timeout 30m --cancel-after 20m",
    ),
)
RESUME: Final = Command("resume", resume, ("flashpods-admin resume",))
