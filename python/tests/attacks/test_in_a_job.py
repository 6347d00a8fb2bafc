# ruff: noqa: E501 - the attacks are data
"""Attack 8: what a job does to its own machine; only it may suffer. Its disks: test_disk_fill.py.

The memory, PID and CPU limits need cgroup v2 controllers. Where they are missing, as on this
machine, a bomb would be the machine's: what is tried then is bounded by the attacker itself, and
``./dev vm`` (checks/limits.py, checks/out_of_memory.py) proves the limits where they act.
"""

from __future__ import annotations

import asyncio
import time

import pytest
import support
from attacker import bystander, open_files
from scoring import Score
from support import Connected

from flashpods_dev.machine import Machine

ESCAPES = {
    "no capability": "grep -q 'CapEff:\t0000000000000000' /proc/self/status",
    "no new privileges": "grep -q 'NoNewPrivs:\t1' /proc/self/status",
    "seccomp filter": "grep -q 'Seccomp:\t2' /proc/self/status",
    "not root": "test $(id -u) -ne 0",
    "no mount": "! mount -t tmpfs x /mnt 2>/dev/null",
    "no power from a new user namespace": "! unshare -Urm sh -c 'mknod /dev/sda b 8 0 || mount -o remount,rw /work || echo 1 > /proc/sys/kernel/panic' 2>/dev/null",
    "no device": "! mknod /tmp/sda b 8 0 2>/dev/null",
    "no kernel log": "! dmesg 2>/dev/null | grep -q .",
    "no sysctl": "! sh -c 'echo 1 > /proc/sys/kernel/panic' 2>/dev/null",
    "no sysrq": "! sh -c 'echo h > /proc/sysrq-trigger' 2>/dev/null",
    "no write to cgroups": "! sh -c 'mkdir /sys/fs/cgroup/x' 2>/dev/null",
    "no other process": "test $(ls -d /proc/[0-9]* | wc -l) -lt 12",
    "no socket of the engine": "! find / -xdev -name 'podman*.sock' 2>/dev/null | grep -q .",
    "work is read-only": "! touch /work/x 2>/dev/null",
    "no realtime": "! chrt -f 1 true 2>/dev/null",
    "no lower niceness": 'had=$(nice); ! nice -n -5 sh -c "test \\$(nice) -lt $had" 2>/dev/null',
    "no core elsewhere": "! sh -c 'echo /tmp/c > /proc/sys/kernel/core_pattern' 2>/dev/null",
    "no clock": "! date -s 2030-01-01 2>/dev/null",
    "no reboot": "! reboot -f 2>/dev/null",
    "no ptrace of init": "! cat /proc/1/mem 2>/dev/null",
}


@pytest.mark.attack(8, "ways out of the container")
async def test_escapes(host: Connected, score: Score) -> None:
    script = "\n".join(
        f"if {c}; then echo 'held {n}'; else echo 'OPEN {n}'; fi" for n, c in ESCAPES.items()
    )
    row = await support.run(host.client, script)
    lines = support.texts(await support.output(host.client, row["id"]))
    for name in ESCAPES:
        with score.attempt():
            assert f"held {name}" in lines, [x for x in lines if "OPEN" in x]


BOMBS = {
    # Bounded by the attacker: 400 processes, 400 MB, 200 000 files.
    "processes": "for i in $(seq 400); do sleep 3 & done; wait",
    "memory": 'python3 -c "x = bytearray(400 << 20); [x.__setitem__(i, 1) for i in range(0, len(x), 4096)]"',
    "threads": 'python3 -c "import threading as t, time; [t.Thread(target=time.sleep, args=(2,)).start() for _ in range(800)]"',
    "descriptors": "python3 -c \"import os, time; [os.open('/dev/null', 0) for _ in range(900)]; time.sleep(1)\"",
    "processors": "for i in 1 2 3 4; do timeout 2 sh -c 'while :; do :; done' & done; wait",
}


@pytest.mark.attack(8, "bombs inside a job, bounded where no limit can act")
async def test_bombs(host: Connected, machine: Machine, score: Score) -> None:
    async with bystander(host) as seen:
        for name, command in BOMBS.items():
            with score.attempt():
                job_id = await support.submit(host.client, command)
                neighbour = await support.run(host.client, "echo fine")
                assert neighbour["status"] == "completed", (name, neighbour)
                row = await support.ended(host.client, job_id)
                assert row["status"] in {"completed", "failed"}, (name, row)
    with score.attempt():
        score.figure("others' p99", seen.p99, 1.0)
        assert seen.errors == 0
    if not machine.limits_enforced:
        score.note("memory, PID and CPU limits can't act here (no cgroup v2 controllers): ./dev vm")


@pytest.mark.attack(8, "a bomb is ended whole")
async def test_cancelled(host: Connected, score: Score) -> None:
    """Children that left their session and ignore SIGTERM go with their job."""
    command = "for i in $(seq 100); do setsid sh -c 'trap \"\" TERM HUP; while :; do sleep 1; done' & done; echo up; wait"
    job_id = await support.submit(host.client, command)
    await support.until(host.client, job_id, "running")
    cgroup = host.stack.cgroup_dir / "ctrs" / f"job_{job_id}"
    assert cgroup.exists()
    with score.attempt():
        await host.client.delete(f"/jobs/{job_id}")
        row = await support.ended(host.client, job_id)
        assert row["status"] == "cancelled", row
        await support.true_soon(
            lambda: (
                not cgroup.exists() or not any(p.read_text() for p in cgroup.rglob("cgroup.procs"))
            ),
            "no process of it is left",
        )


@pytest.mark.attack(8, "descriptors and processes of the API after many jobs")
async def test_nothing_leaks(host: Connected, score: Score) -> None:
    await support.run(host.client, "true")
    before = open_files(host.stack.api.pid)
    with score.attempt():
        for _ in range(3):
            await asyncio.gather(*(support.run(host.client, "exit 3") for _ in range(5)))
        pid, most = host.stack.api.pid, 12
        least = await fewest(pid, before + most)  # the last ones are still being tidied up
        score.figure("descriptors grown", max(0, least - before), most, "")


async def fewest(pid: int, enough: int) -> int:
    """Return the fewest open files that the process is seen with, within the time, until enough."""
    end, least = time.monotonic() + support.SECONDS, open_files(pid)
    while least > enough and time.monotonic() < end:
        await asyncio.sleep(0.05)
        least = min(least, open_files(pid))
    return least
