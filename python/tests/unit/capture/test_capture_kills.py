"""The capture is killed at any moment and goes on: nothing is lost, nothing is there twice."""

import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from capture_rig import MB, Engine, expected, finish, new, output, raw

from flashpods.adapters.files import capture as capture_module
from flashpods.adapters.files.capture import Capture, capture_max_bytes, sweep


class Crash(BaseException):
    """The process dies here."""


CALLS = [
    (os, "pwrite"),
    (os, "link"),
    (os, "fsync"),
    (os, "ftruncate"),
    (Path, "replace"),
    (Path, "rename"),
    (Path, "unlink"),
    (Path, "mkdir"),
    (Path, "touch"),
]


class Crasher:
    """Dies at the n-th change to the disk: before it, after it, or, for a write, in its middle."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int, when: str) -> None:
        self.at, self.when, self.count = at, when, 0
        for owner, name in CALLS:
            patch.setattr(owner, name, self._wrap(getattr(owner, name), name))

    def _wrap(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            if self.count != self.at:
                return real(*args, **kwargs)
            if self.when == "during" and name == "pwrite":
                fd, data, offset = args
                real(fd, data[: len(data) // 2], offset)
            elif self.when == "after":
                real(*args, **kwargs)
            raise Crash

        return call


def crashing_run(capture: Capture, limit: int, pieces: list[list[bytes]]) -> bytes:
    """Run a job from preparation to its end; a crash leaves whatever is there, the job goes on."""
    engine, rest = None, iter(pieces)
    try:
        capture.prepare()
        engine = Engine(capture.raw, capture_max_bytes(limit))
        for piece in rest:
            engine.write(*piece)
            capture.step()
        finish(capture)
    except Crash:
        if engine:
            for piece in rest:
                engine.write(*piece)
    finally:
        if engine:
            engine.close()
    return engine.written if engine else b""


@pytest.mark.parametrize("when", ["before", "during", "after"])
@pytest.mark.parametrize("limit", [20_000, MB], ids=["capped", "whole"])
def test_a_crash_at_any_change_to_the_disk_costs_nothing(
    tmp_path: Path, when: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture_module, "CHECKPOINT_SECONDS", 0.0)
    lines = output(600)
    pieces = [lines[n : n + 60] for n in range(0, len(lines), 60)]
    for at in range(1, 1000):
        root = tmp_path / str(at)
        root.mkdir()
        capture = new(root, limit)
        with monkeypatch.context() as patch:
            crasher = Crasher(patch, at, when)
            written = crashing_run(capture, limit, pieces)
        sweep(root / "capture")
        again = new(root, limit)
        seen = again.log.read_bytes() if again.log.exists() else b""
        again.open()
        assert again.finished or again.visible >= seen.rfind(b"\n") + 1
        if not again.finished:
            finish(again)
        if written:
            assert again.log.read_bytes() == expected(written, limit), at
        if crasher.count < at:
            break
    assert at > 20


NURSERY = """
import asyncio, os, signal, sys, time
from pathlib import Path
from flashpods.adapters.files import capture
from flashpods.adapters.files.logs import FileLogStore
capture.CHECKPOINT_SECONDS = 0.01
logs, work, limit = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])

async def run(verb):
    store = FileLogStore(logs, work, log_bytes=limit)
    await getattr(store, verb)("0123456789abcdef")
    if verb == "drain":
        await store.close()
    else:
        await asyncio.Event().wait()

for order in sys.stdin:
    verb, seconds = order.split()
    pid = os.fork()
    if pid == 0:
        asyncio.run(run(verb))
        os._exit(0)
    if seconds != "-":
        time.sleep(float(seconds))
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    print(status, flush=True)
"""


@pytest.mark.parametrize("limit", [600_000, 50 * MB], ids=["capped", "whole"])
def test_sigkill_at_random_moments_loses_and_doubles_nothing(
    tmp_path: Path, limit: int, engines: Callable[[Path, int], Engine]
) -> None:
    rng = random.Random(7)
    capture = new(tmp_path, limit)
    capture.note(b"[09:00:00.000] pulling\n")
    capture.prepare()
    engine = engines(capture.raw, capture_max_bytes(limit))
    lines = output(60_000)
    rounds = 25
    share = len(lines) // rounds + 1
    arguments = [str(tmp_path / "logs"), str(tmp_path / "capture"), str(limit)]
    kills = 0
    with subprocess.Popen(
        [sys.executable, "-c", NURSERY, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as nursery:
        orders, answers = nursery.stdin, nursery.stdout
        assert orders is not None
        assert answers is not None

        def order(verb: str, seconds: str) -> int:
            orders.write(f"{verb} {seconds}\n")
            orders.flush()
            return int(answers.readline())

        for n in range(rounds):
            some = lines[n * share : (n + 1) * share]
            writer = threading.Thread(target=engine.write, args=some)
            writer.start()
            kills += order("follow", f"{rng.uniform(0.005, 0.08):.4f}") == 9
            writer.join()
        for seconds in (0.002, 0.004, 0.006, 0.008, 0.01, 0.02, 0.03):
            kills += order("drain", f"{seconds}") == 9
        assert order("drain", "-") == 0
        assert order("drain", "-") == 0
        orders.close()
    assert kills >= rounds
    own = b"[09:00:00.000] pulling\n"
    assert capture.log.read_bytes() == expected(engine.written, limit, own)
    assert list((tmp_path / "capture").iterdir()) == []


def test_a_checkpoint_is_used_and_an_unreadable_one_is_not(
    tmp_path: Path, engines: Callable[[Path, int], Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture_module, "CHECKPOINT_SECONDS", 0.0)
    capture = new(tmp_path)
    capture.note(b"[09:00:00.000] own\n")
    capture.prepare()
    engine = engines(capture.raw, 10 * MB)
    engine.write(*output(100))
    capture.step()
    file = capture.directory / "kept" / "checkpoint"
    place = json.loads(file.read_bytes())
    assert place["offset"] == len(engine.written)
    assert [p[0] for p in place["pending"]]
    engine.write(raw("later"))
    for damage in (b"", b"{}", b"[]", b"\0\0", json.dumps({**place, "log": 10**9}).encode()):
        file.write_bytes(damage)
        again = new(tmp_path)
        again.step()
    assert finish(again) == expected(engine.written, 50 * MB, b"[09:00:00.000] own\n")
