"""What a job may try with its /artifacts, and what may go wrong on the host."""

import asyncio
import errno
import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from killing import kill_after
from namespace_lab import place, run_as_flashpods

from flashpods.adapters.files import artifacts as artifacts_module
from flashpods.adapters.files import collect as rules
from flashpods.adapters.files.artifacts import FileArtifactStore
from flashpods.config_base import ConfigError
from flashpods.errors import Unavailable
from flashpods.jobs.model import Collected

AT = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)
JOB = "0123456789abcdef"
SECRET = "the secret outside"


def made(root: Path, *, file_bytes: int = 2**20, files: int = 200) -> FileArtifactStore:
    store = FileArtifactStore(root, file_bytes=file_bytes, job_bytes=2**24, max_files=files)
    store.check()
    return store


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[FileArtifactStore]:
    store = made(tmp_path / "artifacts")
    yield store
    await store.close()


@pytest.fixture
async def staging(store: FileArtifactStore) -> Path:
    return await store.prepare(JOB)


def names(collected: Collected) -> list[str]:
    return [a.name for a in collected.artifacts]


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
        async with asyncio.timeout(20):
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


# ------------------------------------------------------------------- the host's own trouble


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    options = f"size=256k,nr_inodes=24,mode=0777,uid={os.geteuid()}"
    subprocess.run([*sudo, "mount", "-t", "tmpfs", "-o", options, "none", disk], check=True)
    yield disk
    subprocess.run([*sudo, "umount", disk], check=True)


def _fill(directory: Path) -> int:
    """Make files until the disk takes no more; return how many."""
    for count in range(100_000):
        try:
            (directory / f"fill{count}").touch()
        except OSError as e:
            if e.errno != errno.ENOSPC:
                raise
            return count
    raise AssertionError("the disk is not small")


async def test_a_full_disk(small_disk: Path) -> None:
    store = made(small_disk / "artifacts")
    staging = await store.prepare(JOB)
    (staging / "d").mkdir()
    (staging / "d" / "f").write_text("kept")
    count = _fill(staging)
    collected = await store.collect(JOB, at=AT)
    assert (collected.artifacts, collected.error) == ([], "artifact_copy_disk_full")
    assert (staging / "d" / "f").read_text() == "kept"
    for n in range(count):
        (staging / f"fill{n}").unlink()
    again = await store.collect(JOB, at=AT)
    assert (names(again), again.error) == (["d"], None)
    await store.close()


async def test_check_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"paths\.artifacts .*file.*: "):
        made(tmp_path / "file")


async def test_a_deadline_leaves_nothing_committed(tmp_path: Path) -> None:
    store = FileArtifactStore(
        tmp_path / "a", file_bytes=2**30, job_bytes=2**30, max_files=9, seconds=1e-9
    )
    staging = await store.prepare(JOB)
    (staging / "f").write_text("x")
    with pytest.raises(Unavailable):
        await store.collect(JOB, at=AT)
    assert not (tmp_path / "a" / JOB).exists()
    assert (await made(tmp_path / "a").collect(JOB, at=AT)).artifacts[0].name == "f"


async def test_two_collections_of_one_job_are_one(store: FileArtifactStore, staging: Path) -> None:
    (staging / "f").write_bytes(bytes(2**20))
    results = await asyncio.gather(*(store.collect(JOB, at=AT) for _ in range(8)))
    assert all(r == results[0] for r in results)
    assert names(results[0]) == ["f"]


COLLECT = textwrap.dedent(
    """
    import asyncio, sys
    from datetime import datetime, UTC
    from pathlib import Path
    from flashpods.adapters.files.artifacts import FileArtifactStore
    at = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)
    async def main():
        root = Path(sys.argv[1])
        store = FileArtifactStore(root, file_bytes=2**20, job_bytes=2**24, max_files=200)
        print("ready", flush=True)
        sys.stdin.readline()
        await store.collect("0123456789abcdef", at=at)
        await store.close()
    asyncio.run(main())
    """
)


def _collect_and_kill(root: Path, seconds: float) -> None:
    """Collect in another process and kill it after that time, if it is still at work."""
    kill_after([sys.executable, "-c", COLLECT, root], seconds)


async def test_killed_at_any_moment_it_ends_the_same(tmp_path: Path) -> None:
    chance = random.Random(7)
    outcomes = set()
    for n in range(8):
        root = tmp_path / f"a{n}"
        store = made(root)
        staging = await store.prepare(JOB)
        for i in range(190):
            (staging / f"f{i:03}").write_bytes(bytes([i]) * 20_000)
        (staging / "d").mkdir()
        (staging / "d" / "inner").write_text("x")
        (staging / "out").symlink_to("/etc/passwd")
        _collect_and_kill(root, chance.uniform(0.0, 0.12))
        outcomes.add(((root / JOB).exists(), staging.exists()))
        collected = await store.collect(JOB, at=AT)
        assert len(collected.artifacts) == 191
        assert collected.error is None
        assert collected.warnings == ["artifacts: skipped, leads out of /artifacts: 'out'"]
        assert not staging.exists()
        assert sorted(p.name for p in (root / JOB).iterdir()) == [
            a.name for a in collected.artifacts
        ]
        assert await store.collect(JOB, at=datetime.now(UTC)) == collected
        await store.delete(JOB)
        assert await store.stored() == []
        await store.close()
    assert outcomes - {(True, False)}, "no kill came before the end: the test shows nothing"


async def test_what_takes_too_long_to_delete_is_left_to_the_cleanup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts_module, "DROP_SECONDS", 0.0)
    store = FileArtifactStore(tmp_path, file_bytes=1000, job_bytes=1000, max_files=5)
    store.check()
    staging = await store.prepare(JOB)
    (staging / "a").touch()
    collected = await store.collect(JOB, at=AT)
    assert ([a.name for a in collected.artifacts], collected.error) == (["a"], None)
    assert await store.staged() == [JOB]
    assert await store.collect(JOB, at=AT) == collected
    await store.discard_staged(JOB)
    assert await store.staged() == []
    assert list((tmp_path / ".staging").iterdir()) == []
    assert (tmp_path / JOB / "a").exists()
    await store.close()


CLOSED = textwrap.dedent(
    """
    import asyncio, os, sys
    from datetime import datetime, UTC
    from pathlib import Path
    from flashpods.adapters.files.artifacts import FileArtifactStore
    async def main():
        root = Path(sys.argv[1])
        store = FileArtifactStore(root, file_bytes=2**20, job_bytes=2**24, max_files=200)
        store.check()
        staging = await store.prepare("0123456789abcdef")
        (staging / "closed").write_text("mine")
        (staging / "closed").chmod(0)
        (staging / "d" / "e").mkdir(parents=True)
        (staging / "d" / "e" / "f").write_text("deep")
        for path in (staging / "d" / "e", staging / "d", staging):
            path.chmod(0)
        collected = await store.collect("0123456789abcdef", at=datetime.now(UTC))
        print([(a.name, a.size_bytes) for a in collected.artifacts], collected.error,
              collected.warnings, staging.exists())
        (root / "0123456789abcdef" / "d" / "e").chmod(0)
        (root / "0123456789abcdef").chmod(0o500)
        await store.delete("0123456789abcdef")
        print(await store.stored(), sorted(os.listdir(root)))
    asyncio.run(main())
    """
)


def test_what_is_closed_to_its_owner_is_taken_and_deleted() -> None:
    with place() as where:
        (where / "a").mkdir()
        os.chown(where / "a", 64900, 64900)
        out = run_as_flashpods(where, CLOSED, str(where / "a"))
    assert out.splitlines() == [
        "[('closed', 4), ('d', 4)] None [] False",
        "[] ['.collecting', '.manifests', '.staging']",
    ]


FOREIGN = textwrap.dedent(
    """
    import asyncio, os, sys
    from datetime import datetime, UTC
    from pathlib import Path
    from flashpods.adapters.files.artifacts import FileArtifactStore
    async def main():
        root = Path(sys.argv[1])
        store = FileArtifactStore(root, file_bytes=2**20, job_bytes=2**24, max_files=200)
        collected = await store.collect("0123456789abcdef", at=datetime.now(UTC))
        print([(a.name, a.size_bytes) for a in collected.artifacts], collected.error,
              collected.warnings)
        await store.delete("0123456789abcdef")
        print(await store.stored())
    asyncio.run(main())
    """
)


def test_files_of_a_subordinate_id_are_copied_or_named_and_deleted() -> None:
    with place() as where:
        staging = where / "a" / ".staging" / "0123456789abcdef"
        (staging / "d" / "e").mkdir(parents=True)
        (staging / "open").write_text("open")
        (staging / "closed").write_text("closed")
        (staging / "closed").chmod(0o600)
        for path in (where / "a", staging.parent, staging):
            os.chown(path, 64900, 64900)
        for path in (staging / "open", staging / "closed", staging / "d", staging / "d" / "e"):
            os.chown(path, 700_123, 700_123)
        out = run_as_flashpods(where, FOREIGN, str(where / "a"))
    assert out.splitlines() == [
        "[('d', 0), ('open', 4)] artifact_copy_permission [\"artifacts: not readable: 'closed'\"]",
        "[]",
    ]
