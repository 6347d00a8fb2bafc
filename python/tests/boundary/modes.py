"""Places that a process of the engine's user can have: its own namespace, or the host's.

Each is a context manager that gives a :class:`Prober` in it. The helpers, slirp4netns and pasta,
are the real ones, started as the engine starts them: as its user, in the host's namespace.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from netlab import HERE, WEB4, WEB6, Lab, Prober, as_user

from flashpods_dev.netns import SECONDS, Process

PROBE = [sys.executable, str(HERE / "probe.py")]
# Without duplicate address detection, as Podman does: addresses are usable at once.
OWN_NET = (
    "echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad; ip link set lo up; "
    'echo unshared; read -r go; exec "$@"'
)


@contextmanager
def in_host(lab: Lab, uid: int) -> Iterator[Prober]:
    """In the host's own namespace, as with ``--network=host`` or after an escape."""
    process = Process([*lab.host.enter, *as_user(uid, uid), *PROBE])
    try:
        yield Prober(process)
    finally:
        process.end()


@contextmanager
def slirp4netns(lab: Lab, *options: str) -> Iterator[Prober]:
    """Behind slirp4netns."""
    with slirp_process(lab, PROBE, *options) as process:
        assert process.line() == "ready"
        yield connected(Prober(process))


@contextmanager
def slirp_process(lab: Lab, command: Sequence[str], *options: str) -> Iterator[Process]:
    """A command of one's own behind slirp4netns, just started."""
    unshare = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", OWN_NET, "sh"]
    process = Process([*lab.host.enter, *as_user(), *unshare, *command], ready="unshared")
    here, there = os.pipe()
    argv = ["slirp4netns", "--configure", "--mtu=65520", "--enable-ipv6", f"--ready-fd={there}"]
    helper = subprocess.Popen(
        [*lab.host.enter, *as_user(), *argv, *options, str(process.pid), "tap0"],
        pass_fds=[there],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(there)
    try:
        assert select.select([here], [], [], SECONDS)[0], "slirp4netns is not ready"
        assert os.read(here, 1) == b"1", "slirp4netns ended"
        process.tell("go")
        yield process
    finally:
        os.close(here)
        process.end()
        helper.kill()
        helper.wait(SECONDS)


@contextmanager
def pasta(lab: Lab, *options: str) -> Iterator[Prober]:
    """Behind pasta, which gives its namespace the host's own address."""
    argv = ["pasta", "--foreground", "--quiet", "--config-net", *options, "--", *PROBE]
    process = Process([*lab.host.enter, *as_user(), *argv], stderr=subprocess.DEVNULL)
    try:
        yield connected(Prober(process))
    finally:
        process.end()


def connected(prober: Prober) -> Prober:
    """Return when both families have a route, within the time."""
    for address in (WEB4, WEB6):
        for _ in range(100):
            if prober.one(address, 80, seconds=1) not in {"none", "silent", "unreachable"}:
                break
        else:
            raise AssertionError(f"no way to {address}")
    return prober
