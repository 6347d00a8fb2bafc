"""Called by ./dev: ``python -m flashpods_dev.vm CHECKOUT [--run COMMAND | PYTEST ARGUMENT…]``."""

from __future__ import annotations

import fcntl
import platform
import shlex
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import NoReturn

from flashpods_dev.machine import StackError
from flashpods_dev.report import Steps, say
from flashpods_dev.vm import build, qemu

SECONDS = 600  # of one run, without building the image
# The plugins of other tiers take longer to import under emulation than the experiments' set-up.
PYTEST = (
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 FLASHPODS_VM=1 PYTHONUNBUFFERED=1 "
    "../.dev/venv/bin/python -m pytest -p pytest_asyncio.plugin -p pytest_timeout "
    "-p no:cacheprovider -v --color=no --tb=short"
)


def script(arguments: list[str]) -> str:
    """Return the shell script that the guest runs in its checkout."""
    if arguments[:1] == ["--run"]:
        return " ".join(arguments[1:]) + "\n"
    return f"cd python && {PYTEST} {shlex.join(arguments or ['tests/vm'])}\n"


def main() -> int:
    """Build what is missing, run the guest once, return the exit code of its command."""
    checkout, arguments = Path(sys.argv[1]), sys.argv[2:]
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        return _run(checkout, arguments)
    except StackError as e:
        say(str(e))
        return 1
    except KeyboardInterrupt:
        return 130


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _run(checkout: Path, arguments: list[str]) -> int:
    if platform.machine() != "x86_64":
        raise StackError(f"the guest is an amd64 machine, this one is {platform.machine()}")
    cache = checkout / ".dev" / "vm"
    cache.mkdir(parents=True, exist_ok=True)
    steps = Steps()
    with (cache / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("another ./dev vm runs; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for stale in cache.glob("run-*"):  # of one that was killed
            shutil.rmtree(stale)
        image = build.ensure(checkout)
        scratch = Path(tempfile.mkdtemp(prefix="run-", dir=cache))
        try:
            payload, console = scratch / "payload.tar", cache / "console.log"
            build.payload(image, checkout, script(arguments), payload)
            accel = qemu.acceleration()
            console.unlink(missing_ok=True)
            steps.done("payload")
            say(
                f"booting Debian {build.SUITE} in QEMU ({accel[1].split(',')[0]}), 2 CPUs, "
                f"{qemu.MEMORY_MB} MB, at most {SECONDS} s; its console: {console}"
            )
            command = qemu.arguments(image, payload, console, accel)
            code = qemu.run(command, seconds=SECONDS, console=console, scratch=scratch)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    steps.done("guest")
    say(f"vm: {'all held' if code == 0 else f'failed ({code})'}")
    return code


if __name__ == "__main__":
    sys.exit(main())
