"""A scrape of the API's metrics, and what it does to requests meanwhile."""

from __future__ import annotations

import http.client
import threading
import time

from flashpods_dev.bench.client import Api
from flashpods_dev.bench.report import Result, p50
from flashpods_dev.stack import MiniStack

GOAL_MS = 5.0
READS = 400


def measure(stack: MiniStack, rounds: int) -> list[Result]:
    """Scrape one by one, then read jobs alone and beside a scraper that never pauses."""
    api = Api(stack)
    job_id = api.run("true")
    api.until(job_id)
    times, text = [], b""
    for _ in range(rounds):
        begin = time.perf_counter()
        text = scrape(stack)
        times.append((time.perf_counter() - begin) * 1000)
    series = sum(not line.startswith(b"#") for line in text.splitlines())
    alone = _reads(api, job_id)
    over = threading.Event()
    scraper = threading.Thread(target=_scrape_until, args=(stack, over))
    scraper.start()
    try:
        beside = _reads(api, job_id)
    finally:
        over.set()
        scraper.join()
    return [
        Result(
            name="a scrape",
            unit="ms",
            ours=p50(times),
            peer_name="its budget",
            peer=GOAL_MS,
            goal=1.0,
            at_most=True,
            note=f"{series} series, connection included, p50 of {rounds}",
        ),
        Result(
            name="GET /jobs/{id} beside scrapes without pause",
            unit="ms",
            ours=beside,
            peer_name="the same alone, and a scrape's time",
            peer=alone + p50(times),
            goal=1.0,
            at_most=True,
            note=f"p99 of {READS}",
        ),
    ]


def scrape(stack: MiniStack) -> bytes:
    """Return the text of one scrape."""
    connection = http.client.HTTPConnection("127.0.0.1", stack.metrics_port, timeout=30)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read()
    finally:
        connection.close()


def _scrape_until(stack: MiniStack, over: threading.Event) -> None:
    while not over.is_set():
        scrape(stack)


def _reads(api: Api, job_id: str) -> float:
    """Return the 99th percentile in ms."""
    times = []
    for _ in range(READS):
        begin = time.perf_counter()
        api.call("GET", f"/jobs/{job_id}")
        times.append((time.perf_counter() - begin) * 1000)
    return sorted(times)[int(READS * 0.99)]
