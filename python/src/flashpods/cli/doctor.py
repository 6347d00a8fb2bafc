"""``flashpods doctor``: each thing that a job needs, tried in turn, with what to do if it is wrong.

A check that builds on a failed one is skipped. Nothing is changed, but an upload's id that is
reserved to learn where rsync listens, and given back.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from flashpods import __version__
from flashpods.cli.session import EXIT_FAILED, Ui, guarded
from flashpods.cli.terminal import plain
from flashpods.cli.units import human_bytes, human_seconds
from flashpods.client import push
from flashpods.client.client import FlashpodsClient
from flashpods.client.config import ClientConfig, default_config_path
from flashpods.client.errors import ClientError, ConfigError
from flashpods.client.rsync import probe_rsync

__all__ = ["Check", "examine", "execute_doctor"]

CONNECT_SECONDS: Final = 5.0
SKEW_SECONDS: Final = 30.0
LOW_BYTES: Final = 1 << 30
TUNNEL: Final = (
    "is the tunnel up? `wg show` must show a recent handshake; else `wg-quick up wg0` "
    "(NixOS: `systemctl start wg-quick-wg0`)"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """What was tried, how it went (ok, warning, failed, skipped), and what to do."""

    name: str
    status: str
    message: str
    remedy: str = ""


def execute_doctor(*, as_json: bool) -> int:
    """Print every check; return 0 if none failed."""
    ui = Ui(as_json=as_json)
    return guarded(_doctor(ui), ui)


async def _doctor(ui: Ui) -> int:
    checks: list[Check] = []
    async for check in examine():
        checks.append(check)
        if not ui.as_json:
            _show(ui, check)
    failed = [check.name for check in checks if check.status == "failed"]
    if ui.as_json:
        ui.emit({"ok": not failed, "checks": [dataclasses.asdict(check) for check in checks]})
    elif failed:
        ui.note(f"failed: {', '.join(failed)}")
    return EXIT_FAILED if failed else 0


def _show(ui: Ui, check: Check) -> None:
    from rich.text import Text  # noqa: PLC0415 - rich only where it shows

    style = {"ok": "green", "warning": "yellow", "failed": "red"}.get(check.status, "dim")
    line = Text.assemble((f"{check.status:<8}", style), f"{check.name:<14}", plain(check.message))
    console = ui.console()
    console.print(line, soft_wrap=True)
    if check.remedy:
        console.print(Text(f"{'':<22}→ {plain(check.remedy)}"), soft_wrap=True)


async def examine() -> AsyncIterator[Check]:
    """Yield the checks in the order in which they build on each other."""
    yield await _rsync()
    yield _git()
    yield _space_here()
    try:
        config = ClientConfig.load()
    except ConfigError as error:
        yield Check("configuration", "failed", error.message, "`flashpods config init` writes it")
        for name in ("host", "token", "version", "clock", "health", "capacity", "rsync daemon"):
            yield Check(name, "skipped", "there is no configuration to try")
        return
    yield _configuration(config)
    reached = await _tunnel(config)
    yield reached
    if reached.status == "failed":
        for name in ("token", "version", "clock", "health", "capacity", "rsync daemon"):
            yield Check(name, "skipped", "the host can't be reached")
        return
    async with FlashpodsClient(dataclasses.replace(config, retry_max_attempts=1)) as client:
        async for check in _host(client, config):
            yield check


async def _rsync() -> Check:
    try:
        program = await probe_rsync()
    except ClientError as error:
        message, _, remedy = error.message.partition("; ")
        return Check("rsync", "failed", message, remedy)
    version = ".".join(str(part) for part in program.version)
    return Check("rsync", "ok", f"{program.path}, version {version}")


def _git() -> Check:
    path = shutil.which("git")
    if path is None:
        remedy = "install git for --gitignore, diff and apply"
        return Check("git", "warning", "git is not on the PATH", remedy)
    return Check("git", "ok", path)


def _space_here() -> Check:
    try:
        here = Path.cwd()
        free = shutil.disk_usage(here).free
    except OSError as error:
        said = f"the working directory: {error.strerror}"
        return Check("space here", "warning", said, "go to one that exists: `cd`")
    status = "ok" if free >= LOW_BYTES else "warning"
    remedy = "" if status == "ok" else "make room: artifacts come to this directory"
    return Check("space here", status, f"{human_bytes(free)} free in {here}", remedy)


def _configuration(config: ClientConfig) -> Check:
    path = default_config_path(os.environ)
    where = str(path) if path.exists() else f"defaults, as {path} is not there"
    said = f"{where}; the token from {config.token_source}"
    source = Path(config.token_source)
    if source.is_absolute() and source.exists():
        mode = stat.S_IMODE(source.stat().st_mode)
        if mode & 0o077:
            remedy = f"chmod 600 {source}"
            return Check("configuration", "warning", f"{said}, which others can read", remedy)
    return Check("configuration", "ok", said)


async def _tunnel(config: ClientConfig) -> Check:
    """Connect to the API's port, and tell a missing tunnel from a missing service."""
    parts = urlsplit(config.base_url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    where = f"{parts.hostname}:{port}"
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(parts.hostname, port)
    except TimeoutError:
        return Check("host", "failed", f"{where} does not answer", TUNNEL)
    except ConnectionRefusedError:
        remedy = "the machine answers, the API does not: `systemctl status flashpods-api` there"
        return Check("host", "failed", f"{where} refuses connections", remedy)
    except OSError as error:
        return Check("host", "failed", f"{where}: {error.strerror or error}", TUNNEL)
    writer.close()
    return Check("host", "ok", f"{where} takes connections")


async def _host(client: FlashpodsClient, config: ClientConfig) -> AsyncIterator[Check]:
    try:
        health = await client.health()
    except ClientError as error:
        yield Check("host", "failed", str(error), "is this the port of a Flashpods API?")
        return
    try:
        capacity = (await client.capacity()).raw
    except ClientError as error:
        remedy = "compare it with the host's /etc/flashpods/api-token; `flashpods config init`"
        yield Check("token", "failed", str(error), remedy if error.status == 401 else "")
        capacity = None
    else:
        yield Check("token", "ok", "the host takes it")
    yield _version(health)
    yield _clock(client.clock_skew)
    yield _health(health)
    if capacity is None:
        yield Check("capacity", "skipped", "the token does not hold")
        yield Check("rsync daemon", "skipped", "the token does not hold")
        return
    yield _capacity(capacity)
    yield await _daemon(client, config)


def _version(health: dict[str, Any]) -> Check:
    theirs = str(health.get("version"))
    said = f"ours {__version__}, the host's {theirs}"
    if theirs.split(".")[:2] == __version__.split(".")[:2]:
        return Check("version", "ok", said)
    return Check("version", "warning", said, "use the same release on both sides")


def _clock(skew: float | None) -> Check:
    if skew is None:
        return Check("clock", "warning", "the host's answers bear no time")
    if abs(skew) <= SKEW_SECONDS:
        return Check("clock", "ok", "agrees with the host's")
    how = "ahead of" if skew > 0 else "behind"
    remedy = "let NTP set it: `timedatectl set-ntp true`; jobs and logs go by the host's clock"
    return Check("clock", "warning", f"{human_seconds(abs(skew))} {how} the host's", remedy)


def _health(health: dict[str, Any]) -> Check:
    checks = health.get("checks")
    rows = checks.items() if isinstance(checks, dict) else ()
    bad = [f"{k}: {v.get('message') or v.get('status')}" for k, v in rows if _not_ok(v)]
    if health.get("status") == "healthy" and not bad:
        return Check("health", "ok", "healthy")
    status = "warning" if health.get("status") == "healthy" else "failed"
    remedy = "on the host: `flashpods-admin doctor`, `journalctl -u flashpods-api`"
    return Check("health", status, "; ".join(bad) or str(health.get("status")), remedy)


def _not_ok(check: object) -> bool:
    return isinstance(check, dict) and check.get("status") in {"warning", "failing"}


def _capacity(raw: dict[str, Any]) -> Check:
    available = raw.get("available") or {}
    free = f"{available.get('cpus')} CPUs and {available.get('memory_gb')} GB free"
    if raw.get("draining"):
        remedy = "the host is being serviced: try later"
        return Check("capacity", "warning", f"{free}, but it takes no new jobs", remedy)
    if not available.get("cpus") or not available.get("memory_gb"):
        remedy = "new jobs wait or are refused until one ends: `flashpods ps`"
        return Check("capacity", "warning", f"{free}: full", remedy)
    return Check("capacity", "ok", free)


async def _daemon(client: FlashpodsClient, config: ClientConfig) -> Check:
    """Read the greeting of the host's rsync daemon."""
    try:
        upload = await client.create_upload()
    except ClientError as error:
        return Check("rsync daemon", "failed", str(error), "no upload can be reserved")
    where = "its URL"
    try:
        parts = urlsplit(push.target_url_of(config, upload))
        where = f"{parts.hostname}:{parts.port or 873}"
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 873)
            try:
                greeting = await reader.readline()
            finally:
                writer.close()
    except (ClientError, TimeoutError, OSError) as error:
        remedy = f"{TUNNEL}; on the host `systemctl status flashpods-rsyncd.socket`"
        said = str(error) or "does not answer"
        return Check("rsync daemon", "failed", f"{where}: {said}", remedy)
    finally:
        await client.delete_upload(upload.upload_id)
    if not greeting.startswith(b"@RSYNCD:"):
        return Check("rsync daemon", "failed", f"{where} is no rsync daemon", "see rsync_host")
    return Check("rsync daemon", "ok", where)
