"""One suite for both artifact stores; what a job may try follows in test_artifact_store_hostile."""

import hashlib
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pytest

from flashpods.adapters.files.artifacts import FileArtifactStore
from flashpods.errors import NotFound
from flashpods.ports import ArtifactStore
from flashpods.testing.files import FakeArtifactStore

AT = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)
JOB = "0123456789abcdef"
OTHER = "f" * 16

Make = Callable[[Path], ArtifactStore]


def real(root: Path) -> ArtifactStore:
    store = FileArtifactStore(root, file_bytes=1000, job_bytes=2500, max_files=5)
    store.check()
    return store


def fake(root: Path) -> ArtifactStore:
    return FakeArtifactStore(root, file_bytes=1000, job_bytes=2500, max_files=5)


@pytest.fixture(params=[real, fake], ids=["real", "fake"])
def make(request: pytest.FixtureRequest) -> Make:
    chosen: Make = request.param
    return chosen


@pytest.fixture
def store(make: Make, tmp_path: Path) -> ArtifactStore:
    return make(tmp_path / "artifacts")


async def test_files_come_home(store: ArtifactStore) -> None:
    staging = await store.prepare(JOB)
    (staging / "b.txt").write_text("bee")
    (staging / "a.txt").write_text("ay")
    (staging / ".hidden").touch()
    collected = await store.collect(JOB, at=AT)
    assert (collected.error, collected.warnings) == (None, [])
    assert [a.name for a in collected.artifacts] == [".hidden", "a.txt", "b.txt"]
    bee = collected.artifacts[2]
    assert (bee.type, bee.size_bytes, bee.created_at) == ("file", 3, AT)
    assert bee.sha256 == hashlib.sha256(b"bee").hexdigest()
    file, size = await store.open(JOB, "b.txt")
    with file:
        file.seek(1)
        assert (file.read(), size) == (b"ee", 3)


async def test_a_directory_is_one_artifact(store: ArtifactStore) -> None:
    staging = await store.prepare(JOB)
    (staging / "d" / "e").mkdir(parents=True)
    (staging / "d" / "f").write_text("four")
    (staging / "d" / "e" / "g").write_text("fives")
    (artifact,) = (await store.collect(JOB, at=AT)).artifacts
    assert (artifact.name, artifact.type) == ("d", "directory")
    assert (artifact.size_bytes, artifact.sha256) == (9, None)
    packed = BytesIO(b"".join(await store.tar(JOB, "d")))
    with tarfile.open(fileobj=packed) as tar:
        assert tar.getnames() == ["d", "d/e", "d/e/g", "d/f"]
    with pytest.raises(NotFound, match=r"d/f"):
        await store.open(JOB, "d/f")
    with pytest.raises(NotFound):
        await store.open(JOB, "d")


async def test_a_link_inside_is_what_it_points_to(store: ArtifactStore) -> None:
    staging = await store.prepare(JOB)
    (staging / "f").write_text("content")
    (staging / "link").symlink_to("f")
    (staging / "hard").hardlink_to(staging / "f")
    collected = await store.collect(JOB, at=AT)
    assert [(a.name, a.type, a.size_bytes) for a in collected.artifacts] == [
        (name, "file", 7) for name in ("f", "hard", "link")
    ]
    file, _ = await store.open(JOB, "link")
    with file:
        assert file.read() == b"content"


@pytest.mark.parametrize("target", ["../../secret", "/etc/passwd", "nothing"])
async def test_a_link_that_leaves_is_a_warning(
    store: ArtifactStore, tmp_path: Path, target: str
) -> None:
    (tmp_path / "secret").write_text("secret")
    staging = await store.prepare(JOB)
    (staging / "out").symlink_to(target)
    (staging / "kept").touch()
    collected = await store.collect(JOB, at=AT)
    assert [a.name for a in collected.artifacts] == ["kept"]
    assert collected.error is None
    assert any("'out'" in w for w in collected.warnings)


@pytest.mark.parametrize(
    ("sizes", "kept"),
    [
        ({"a": 1000, "b": 1001, "c": 1}, ["a", "c"]),
        ({"a": 1000, "b": 1000, "c": 501, "d": 500}, ["a", "b", "d"]),
        (dict.fromkeys("abcdefg", 1), ["a", "b", "c", "d", "e"]),
    ],
    ids=["file", "job", "count"],
)
async def test_over_a_limit_what_fits_is_kept_and_the_rest_is_named(
    store: ArtifactStore, sizes: dict[str, int], kept: list[str]
) -> None:
    staging = await store.prepare(JOB)
    for name, size in sizes.items():
        (staging / name).write_bytes(bytes(size))
    collected = await store.collect(JOB, at=AT)
    assert [a.name for a in collected.artifacts] == kept
    assert collected.error == "artifact_limit_exceeded"
    for name in sizes.keys() - set(kept):
        assert any(name in w for w in collected.warnings)


async def test_limits_themselves_are_allowed(store: ArtifactStore) -> None:
    staging = await store.prepare(JOB)
    for name, size in {"a": 1000, "b": 1000, "c": 500, "d": 0, "e": 0}.items():
        (staging / name).write_bytes(bytes(size))
    collected = await store.collect(JOB, at=AT)
    assert (len(collected.artifacts), collected.error) == (5, None)


async def test_repeated_calls(make: Make, tmp_path: Path) -> None:
    store = make(tmp_path / "a")
    staging = await store.prepare(JOB)
    (staging / "f").write_text("x")
    assert await store.prepare(JOB) == staging
    assert (staging / "f").exists()
    (staging / "x" / "y").mkdir(parents=True)
    first = await store.collect(JOB, at=AT)
    assert await store.collect(JOB, at=datetime.now(UTC)) == first
    assert not staging.exists()


async def test_gone(store: ArtifactStore) -> None:
    collected = await store.collect(JOB, at=AT)
    assert (collected.artifacts, collected.error) == ([], "artifact_copy_container_gone")
    with pytest.raises(NotFound) as caught:
        await store.open(JOB, "x")
    assert caught.value.code == "artifact_not_found"
    with pytest.raises(NotFound):
        await store.tar(JOB, "x")


async def test_delete_and_stored(store: ArtifactStore) -> None:
    assert await store.stored() == []
    await store.delete(JOB)
    (await store.prepare(JOB) / "f").touch()
    await store.prepare(OTHER)
    assert await store.stored() == [JOB, OTHER]
    await store.collect(JOB, at=AT)
    assert await store.stored() == [JOB, OTHER]
    await store.delete(JOB)
    await store.delete(OTHER)
    assert await store.stored() == []
    with pytest.raises(NotFound):
        await store.open(JOB, "f")


async def test_staged_goes_and_collected_stays(store: ArtifactStore, tmp_path: Path) -> None:
    (await store.prepare(JOB) / "f").touch()
    await store.collect(JOB, at=AT)
    assert await store.staged() == []
    (await store.prepare(JOB) / "late").touch()
    (await store.prepare(OTHER) / "f").touch()
    for name in (".staging/keep.me", ".collecting/README", "lost+found", "staging/keep.me"):
        (tmp_path / "artifacts" / name).mkdir(parents=True)
    assert await store.staged() == [JOB, OTHER]
    for job in (JOB, JOB, OTHER):
        await store.discard_staged(job)
    assert await store.staged() == []
    assert await store.stored() == [JOB]
    file, _ = await store.open(JOB, "f")
    file.close()
    assert (tmp_path / "artifacts" / ".staging/keep.me").exists()


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "../.staging", "x\0", "x" * 300, "\udcff"])
async def test_no_name_leads_elsewhere(store: ArtifactStore, name: str) -> None:
    await store.prepare(JOB)
    await store.collect(JOB, at=AT)
    for call in (store.open, store.tar):
        with pytest.raises(NotFound) as caught:
            await call(JOB, name)
        assert caught.value.code == "artifact_not_found"


@pytest.mark.parametrize("job", ["", "..", "a/b", ".staging", "x\n"])
async def test_no_id_leads_elsewhere(store: ArtifactStore, job: str) -> None:
    with pytest.raises(ValueError, match="not a job id"):
        await store.prepare(job)
    with pytest.raises(ValueError, match="not a job id"):
        await store.delete(job)
