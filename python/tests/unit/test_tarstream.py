import errno
import io
import os
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from flashpods.adapters.files.tarstream import tar_chunks


def chunks_of(path: Path, prefix: str = "out") -> bytes:
    return b"".join(tar_chunks(os.open(path, os.O_RDONLY | os.O_DIRECTORY), prefix))


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {m.name: m for m in tar.getmembers()}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "t"
    (root / "b" / "deep").mkdir(parents=True)
    (root / "b" / "deep" / ("ü" * 120)).write_text("long and not ASCII")
    (root / "a").write_bytes(b"x" * 1000)
    (root / "empty").touch()
    (root / "exact").write_bytes(b"y" * 512)
    (root / "a").chmod(0o4755)
    os.utime(root / "a", (1, 1_000_000_000))
    (root / "in").symlink_to("b/deep")
    (root / "b" / "up").symlink_to("../a")
    (root / "out").symlink_to("/etc/passwd")
    (root / "b" / "far").symlink_to("../../..")
    (root / "gone").symlink_to("nothing")
    os.mkfifo(root / "fifo")
    (root / os.fsdecode(b"\xff")).write_text("bytes")
    return root


def test_what_is_in_it(tree: Path) -> None:
    data = chunks_of(tree)
    assert len(data) % tarfile.RECORDSIZE == 0
    found = members(data)
    long = "ü" * 120
    assert list(found) == [
        *("out", "out/a", "out/b", "out/b/deep", f"out/b/deep/{long}", "out/b/up"),
        *("out/empty", "out/exact", "out/in", "out/\udcff"),
    ]
    a = found["out/a"]
    assert (a.uid, a.gid, a.uname, a.gname, a.mode, a.mtime) == (0, 0, "", "", 0o755, 1_000_000_000)
    assert found["out/in"].linkname == "b/deep"
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        body = tar.extractfile(f"out/b/deep/{long}")
        assert body is not None
        assert body.read() == b"long and not ASCII"


def test_it_is_deterministic(tree: Path) -> None:
    assert chunks_of(tree) == chunks_of(tree)


@pytest.mark.parametrize("size", [0, 1, 511, 100_000, 5_000_000])
def test_a_file_that_changes_its_size_never_breaks_the_tar(tmp_path: Path, size: int) -> None:
    root = tmp_path / "t"
    root.mkdir()
    (root / "a").write_bytes(b"x" * 1_000_000)
    (root / "b").write_text("after")
    stream = tar_chunks(os.open(root, os.O_RDONLY), "t")
    parts = [next(stream), next(stream)]  # the directory's header, then that of "a"
    with (root / "a").open("r+b") as file:
        file.truncate(size)
    parts += stream
    with tarfile.open(fileobj=io.BytesIO(b"".join(parts))) as tar:
        assert tar.getmember("t/a").size == 1_000_000
        body = tar.extractfile("t/b")
        assert body is not None
        assert body.read() == b"after"


def test_a_directory_swapped_for_a_link_is_not_entered(tmp_path: Path) -> None:
    root, secret = tmp_path / "t", tmp_path / "secret"
    (root / "d").mkdir(parents=True)
    (root / "d" / "f").write_text("mine")
    secret.mkdir()
    (secret / "f").write_text("SECRET")
    stream = tar_chunks(os.open(root, os.O_RDONLY), "t")
    parts = [next(stream)]
    (root / "d").rename(tmp_path / "elsewhere")
    (root / "d").symlink_to(secret)
    assert b"SECRET" not in b"".join([*parts, *stream])


def test_memory_is_bounded(tmp_path: Path) -> None:
    root = tmp_path / "t"
    root.mkdir()
    with (root / "sparse").open("wb") as file:
        file.truncate(300 * 1024**2)
    tracemalloc.start()
    total = sum(len(c) for c in tar_chunks(os.open(root, os.O_RDONLY), "t"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total > 300 * 1024**2
    assert peak < 4 * 1024**2


@pytest.mark.parametrize("begun", [False, True])
def test_the_descriptor_goes_with_the_stream(tmp_path: Path, begun: bool) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    stream = tar_chunks(fd, "t")
    if begun:
        next(stream)
    del stream
    with pytest.raises(OSError) as caught:
        os.fstat(fd)
    assert caught.value.errno == errno.EBADF
