"""The capture on disk: kills, rotation, the cap, a full disk; with a stand-in for conmon."""

import asyncio
import errno
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flashpods.adapters.files import capture as capture_module
from flashpods.adapters.files import logs as logs_module
from flashpods.adapters.files.capture import GAP_LINE, Capture, capture_max_bytes, sweep
from flashpods.adapters.files.k8sfile import ParserState, flush, parse
from flashpods.adapters.files.logread import truncation_line
from flashpods.adapters.files.logs import FileLogStore

JOB = "0123456789abcdef"
MB = 1024**2


class Engine:
    """Writes as conmon does: O_APPEND, and a fresh file renamed over a full one."""

    def __init__(self, raw: Path, most: int) -> None:
        self.raw, self.most, self.size = raw, most, 0
        self.fd = os.open(raw, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._lines: list[bytes] = []
        self.rotations = 0

    def write(self, *lines: bytes) -> None:
        for line in lines:
            if self.size + len(line) > self.most:
                os.close(self.fd)
                tmp = self.raw.with_name("raw.tmp")
                self.fd = os.open(tmp, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
                tmp.rename(self.raw)
                self.size, self.rotations = 0, self.rotations + 1
            os.write(self.fd, line)
            self.size += len(line)
            self._lines.append(line)

    @property
    def written(self) -> bytes:
        return b"".join(self._lines)

    def close(self) -> None:
        os.close(self.fd)


@pytest.fixture
def engines() -> Iterator[Callable[[Path, int], Engine]]:
    made: list[Engine] = []

    def make(raw: Path, most: int) -> Engine:
        made.append(Engine(raw, most))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def raw(text: str, tag: str = "F", stream: str = "stdout", second: int = 26) -> bytes:
    return f"2026-11-24T09:31:{second:02}.123456789+00:00 {stream} {tag} {text}\n".encode()


def expected(stream: bytes, limit: int, own: bytes = b"") -> bytes:
    """What the log must hold, worked out in one go."""
    lines, state = parse(stream, ParserState()) if stream else ([], ParserState())
    log = bytearray(own)
    for line in [*lines, *flush(state)]:
        if len(log) + len(line) + 1 > limit:
            return bytes(log + truncation_line(limit))
        log += line + b"\n"
    return bytes(log)


def new(root: Path, limit: int = 50 * MB) -> Capture:
    (root / "logs").mkdir(exist_ok=True)
    (root / "capture").mkdir(exist_ok=True)
    return Capture(JOB, root / "logs" / f"{JOB}.log", root / "capture" / JOB, log_bytes=limit)


def finish(capture: Capture) -> bytes:
    while capture.step(final=True):
        pass
    capture.seal()
    assert not capture.directory.exists()
    return capture.log.read_bytes()


def output(count: int) -> list[bytes]:
    """Make raw lines with everything that may come: parts, both streams, odd bytes."""
    rng = random.Random(count)
    lines = []
    for n in range(count):
        second = n // 50 % 60
        stream = rng.choice(["stdout", "stderr"])
        lines.append(raw(f"{n} " + "x" * rng.randrange(100), "F", stream, second))
        if n % 7 == 0:
            lines.append(raw(f"{n} part ", "P", stream, second))
        if n % 501 == 0:
            lines.append(b"odd \xff\0\n")
    return [*lines, raw("no newline", "P")]


# ------------------------------------------------------------------ the engine's rotation


def test_one_raw_file_fills_a_log_even_with_empty_lines(
    tmp_path: Path, engines: Callable[[Path, int], Engine]
) -> None:
    limit = MB
    capture = new(tmp_path, limit)
    capture.prepare()
    engine = engines(capture.raw, capture_max_bytes(limit))
    while engine.rotations < 3:
        engine.write(raw(""))
    assert finish(new(tmp_path, limit)) == expected(engine.written, limit)


def test_rotation_while_we_follow_loses_nothing(
    tmp_path: Path, engines: Callable[[Path, int], Engine]
) -> None:
    capture = new(tmp_path)
    capture.prepare()
    capture.open()
    engine = engines(capture.raw, 2000)
    for line in output(2000):
        before = engine.rotations
        engine.write(line)
        if engine.rotations > before:
            capture.step()
            assert len(list((capture.directory / "kept").glob("[0-9]*"))) <= 2
    assert engine.rotations > 20
    assert finish(capture) == expected(engine.written, 50 * MB)


def test_one_rotation_while_we_are_down_is_followed_with_a_mark(
    tmp_path: Path, engines: Callable[[Path, int], Engine]
) -> None:
    capture = new(tmp_path)
    capture.prepare()
    engine = engines(capture.raw, 500)
    engine.write(*[raw(f"{n}") for n in range(15)])
    assert engine.rotations == 1
    text = finish(new(tmp_path)).decode()
    assert text.count(GAP_LINE.decode()) == 1
    assert text.startswith("[09:31:26.123] 0\n")
    assert text.endswith("[09:31:26.123] 14\n")


def test_a_log_that_can_not_be_written_holds_few_raw_files(
    tmp_path: Path, engines: Callable[[Path, int], Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = new(tmp_path)
    capture.prepare()
    engine = engines(capture.raw, 1000)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", _fail(errno.ENOSPC))
        for line in output(100):
            engine.write(line)
            with suppress(OSError):
                capture.step()
    assert engine.rotations > 5
    assert len(list((capture.directory / "kept").glob("[0-9]*"))) == 2
    engine.write(raw("end"))
    for _ in range(3):
        capture.step()
        engine.write(raw("end"))
    text = finish(capture)
    assert text.startswith(expected(b"".join(output(100)[:5]), MB))
    assert text.count(GAP_LINE) == 1


# ------------------------------------------------------------------ kills


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
    tmp_path: Path,
    engines: Callable[[Path, int], Engine],
) -> None:
    capture = new(tmp_path)
    capture.note(b"[09:00:00.000] own\n")
    capture.prepare()
    engine = engines(capture.raw, 10 * MB)
    engine.write(*output(100))
    capture.step()
    capture.checkpoint()
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


# ------------------------------------------------------------------ the store's own behaviour


def _fail(number: int) -> Callable[..., Any]:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


def store_in(root: Path, limit: int = 50 * MB) -> FileLogStore:
    return FileLogStore(root / "logs", root / "capture", log_bytes=limit)


async def settle(store: FileLogStore, job_id: str, size: int) -> None:
    async with asyncio.timeout(20):
        while True:
            page = await store.tail(job_id, 1)
            assert page is not None
            if page.total_bytes >= size:
                return
            await store.changed(job_id, page.total_bytes, 5)


async def test_directories_and_files_are_ours_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        store = store_in(tmp_path)
        path = store.capture_path(JOB)
    finally:
        os.umask(old)
    assert path == tmp_path / "capture" / JOB / "raw"
    for directory in (tmp_path / "logs", tmp_path / "capture", path.parent, path.parent / "kept"):
        assert directory.stat().st_mode & 0o777 == 0o750
    for file in (path, tmp_path / "logs" / f"{JOB}.log"):
        assert file.stat().st_mode & 0o777 == 0o640
    assert store.capture_max_bytes >= 50 * MB * 46 / 16 + 8192 + 46
    await store.close()


async def test_close_and_resume_in_another_store(
    tmp_path: Path, engines: Callable[[Path, int], Engine]
) -> None:
    first = store_in(tmp_path)
    await first.write(JOB, "own", at=datetime(2026, 11, 24, tzinfo=UTC))
    engine = engines(first.capture_path(JOB), 10 * MB)
    await first.follow(JOB)
    engine.write(*output(50))
    own = b"[00:00:00.000] own\n"
    await settle(first, JOB, len(own) + 100)
    waiting = asyncio.create_task(first.changed(JOB, 10**9, 60))
    await asyncio.sleep(0)
    await first.close()
    await asyncio.wait_for(waiting, 5)
    engine.write(*output(70))
    second = store_in(tmp_path)
    await second.follow(JOB)
    await second.follow(JOB)
    engine.write(raw("end"))
    await settle(second, JOB, len(own) + 1000)
    await second.drain(JOB)
    await second.close()
    log = (tmp_path / "logs" / f"{JOB}.log").read_bytes()
    assert log == expected(engine.written, 50 * MB, own)


async def test_a_flood_beyond_the_cap_keeps_the_disk_bounded(
    tmp_path: Path, engines: Callable[[Path, int], Engine]
) -> None:
    limit = 256 * 1024
    store = store_in(tmp_path, limit)
    engine = engines(store.capture_path(JOB), store.capture_max_bytes)
    await store.follow(JOB)
    flood = raw("y" * 70) * 500
    most = 0
    for _ in range(400):
        await asyncio.to_thread(engine.write, flood)
        most = max(most, *(size for _, size in await store.stored()))
    assert engine.rotations > 10
    assert most <= limit * 1.1 + 3 * store.capture_max_bytes
    await settle(store, JOB, limit - 100)
    page = await store.tail(JOB, 1)
    assert page is not None
    assert page.truncated
    assert page.output == "[..] [TRUNCATED - log exceeded 0.25 MB limit]\n"
    engine.write(flood)
    async with asyncio.timeout(30):
        while dict(await store.stored())[JOB] > limit + MB + store.capture_max_bytes // 8:
            await store.changed(JOB, page.total_bytes, 0.05)
            engine.write(raw("more"))
    assert [k.name for k in (tmp_path / "capture" / JOB / "kept").glob("[0-9]*")] == []
    await store.close()
    again = store_in(tmp_path, limit)
    engine.write(flood)
    await again.follow(JOB)
    await again.drain(JOB)
    assert await again.tail(JOB, 1) == page
    await again.close()


async def test_idle_jobs_cost_nothing_and_a_flood_few_passes(
    tmp_path: Path, engines: Callable[[Path, int], Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[str] = []
    real = Capture.step

    def step(self: Capture, *, final: bool = False) -> bool:
        passes.append(self.job_id)
        return real(self, final=final)

    monkeypatch.setattr(Capture, "step", step)
    store = store_in(tmp_path)
    jobs = [f"{n:016x}" for n in range(20)]
    for job in jobs:
        engines(store.capture_path(job), 10 * MB)
        await store.follow(job)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(20):  # until the first passes are over; then for good
        quiet = False
        while not quiet:
            passes.clear()
            await asyncio.wait([loop.create_future()], timeout=0.3)
            quiet = not passes
    engine, began = engines(store.capture_path(jobs[3]), 10 * MB), loop.time()
    while loop.time() - began < 0.5:
        await asyncio.to_thread(engine.write, raw("x"))
    assert set(passes) == {jobs[3]}
    assert 2 <= len(passes) <= (loop.time() - began) / logs_module.PASS_SECONDS + 2
    await store.drain(jobs[3])
    log = (tmp_path / "logs" / f"{jobs[3]}.log").read_bytes()
    assert log == expected(engine.written, 50 * MB)
    await store.close()


async def test_without_inotify_it_still_follows(
    tmp_path: Path, engines: Callable[[Path, int], Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs_module, "Inotify", _fail(errno.EMFILE))
    monkeypatch.setattr(logs_module, "UNWATCHED_SECONDS", 0.02)
    store = store_in(tmp_path)
    engine = engines(store.capture_path(JOB), MB)
    await store.follow(JOB)
    engine.write(raw("x"))
    await settle(store, JOB, 17)
    await store.close()


async def test_a_full_disk_stalls_the_capture_and_loses_nothing(
    tmp_path: Path, engines: Callable[[Path, int], Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs_module, "RETRY_SECONDS", (0.01, 0.02))
    store = store_in(tmp_path)
    engine = engines(store.capture_path(JOB), MB)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", _fail(errno.ENOSPC))
        await store.follow(JOB)
        engine.write(raw("one"))
        await store.changed(JOB, 0, 0.1)
        page = await store.tail(JOB, 1)
        assert page is not None
        assert page.total_bytes == 0
    await settle(store, JOB, 19)
    engine.write(raw("two", "P"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", _fail(errno.EIO))
        for _ in range(2):
            with pytest.raises(OSError, match=os.strerror(errno.EIO)) as caught:
                await store.drain(JOB)
            assert caught.value.errno == errno.EIO
    await store.drain(JOB)
    log = (tmp_path / "logs" / f"{JOB}.log").read_bytes()
    assert log == b"[09:31:26.123] one\n[09:31:26.123] two\n"
    await store.close()


async def test_a_cancelled_drain_can_be_repeated(
    tmp_path: Path, engines: Callable[[Path, int], Engine]
) -> None:
    store = store_in(tmp_path)
    engine = engines(store.capture_path(JOB), 50 * MB)
    await store.follow(JOB)
    await asyncio.to_thread(engine.write, *output(20_000))
    drain = asyncio.create_task(store.drain(JOB))
    await store.changed(JOB, 0, 5)
    drain.cancel()
    with suppress(asyncio.CancelledError):
        await drain
    await store.follow(JOB)
    await store.drain(JOB)
    log = (tmp_path / "logs" / f"{JOB}.log").read_bytes()
    assert log == expected(engine.written, 50 * MB)
    await store.close()


async def test_a_reader_sees_whole_lines_only_and_nothing_moves_on_resume(tmp_path: Path) -> None:
    log = tmp_path / "logs" / f"{JOB}.log"
    store = store_in(tmp_path)
    path = store.capture_path(JOB)
    path.write_bytes(raw("one") + raw("two"))
    log.write_bytes(b"[09:31:26.123] one\n[09:31")  # a kill in the middle of a write
    (path.parent / "kept" / "origin").write_text("0")
    page = await store.tail(JOB, 5)
    assert page is not None
    assert page.output == "[09:31:26.123] one\n"
    await store.changed(JOB, 0, 60)
    await store.follow(JOB)
    await settle(store, JOB, 38)
    assert log.read_bytes() == b"[09:31:26.123] one\n[09:31:26.123] two\n"
    await store.close()
