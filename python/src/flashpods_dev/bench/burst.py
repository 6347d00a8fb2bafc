"""A hundred POST /jobs at once, until all are running, beside as many raw REST create+start."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from flashpods_dev.bench.client import Api
from flashpods_dev.bench.report import Result, p50
from flashpods_dev.bench.rest import RawPodman
from flashpods_dev.stack import MiniStack

COUNT = 100
CLIENTS = 20
COMMAND = "sleep 600"


def measure(stack: MiniStack, count: int = COUNT, rounds: int = 1) -> list[Result]:
    """Take ours, then theirs, on an engine that holds no other container.

    The peer runs as many calls at once as we launch containers at once (``podman.launch_slots``):
    more only queue on Podman's storage lock. Its creates take turns as ours do, because two at once
    with keep-id fail, or crash Podman's service.
    """
    posts: list[float] = []
    mine = theirs = 0.0
    # Ours, theirs, theirs, ours: a machine that gets slower meanwhile favours nobody.
    for ours in (True, False, False, True) * rounds:
        if ours:
            more, seconds = _ours(stack, count)
            posts += more
            mine += seconds
        else:
            theirs += _raw(stack, count)
    posts.sort()
    p99 = posts[int(0.99 * (len(posts) - 1))]
    return [
        Result(
            name=f"burst of {count} posts, to running",
            unit="jobs/s",
            ours=2 * rounds * count / mine,
            peer_name="REST create+start",
            peer=2 * rounds * count / theirs,
            goal=0.9,
            at_most=False,
            note=f"the posts themselves: p50 {p50(posts) * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms",
        )
    ]


def _ours(stack: MiniStack, count: int) -> tuple[list[float], float]:
    """Return the seconds of each post, and of all until the last job runs."""
    apis = [Api(stack) for _ in range(CLIENTS)]

    def some(number: int) -> list[tuple[str, float]]:
        found = []
        for _ in range(number, count, CLIENTS):
            began = time.perf_counter()
            job_id = apis[number].run(COMMAND)
            found.append((job_id, time.perf_counter() - began))
        return found

    began = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        posted = [one for some_ in pool.map(some, range(CLIENTS)) for one in some_]
    for job_id, _ in posted:
        row = apis[0].until(job_id, "running")
        if row["status"] != "running":
            raise RuntimeError(f"the job did not run: {row}")
    taken = time.perf_counter() - began
    for job_id, _ in posted:
        apis[0].call("DELETE", f"/jobs/{job_id}")
    for job_id, _ in posted:
        apis[0].until(job_id)
    for api in apis:
        api.close()
    return [seconds for _, seconds in posted], taken


def _raw(stack: MiniStack, count: int) -> float:
    """Return the seconds until the last container runs."""
    scratch = stack.layout.engine / "home"
    mounts = [
        {"type": "bind", "source": str(scratch), "destination": target, "options": ["rbind"]}
        for target in ("/work", "/artifacts")
    ]
    slots = 2 * (os.cpu_count() or 1)
    engines = [
        RawPodman(stack.layout.socket, image=stack.info.image, cgroup_parent=stack.cgroup_parent)
        for _ in range(slots)
    ]

    turn = threading.Lock()

    def some(slot: int) -> None:
        for number in range(slot, count, slots):
            name = f"burst_{number}"
            with turn:
                engines[slot].create(name, ["/bin/sh", "-c", COMMAND], mounts)
            engines[slot].start(name)

    began = time.perf_counter()
    with ThreadPoolExecutor(slots) as pool:
        list(pool.map(some, range(slots)))
    taken = time.perf_counter() - began
    for number in range(count):
        engines[0].remove(f"burst_{number}")
    for engine in engines:
        engine.close()
    return taken
