"""The host's own trouble: a full disk, a deadline, a kill while it collects."""

import asyncio
import errno
import os
import random
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from artifact_store_rig import AT, JOB, made, names
from killing import kill_after

from flashpods.adapters.files import artifacts as artifacts_module
from flashpods.adapters.files.artifacts import FileArtifactStore
from flashpods.config_base import ConfigError
from flashpods.errors import Unavailable

ROUNDS = 8


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


async def test_what_can_t_be_synced_is_not_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever fsync fails; and what was renamed but not synced is synced before it counts."""
    real, calls = os.fsync, []

    def fsync(fd: int) -> None:
        calls.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
        if len(calls) == at:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    for at in range(1, 100):
        root = tmp_path / str(at)
        store = made(root)
        staging = await store.prepare(JOB)
        (staging / "d").mkdir()
        (staging / "d" / "f").write_text("kept")
        calls.clear()
        collected = await store.collect(JOB, at=AT)
        if len(calls) < at:
            assert (names(collected), collected.error) == (["d"], None)
            break
        assert (collected.artifacts, collected.error) == ([], "artifact_copy_failed"), at
        assert collected.warnings == [f"artifacts: {os.strerror(errno.EIO)}"]
        assert (staging / "d" / "f").read_text() == "kept"
        calls[:] = [""] * at
        again = await store.collect(JOB, at=AT)
        assert (names(again), again.error) == (["d"], None)
        assert str(root) in calls
        await store.close()
    assert at > 5


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


async def test_two_collections_of_one_job_are_one(tmp_path: Path) -> None:
    store = made(tmp_path / "artifacts")
    staging = await store.prepare(JOB)
    (staging / "f").write_bytes(bytes(2**20))
    results = await asyncio.gather(*(store.collect(JOB, at=AT) for _ in range(8)))
    assert all(r == results[0] for r in results)
    assert names(results[0]) == ["f"]
    await store.close()


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
    outcomes: list[tuple[bool, bool]] = []
    late = (True, False)
    # More of them, and sooner, where all came too late: on a fast machine, or one that stopped us.
    while len(outcomes) < ROUNDS or (set(outcomes) == {late} and len(outcomes) < 6 * ROUNDS):
        latest = 0.12 / 2 ** (len(outcomes) // ROUNDS)
        root = tmp_path / f"a{len(outcomes)}"
        store = made(root)
        staging = await store.prepare(JOB)
        for i in range(190):
            (staging / f"f{i:03}").write_bytes(bytes([i]) * 20_000)
        (staging / "d").mkdir()
        (staging / "d" / "inner").write_text("x")
        (staging / "out").symlink_to("/etc/passwd")
        _collect_and_kill(root, chance.uniform(0.0, latest))
        outcomes.append(((root / JOB).exists(), staging.exists()))
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
    assert set(outcomes) != {late}, "no kill came before the end: the test shows nothing"


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
