"""``flashpods-admin status``: the host at a glance."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import typer

from flashpods.admin.command import EXIT_OK, Command, Json, SettingsFile, execute

if TYPE_CHECKING:
    from flashpods.adapters.sqlite.store import SqliteStore
    from flashpods.cli.session import Ui
    from flashpods.config import Settings

__all__ = ["COMMAND"]


def status(json: Json = False, settings: SettingsFile = None) -> None:
    """Show the API's health, jobs, capacity, disks, backup and units; changes nothing.

    Works with the API down. It judges nothing: that is flashpods-admin doctor.
    """
    raise typer.Exit(execute(_status, as_json=json, settings=settings))


def _status(ui: Ui, settings: Settings) -> int:
    found = look(settings)
    if ui.as_json:
        ui.emit(found)
        return EXIT_OK
    from flashpods.admin.tables import show  # noqa: PLC0415 - rich only where it shows

    show(ui, ("", ""), _rows(found))
    return EXIT_OK


def look(settings: Settings) -> dict[str, Any]:
    """Return all of it, as ``--json`` prints it; a part that can't be had is its ``error``."""
    from flashpods.adapters.sqlite.connection import to_text  # noqa: PLC0415 - the host's side
    from flashpods.admin.backups import status as backups  # noqa: PLC0415
    from flashpods.admin.command import AdminError  # noqa: PLC0415
    from flashpods.admin.live import LiveApi  # noqa: PLC0415
    from flashpods.admin.opened import with_store  # noqa: PLC0415
    from flashpods.admin.units import UNITS, Units  # noqa: PLC0415
    from flashpods.telemetry.status import read_elsewhere  # noqa: PLC0415

    health = LiveApi(settings).health()
    api: dict[str, Any] = {"answers": health is not None}
    if health is not None:
        failing = [name for name, c in health.checks.items() if c.get("status") == "failing"]
        api |= {"version": health.version, "healthy": health.healthy, "failing": failing}
    try:
        jobs = with_store(settings, _jobs)
    except AdminError as e:
        jobs = {"error": e.message}
    units = Units.of_this_machine()
    backup = backups.read(settings.backup.directory)
    carried = read_elsewhere(settings.backup.elsewhere)
    return {
        "api": api,
        "jobs": jobs,
        "capacity": _capacity(settings),
        "disk_used_percent": _disks(settings),
        "backup": None
        if backup is None
        else {"ok": backup.ok, "error": backup.error, "last_success_at": backup.last_success_at},
        "backup_elsewhere": None
        if carried is None
        else {"last_at": to_text(datetime.fromtimestamp(carried, UTC)) if carried else None},
        "units": None if units is None else units.states(*UNITS),
    }


async def _jobs(store: SqliteStore) -> dict[str, Any]:
    from flashpods.jobs.states import JobStatus  # noqa: PLC0415 - the host's side

    counts = {}
    for state in JobStatus:
        page = await store.page(statuses=[state], limit=1, cursor=None)
        counts[state.value] = page.total
    reserved = await store.reserved()
    return {
        "draining": await store.draining(),
        "by_state": counts,
        "reserved": {"cpus": reserved.cpus, "memory_gb": reserved.memory_gb, "jobs": reserved.jobs},
    }


def _capacity(settings: Settings) -> dict[str, int]:
    from flashpods.bootstrap import host_capacity  # noqa: PLC0415 - the host's side

    capacity = host_capacity(settings)
    return {"cpus": capacity.cpus, "memory_gb": capacity.memory_gb}


def _disks(settings: Settings) -> dict[str, float | None]:
    from flashpods.adapters.files.disk import StatvfsGauge  # noqa: PLC0415 - the host's side

    found: dict[str, float | None] = {}
    for path in (settings.paths.work, settings.paths.artifacts, settings.paths.logs):
        try:
            ((name, part),) = StatvfsGauge((path,)).usage().items()
            found[name] = round(100 * part, 1)
        except OSError:
            found[str(path)] = None
    return found


def _rows(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    api, jobs = found["api"], found["jobs"]
    if not api["answers"]:
        yield "API", "does not answer"
    else:
        health = "healthy" if api["healthy"] else f"degraded: {', '.join(api['failing'])}"
        yield "API", f"{health}, version {api['version']}"
    if "error" in jobs:
        yield "database", jobs["error"]
    else:
        yield "new jobs", "refused: the host is draining" if jobs["draining"] else "taken"
        counts = {state: n for state, n in jobs["by_state"].items() if n}
        yield "jobs", ", ".join(f"{n} {state}" for state, n in counts.items()) or "none"
        reserved, capacity = jobs["reserved"], found["capacity"]
        cpus = f"{reserved['cpus']} of {capacity['cpus']} CPUs"
        yield "reserved", f"{cpus}, {reserved['memory_gb']} of {capacity['memory_gb']} GB"
    for path, percent in found["disk_used_percent"].items():
        yield "disk", f"{path}: " + ("not there" if percent is None else f"{percent} % used")
    backup = found["backup"]
    if backup is None:
        yield "backup", "never"
    else:
        failed = "" if backup["ok"] else f"; the last run failed: {backup['error']}"
        yield "backup", f"{backup['last_success_at'] or 'never'}{failed}"
    if (carried := found["backup_elsewhere"]) is not None:
        yield "elsewhere", carried["last_at"] or "never"
    yield from (found["units"] or {}).items()


COMMAND: Final = Command(
    "status", status, ("flashpods-admin status", "flashpods-admin status --json | jq .jobs")
)
