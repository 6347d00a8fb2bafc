"""``./dev bench [--rounds N] [--only NAME] [--json]``."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from flashpods_dev.bench import (
    burst,
    download,
    helper,
    launch,
    listing,
    logtail,
    memory,
    push,
    reads,
    scrape,
)
from flashpods_dev.bench.report import Result, show
from flashpods_dev.machine import inside
from flashpods_dev.stack import MiniStack

NAMES = (
    *("launch", "tail", "reads", "list", "download", "memory", "burst", "helper", "push"),
    "scrape",
)
# What the measures need beyond a host's defaults: room for 100 jobs, and no rate limit in the way.
OVERRIDES = {
    "http": {"rate_per_second": 1e6, "rate_burst": 1_000_000},
    "development": {"pretend_cpus": 200, "pretend_memory_gb": 400},
}


def main() -> int:
    """Run the measures and print the scoreboard; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(
        prog="./dev bench",
        description="Measure ours and its peers in one run, and print the ratios with their goals.",
        epilog="examples: ./dev bench    ./dev bench --only launch --rounds 50 --json",
    )
    parser.add_argument("--rounds", type=int, default=20, help="of the short measures (default 20)")
    parser.add_argument("--only", choices=NAMES, action="append", help="repeatable")
    parser.add_argument("--json", action="store_true", help="the scoreboard as JSON")
    args = parser.parse_args()
    wanted = args.only or NAMES
    machine = inside()
    progress = Console(stderr=True)
    results: list[Result] = []
    scratch = Path(tempfile.mkdtemp(prefix="bench-", dir=machine.run_dir))
    scratch.chmod(0o711)
    try:
        with MiniStack(scratch / "stack", machine, overrides=OVERRIDES) as stack:
            measures = {
                "launch": lambda: launch.measure(stack, args.rounds),
                "tail": lambda: logtail.measure(scratch / "tail", args.rounds * 5),
                "reads": lambda: reads.measure(stack, 3),
                "list": lambda: listing.measure(scratch / "list", args.rounds * 10),
                "download": lambda: download.measure(stack, 5),
                "memory": lambda: memory.measure(stack),
                "burst": lambda: burst.measure(stack),
                "scrape": lambda: scrape.measure(stack, args.rounds * 5),
                "push": lambda: push.measure(stack, scratch),
                "helper": lambda: helper.measure(machine.checkout, args.rounds * 5),
            }
            for name in wanted:
                with progress.status(f"measuring {name}"):
                    results += measures[name]()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if args.json:
        print(json.dumps([r.row() for r in results], indent=2))
    else:
        show(results)
    return 0 if all(r.met for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
