"""The inner half of ./dev: set up the namespace, then run one command in it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

from flashpods_dev import accounts, cgroups, commands, expose, userns
from flashpods_dev.machine import CGROUP_ROOT, Machine, StackError
from flashpods_dev.report import say

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> None:
    """Run ``PLAN COMMAND [ARGUMENT...]``."""
    plan = json.loads(sys.argv[1])
    for number in STOPPING:
        signal.signal(number, _interrupt)
    try:
        machine = _enter(plan, _paths(sys.argv[2:]))
        code = commands.run(machine, sys.argv[2:])
    except StackError as e:
        print(f"./dev: {e}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    """Stop once: a ctrl-C comes from the terminal, from PID 1 and from the outer half."""
    for number in STOPPING:
        signal.signal(number, lambda *_: None)  # unlike SIG_IGN, children don't inherit it
    raise KeyboardInterrupt


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise StackError(f"mount {' '.join(arguments)}: {done.stderr.strip()}; root is needed")


def _enter(plan: dict[str, str], given: list[Path]) -> Machine:
    """Turn a fresh mount and pid namespace into the stack's machine."""
    checkout, scratch = Path(plan["checkout"]), Path(plan["run_dir"])
    needed = [*_needed(checkout), Path(sys.prefix), Path(sys.base_prefix), *given]
    expose.expose(needed)
    os.chdir(checkout)
    volatiles = expose.unused_directory(needed)
    _mount("-t", "tmpfs", "-o", "mode=0755", "flashpods-dev", str(volatiles))
    cgroup = plan["cgroup"]
    parent = CGROUP_ROOT / str(Path(cgroup).parent).lstrip("/")
    found = cgroups.inspect(parent)
    if found.private_mount:
        subprocess.run(["umount", "--lazy", str(CGROUP_ROOT)], check=False)
        _mount("-t", "cgroup2", "none", str(CGROUP_ROOT))
    limits = found.limits and cgroups.enable(parent, found.to_enable)
    if limits and found.to_enable:  # systemd's own way leaves them on as well
        say(f"switched on the cgroup controllers {', '.join(sorted(found.to_enable))} in {parent}")
    ours = CGROUP_ROOT / cgroup.lstrip("/")
    try:
        (ours / "init").mkdir(parents=True)
        (ours / "init" / "cgroup.procs").write_text(str(os.getpid()))
    except OSError as e:
        raise StackError(f"cgroup v2 is not writable here ({e}): run on a host or a VM") from e
    limits = limits and cgroups.enable(ours, cgroups.NEEDED)
    if not limits:
        say(f"limits are not enforced on this machine: {found.why}")
    accounts.install(volatiles / "etc", scratch / "home")
    userns.check(scratch)
    _tun(scratch)
    _mount("--make-rshared", "/")  # rootless Podman wants its mounts to propagate
    machine = Machine(
        checkout=checkout,
        run_dir=scratch,
        volatiles=volatiles,
        cgroup=cgroup,
        limits_enforced=limits,
    )
    machine.export()
    return machine


def _paths(arguments: list[str]) -> list[Path]:
    """Return the existing paths among a command's arguments: its state directory, test files."""
    words = [word.rpartition("=")[2] for word in arguments]
    return [Path(word).resolve() for word in words if "/" in word and Path(word).exists()]


def _needed(checkout: Path) -> list[Path]:
    """Return the checkout, or its entries when the directory itself is closed to others."""
    return [checkout] if checkout.stat().st_mode & 0o005 == 0o005 else sorted(checkout.iterdir())


def _tun(scratch: Path) -> None:
    """Have a /dev/net/tun that the user may open, without changing the machine's."""
    device = Path("/dev/net/tun")
    if not device.exists():
        raise StackError("/dev/net/tun is missing: modprobe tun (slirp4netns needs it)")
    if device.stat().st_mode & 0o006 == 0o006:
        return
    ours = scratch / "tun"
    os.mknod(ours, 0o020666, os.makedev(10, 200))
    ours.chmod(0o666)
    _mount("--bind", str(ours), str(device))


if __name__ == "__main__":
    main()
