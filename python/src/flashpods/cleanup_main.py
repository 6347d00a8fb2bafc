"""``flashpods-cleanup``: the reaper's process, for ever or ``--once``."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from flashpods.allocator import keep_small
from flashpods.bootstrap import Adapters, build_cleaner
from flashpods.config import Settings, load
from flashpods.config_base import ConfigError
from flashpods.jobs.cleanup import Report
from flashpods.logs_setup import configure_logging
from flashpods.telemetry.status import CleanupLedger, cleanup_file

EX_CONFIG = 78  # sysexits.h


async def clean(settings: Settings, *, once: bool, job: str | None = None) -> int:
    """Run the cleaner until SIGTERM or SIGINT, or for one round, or for one ended job.

    Returns:
        The exit code: 1 when a single round left failures, or the job has not ended, else 0.
    """
    adapters = await Adapters.open(settings)
    try:
        cleaner = build_cleaner(settings, adapters, told=_ledger(settings, adapters))
        if job is not None:
            return 0 if await cleaner.finish(job) else 1
        if once:
            return 1 if (await cleaner.run_once()).failed else 0
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await cleaner.run(stop)
        return 0
    finally:
        await adapters.close()


def _ledger(settings: Settings, adapters: Adapters) -> Callable[[Report, float], None]:
    """Return what leaves word of each round, for the API's metrics."""
    ledger = CleanupLedger(cleanup_file(settings))
    return lambda report, seconds: ledger.round(report, at=adapters.clock.now(), seconds=seconds)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        prog="flashpods-cleanup",
        description="Delete what retention and quota no longer allow; safe at any time.",
        epilog="example: flashpods-cleanup --config /etc/flashpods/settings.json --once",
    )
    parser.add_argument("--config", type=Path, help="settings file (JSON)")
    parser.add_argument("--once", action="store_true", help="one round, then exit")
    parser.add_argument(
        "--job", metavar="ID", help="delete this ended job's log and artifacts now, then exit"
    )
    args = parser.parse_args(arguments)
    configure_logging()
    keep_small()
    try:
        sys.exit(asyncio.run(clean(load(args.config), once=args.once, job=args.job)))
    except ConfigError as e:
        print(f"flashpods-cleanup: {e}", file=sys.stderr)  # noqa: T201 - the one line of a refusal
        sys.exit(EX_CONFIG)


if __name__ == "__main__":
    main()
