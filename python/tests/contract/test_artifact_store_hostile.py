"""What a job may try with its /artifacts."""

import asyncio
import errno
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from artifact_store_rig import AT, JOB, made, names

from flashpods.adapters.files import collect as rules
from flashpods.adapters.files.artifacts import FileArtifactStore

SECRET = "the secret outside"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[FileArtifactStore]:
    store = made(tmp_path / "artifacts")
    yield store
    await store.close()


@pytest.fixture
async def staging(store: FileArtifactStore) -> Path:
    return await store.prepare(JOB)


def there(path: Path) -> bool:
    return path.exists()


def links(root: Path) -> list[Path]:
    return [p for p in root.rglob("*") if p.is_symlink()]


def contents(root: Path) -> bytes:
    return b"\n".join(p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file())


async def test_special_files_are_skipped_without_opening_them(
    store: FileArtifactStore, staging: Path
) -> None:
    os.mkfifo(staging / "fifo")
    (staging / "to_fifo").symlink_to("fifo")
    (staging / "d").mkdir()
    os.mkfifo(staging / "d" / "inner")
    special = {"fifo", "to_fifo", "d/inner", "socket"}
    os.mknod(staging / "socket", stat.S_IFSOCK | 0o600)
    if os.geteuid() == 0:  # nobody else may make one
        os.mknod(staging / "device", 0o600 | 0o020000, os.makedev(1, 5))
        special.add("device")
    collected = await store.collect(JOB, at=AT)
    assert (names(collected), collected.error) == (["d"], None)
    (warning,) = collected.warnings
    assert warning.startswith("artifacts: skipped, neither a file nor a directory: ")
    assert set(warning.split(": ", 2)[2].split(", ")) == {repr(name) for name in special}


async def test_a_sparse_terabyte_is_refused_unread(store: FileArtifactStore, staging: Path) -> None:
    with (staging / "huge").open("wb") as file:
        file.truncate(2**40)
    (staging / "small").touch()
    collected = await store.collect(JOB, at=AT)
    assert (names(collected), collected.error) == (["small"], "artifact_limit_exceeded")
    assert collected.warnings == ["artifacts: left out, larger than 1048576 bytes: 'huge'"]


async def test_a_sparse_file_counts_by_its_size(store: FileArtifactStore, staging: Path) -> None:
    for n in range(17):
        with (staging / f"{n:02}").open("wb") as file:
            file.truncate(2**20)
    collected = await store.collect(JOB, at=AT)
    assert (len(collected.artifacts), collected.error) == (16, "artifact_limit_exceeded")


async def test_every_odd_byte_and_long_names(store: FileArtifactStore, staging: Path) -> None:
    odd = [b for b in range(1, 256) if b != 0x2F]
    for byte in odd:
        (staging / os.fsdecode(b"n" + bytes([byte]) + b"n")).touch()
    (staging / ("x" * 255)).touch()
    (staging / " lead").touch()
    (staging / "trail ").touch()
    (staging / "a..b").touch()
    collected = await store.collect(JOB, at=AT)
    good = [f"n{chr(b)}n" for b in odd if 0x20 <= b < 0x7F and chr(b) != "\\"]
    assert names(collected) == sorted([*good, "x" * 255])
    assert collected.error is None
    (warning,) = collected.warnings
    bad = len(odd) + 3 - len(good)
    assert warning.endswith(f", {bad - rules.NAMED} more")
    assert warning.isprintable()
    assert len(warning) < rules.NAMED * 100


async def test_links_in_directories_come_as_what_they_point_to(
    store: FileArtifactStore, staging: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text(SECRET)
    (staging / "top").write_text("top")
    (staging / "d" / "e").mkdir(parents=True)
    (staging / "d" / "up").symlink_to("../top")
    (staging / "d" / "out").symlink_to("../../../../secret")
    (staging / "d" / "loop").symlink_to(".")
    (staging / "d" / "e" / "back").symlink_to("..")
    (staging / "d" / "own").symlink_to("/artifacts/top")
    (staging / "lead").symlink_to("/artifacts/d/e/")
    (staging / "away").symlink_to("/artifacts/../etc/passwd")
    (staging / "all").symlink_to("/artifacts")
    (staging / "self").symlink_to("self")
    collected = await store.collect(JOB, at=AT)
    assert collected.error is None
    assert [(a.name, a.type, a.size_bytes) for a in collected.artifacts] == [
        ("d", "directory", 6),
        ("lead", "directory", 6),
        ("top", "file", 3),
    ]
    found = tmp_path / "artifacts" / JOB
    assert not [p for p in found.rglob("*") if p.is_symlink()]
    assert sorted(str(p.relative_to(found)) for p in found.rglob("*")) == [
        *("d", "d/e", "d/own", "d/up"),
        *("lead", "lead/back", "lead/back/own", "lead/back/up", "top"),
    ]
    said = " ".join(collected.warnings)
    for name in ("d/out", "d/loop", "d/e/back", "lead/back/e", "away", "all", "self"):
        assert repr(name) in said
    assert SECRET.encode() not in contents(found)


async def test_skipped_links_beyond_a_full_job_are_no_error(tmp_path: Path) -> None:
    store = made(tmp_path / "artifacts", files=2)
    staging = await store.prepare(JOB)
    for name in "ab":
        (staging / name).touch()
    (staging / "z").symlink_to("/etc/passwd")
    collected = await store.collect(JOB, at=AT)
    assert (names(collected), collected.error) == (["a", "b"], None)


async def test_files_in_directories_count(tmp_path: Path) -> None:
    store = made(tmp_path / "artifacts", files=10)
    staging = await store.prepare(JOB)
    (staging / "d").mkdir()
    for n in range(12):
        (staging / "d" / f"{n:02}").write_text("x")
    (staging / "e").touch()
    collected = await store.collect(JOB, at=AT)
    assert [(a.name, a.size_bytes) for a in collected.artifacts] == [("d", 10)]
    assert collected.error == "artifact_limit_exceeded"
    assert collected.warnings == [
        "artifacts: left out, beyond the 10 files of a job: 'd/10', 'd/11', 'e'"
    ]


async def test_a_hundred_thousand_names() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:  # a disk would take longer
        await _collect_many(made(Path(memory, "artifacts")))


async def _collect_many(store: FileArtifactStore) -> None:
    staging = await store.prepare(JOB)
    for n in range(100_000):
        os.mknod(f"{staging}/{n:06}")
    collected = await store.collect(JOB, at=AT)
    assert names(collected) == [f"{n:06}" for n in range(200)]
    assert collected.error == "artifact_limit_exceeded"
    assert any("90000 entries" in w for w in collected.warnings)
    assert sum(map(len, collected.warnings)) < 10_000


async def test_depth_is_bounded_and_deletable(store: FileArtifactStore, staging: Path) -> None:
    fd = os.open(staging, os.O_RDONLY)
    for _ in range(3000):  # far deeper than a path can name
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    collected = await store.collect(JOB, at=AT)
    assert (names(collected), collected.error) == (["d"], "artifact_limit_exceeded")
    assert not there(staging)
    await store.delete(JOB)
    assert await store.stored() == []


def _clear(directory: Path) -> None:
    """Drop what the swapping thread left beside the staging directory."""
    for leftover in directory.glob("*-*"):
        if leftover.is_symlink() or leftover.is_file():
            leftover.unlink()
        else:
            shutil.rmtree(leftover)


async def test_a_link_swapped_while_it_is_collected_never_shows_the_secret(
    tmp_path: Path,
) -> None:
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "f").write_text(SECRET)
    store = made(tmp_path / "artifacts")
    stop = threading.Event()
    rounds = 0

    def swap(staging: Path) -> None:
        """Exchange a harmless file and directory for links that leave, as fast as it goes."""
        nonlocal rounds
        while not stop.is_set():
            for name, target in (("f", "../../../secret"), ("d", "../../../secrets")):
                spare = staging.parent / f"spare-{name}"
                spare.symlink_to(target)
                good = staging.parent / f"good-{name}"
                try:
                    (staging / name).rename(good)
                    spare.rename(staging / name)
                    (staging / name).rename(spare)
                    good.rename(staging / name)
                    spare.unlink()
                except FileNotFoundError:
                    return  # collected: the staging directory has gone
            rounds += 1

    for n in range(60):
        job = f"{n:016x}"
        staging = await store.prepare(job)
        (staging / "f").write_text("mine")
        (staging / "d").mkdir()
        (staging / "d" / "f").write_text("mine")
        stop.clear()
        writer = threading.Thread(target=swap, args=(staging,))
        writer.start()
        try:
            collected = await store.collect(job, at=AT)
        finally:
            stop.set()
            writer.join()
        found = tmp_path / "artifacts" / job
        assert SECRET.encode() not in contents(found)
        assert not links(found)
        for artifact in collected.artifacts:
            assert artifact.size_bytes in {0, 4}
        _clear(staging.parent)
    assert rounds
    await store.close()


async def test_a_file_that_is_written_all_the_time_does_not_hang(
    store: FileArtifactStore, staging: Path
) -> None:
    stop = threading.Event()
    (staging / "growing").write_bytes(bytes(500_000))

    def write() -> None:
        with (staging / "growing").open("r+b") as file:
            while not stop.is_set():
                file.seek(0)
                file.write(b"x" * 100_000)
                file.flush()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        async with asyncio.timeout(60):
            collected = await store.collect(JOB, at=AT)
    finally:
        stop.set()
        writer.join()
    assert collected.error in {None, "artifact_copy_failed"}


async def test_setuid_does_not_survive(
    store: FileArtifactStore, staging: Path, tmp_path: Path
) -> None:
    (staging / "s").touch()
    (staging / "s").chmod(0o6755)
    (staging / "d").mkdir()
    (staging / "d").chmod(0o3777)
    await store.collect(JOB, at=AT)
    assert (tmp_path / "artifacts" / JOB / "s").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "artifacts" / JOB / "d").stat().st_mode & 0o7000 == 0


async def test_a_file_with_all_its_links_is_copied(
    store: FileArtifactStore, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (staging / "f").write_bytes(b"x" * 300_000)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EMLINK, "Too many links")

    monkeypatch.setattr(os, "link", full)
    collected = await store.collect(JOB, at=AT)
    assert (names(collected), collected.error) == (["f"], None)
    file, size = await store.open(JOB, "f")
    with file:
        assert (file.read(), size) == (b"x" * 300_000, 300_000)
