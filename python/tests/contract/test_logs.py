"""What every LogStore does, on files and in memory."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flashpods.adapters.files.logs import FileLogStore
from flashpods.ports import LogStore, LogTail
from flashpods.testing.logs import MemoryLogStore

JOB = "0123456789abcdef"
AT = datetime(2026, 11, 24, 9, 31, 25, 7000, tzinfo=UTC)
LIMIT = 64 * 1024
MARKER = "[..] [TRUNCATED - log exceeded 0.0625 MB limit]\n"


def raw(text: str | bytes, tag: str = "F", stream: str = "stdout") -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return f"2026-11-24T09:31:26.123456789+00:00 {stream} {tag} ".encode() + data + b"\n"


def line(text: str) -> str:
    return f"[09:31:26.123] {text}\n"


@dataclass
class Rig:
    """A store and the engine that writes for it."""

    store: LogStore
    feed: Callable[[str, bytes], Awaitable[None]]

    async def text(self, job_id: str = JOB) -> str:
        page = await self.store.read(job_id, 0, 1 << 30)
        assert page is not None
        return page.output

    async def until(self, size: int, job_id: str = JOB) -> LogTail:
        """Wait, bounded, for a log of that many bytes."""
        async with asyncio.timeout(30):
            while True:
                page = await self.store.tail(job_id, 10)
                if page is not None and page.total_bytes >= size:
                    return page
                at = page.total_bytes if page else 0
                await self.store.changed(job_id, at, 5)


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as f:
        f.write(data)


@pytest.fixture(params=["files", "memory"])
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    if request.param == "memory":
        memory = MemoryLogStore(log_bytes=LIMIT)
        yield Rig(memory, memory.feed)
        await memory.close()
        return
    store = FileLogStore(tmp_path / "logs", tmp_path / "capture", log_bytes=LIMIT)

    async def feed(job_id: str, data: bytes) -> None:
        append(store.capture_path(job_id), data)

    yield Rig(store, feed)
    await store.close()


async def test_own_lines_come_first_then_the_containers(rig: Rig) -> None:
    await rig.store.write(JOB, "pulling a", at=AT)
    await rig.store.write(
        JOB, "pulled a\ntwo lines", at=AT.astimezone(timezone(timedelta(hours=5)))
    )
    rig.store.capture_path(JOB)
    await rig.feed(JOB, raw("hello"))
    await rig.store.follow(JOB)
    await rig.feed(JOB, raw("oops", stream="stderr"))
    await rig.store.drain(JOB)
    own = [f"[09:31:25.007] {t}\n" for t in ("pulling a", "pulled a", "two lines")]
    assert await rig.text() == "".join(own) + line("hello") + line("oops")


async def test_an_own_line_after_the_container_began_is_dropped(rig: Rig) -> None:
    rig.store.capture_path(JOB)
    await rig.store.follow(JOB)
    await rig.feed(JOB, raw("hello"))
    await rig.until(len(line("hello")))
    await rig.store.write(JOB, "late", at=AT)
    await rig.store.drain(JOB)
    await rig.store.write(JOB, "later", at=AT)
    assert await rig.text() == line("hello")


async def test_without_a_log_there_is_none(rig: Rig) -> None:
    assert await rig.store.tail(JOB, 1) is None
    assert await rig.store.read(JOB, 0, 1) is None
    assert await rig.store.stored() == []
    await rig.store.delete(JOB)
    await rig.store.drain(JOB)
    assert await rig.store.tail(JOB, 1) is None


async def test_a_prepared_log_is_empty(rig: Rig) -> None:
    rig.store.capture_path(JOB)
    page = LogTail(output="", lines=0, truncated=False, total_bytes=0, offset=0, next_offset=0)
    assert await rig.store.tail(JOB, 100) == page
    assert await rig.store.read(JOB, 0, 100) == page


@pytest.mark.parametrize("job_id", ["", "a/b", "..", ".gone-x", "a.b", "job1", "0123456789ABCDEF"])
async def test_a_bad_job_id_is_refused(rig: Rig, job_id: str) -> None:
    with pytest.raises(ValueError, match="job id"):
        rig.store.capture_path(job_id)
    with pytest.raises(ValueError, match="job id"):
        await rig.store.write(job_id, "x", at=AT)


async def test_drain_takes_what_was_never_followed_and_repeats(rig: Rig) -> None:
    rig.store.capture_path(JOB)
    await rig.feed(JOB, raw("one") + raw("no newline", "P"))
    for _ in range(2):
        await rig.store.drain(JOB)
        await rig.store.follow(JOB)
        assert await rig.text() == line("one") + line("no newline")


async def test_what_is_not_drained_is_listed(rig: Rig) -> None:
    other = "fedcba9876543210"
    for job_id in (JOB, other):
        await rig.feed(job_id, raw("one"))
    await rig.store.follow(other)
    assert await rig.store.undrained() == [JOB, other]
    await rig.store.drain(JOB, tries=1)
    assert await rig.store.undrained() == [other]
    assert await rig.text() == line("one")


async def test_partial_lines_wait_for_their_end(rig: Rig) -> None:
    rig.store.capture_path(JOB)
    await rig.store.follow(JOB)
    await rig.feed(JOB, raw("par", "P") + raw("other", stream="stderr"))
    page = await rig.until(len(line("other")))
    assert page.output == line("other")
    await rig.feed(JOB, raw("tial"))
    page = await rig.until(len(line("other") + line("partial")))
    assert page.output == line("other") + line("partial")


async def test_invalid_utf8_is_replaced_and_offsets_stay_the_files(rig: Rig) -> None:
    rig.store.capture_path(JOB)
    await rig.feed(JOB, raw(b"\xff\xfe|\xc3\xa4\x00\r|\x1b[1m") + raw("next"))
    await rig.store.drain(JOB)
    page = await rig.store.read(JOB, 0, 20)
    assert page is not None
    assert page.output == line("��|ä\0\r|\x1b[1m")
    after = await rig.store.read(JOB, page.next_offset, 20)
    assert after is not None
    assert (after.output, after.offset) == (line("next"), page.next_offset)
    assert page.next_offset == 15 + 13


async def test_the_cap_keeps_the_beginning_and_says_so(rig: Rig) -> None:
    rig.store.capture_path(JOB)
    await rig.store.follow(JOB)
    texts = [f"{n:084}" for n in range(2000)]
    await rig.feed(JOB, b"".join(map(raw, texts)))
    await rig.until(LIMIT // 100 * 100)
    await rig.feed(JOB, raw("more"))
    await rig.store.drain(JOB)
    whole = "".join(line(t) for t in texts[: LIMIT // 100]) + MARKER
    assert await rig.text() == whole
    page = await rig.store.tail(JOB, 2)
    assert page is not None
    assert (page.truncated, page.lines, page.total_bytes) == (True, 2, len(whole))
    assert page.output.endswith(MARKER)


async def test_a_log_of_exactly_the_limit_is_not_truncated(rig: Rig) -> None:
    rig.store.capture_path(JOB)
    await rig.feed(JOB, raw("x" * 48) * (LIMIT // 64))
    await rig.store.drain(JOB)
    page = await rig.store.tail(JOB, 1)
    assert page is not None
    assert (page.total_bytes, page.truncated) == (LIMIT, False)


async def test_changed_returns_for_news_the_end_and_time(rig: Rig) -> None:
    rig.store.capture_path(JOB)
    await rig.store.follow(JOB)
    began = time.monotonic()
    await rig.store.changed(JOB, 0, 0.05)
    assert time.monotonic() - began >= 0.04
    async with asyncio.timeout(30):
        many = [asyncio.create_task(rig.store.changed(JOB, 0, 60)) for _ in range(50)]
        await asyncio.sleep(0)
        await rig.feed(JOB, raw("x"))
        await asyncio.gather(*many)
        size = len(line("x"))
        waiting = asyncio.create_task(rig.store.changed(JOB, size, 60))
        await asyncio.sleep(0)
        assert not waiting.done()
        await rig.store.drain(JOB)
        await waiting
        await rig.store.changed(JOB, size, 60)
        await rig.store.delete(JOB)
        await rig.store.changed(JOB, size, 60)


async def test_changed_hears_our_own_lines_and_the_beginning(rig: Rig) -> None:
    async with asyncio.timeout(30):
        waiting = asyncio.create_task(rig.store.changed(JOB, 0, 60))
        await asyncio.sleep(0)
        await rig.store.write(JOB, "pulling", at=AT)
        await waiting
        waiting = asyncio.create_task(rig.store.changed(JOB, 23, 60))
        await asyncio.sleep(0)
        assert not waiting.done()
        await rig.store.delete(JOB)
        await waiting


async def test_delete_takes_all_and_repeats(rig: Rig) -> None:
    rig.store.capture_path(JOB)
    await rig.store.follow(JOB)
    await rig.feed(JOB, raw("x"))
    await rig.until(1)
    assert [job for job, size in await rig.store.stored() if size > 0] == [JOB]
    await rig.store.delete(JOB)
    await rig.store.delete(JOB)
    assert await rig.store.tail(JOB, 1) is None
    assert await rig.store.stored() == []


LINES = st.lists(
    st.one_of(
        st.text(max_size=30).map(lambda t: t.replace("\n", "").encode()),
        st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"")),
        st.integers(100, 5000).map(lambda n: b"y" * n),
    ),
    max_size=40,
)


@given(texts=LINES, count=st.integers(1, 50), limit=st.integers(1, 9000), at=st.integers(0, 3000))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@pytest.mark.parametrize("kind", ["files", "memory"])
def test_tail_and_pages_agree_with_the_whole(
    *, kind: str, tmp_path: Path, texts: list[bytes], count: int, limit: int, at: int
) -> None:
    async def check() -> None:
        job = f"{time.monotonic_ns():016x}"
        if kind == "memory":
            memory = MemoryLogStore(log_bytes=1 << 20)
            store: LogStore = memory
            await memory.feed(job, b"".join(map(raw, texts)))
        else:
            store = FileLogStore(tmp_path / "l", tmp_path / "c", log_bytes=1 << 20)
            append(store.capture_path(job), b"".join(map(raw, texts)))
        await store.drain(job)
        lines = [b"[09:31:26.123] " + t + b"\n" for t in texts]
        whole = b"".join(lines)
        tail = await store.tail(job, count)
        expected = b"".join(lines[-count:])
        assert tail == LogTail(
            output=expected.decode("utf-8", "replace"),
            lines=len(lines[-count:]),
            truncated=False,
            total_bytes=len(whole),
            offset=len(whole) - len(expected),
            next_offset=len(whole),
        )
        got, offset = "", at
        while offset < len(whole):
            page = await store.read(job, offset, limit)
            assert page is not None
            size = page.next_offset - offset
            assert page.offset == offset
            assert size > 0
            assert size <= limit or whole[offset : page.next_offset].count(b"\n") == 1
            assert whole[page.next_offset - 1 : page.next_offset] == b"\n"
            got += page.output
            offset = page.next_offset
        cut = whole[at:].split(b"\n")
        assert got == "\n".join(part.decode("utf-8", "replace") for part in cut)
        beyond = await store.read(job, len(whole) + 5, 10)
        assert beyond is not None
        assert (beyond.output, beyond.next_offset) == ("", len(whole) + 5)
        await store.delete(job)
        await store.close()

    asyncio.run(check())


async def test_a_tail_is_the_newest_lines_that_fit(rig: Rig) -> None:
    rig.store.capture_path(JOB)
    await rig.feed(JOB, b"".join(raw(f"{n}" * 985) for n in range(9)))
    await rig.store.drain(JOB)
    size = len(line("0" * 985))
    for most, count in [(3 * size, 3), (3 * size - 1, 2), (size, 1), (1, 1), (9 * size, 9)]:
        page = await rig.store.tail(JOB, 100, most_bytes=most)
        assert page is not None
        assert page.output == "".join(line(f"{n}" * 985) for n in range(9 - count, 9))
        assert (page.lines, page.offset) == (count, (9 - count) * size)
        assert page.next_offset == page.total_bytes == 9 * size


async def test_files_that_are_no_jobs_are_not_listed(tmp_path: Path) -> None:
    store = FileLogStore(tmp_path / "logs", tmp_path / "capture", log_bytes=LIMIT)
    await store.write(JOB, "x", at=AT)
    (tmp_path / "logs" / "a.b.log").touch()
    (tmp_path / "logs" / "README.log").touch()
    (tmp_path / "capture" / "lost+found").mkdir()
    assert [job for job, _ in await store.stored()] == [JOB]
    await store.close()
