import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from flashpods.adapters.files.openat2 import follow_beneath, open_beneath, openat2, reopen


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    inside = tmp_path / "in"
    (inside / "d").mkdir(parents=True)
    (inside / "f").write_text("inside")
    (tmp_path / "secret").write_text("secret")
    for name, target in {
        "ok": "f",
        "up_and_down": "d/../f",
        "out": "../secret",
        "absolute": str(tmp_path / "secret"),
        "same_but_absolute": str(inside / "f"),
        "magic": "/proc/self/exe",
        "loop": "loop",
        "dangling": "nothing",
        "through": "d/../../secret",
    }.items():
        (inside / name).symlink_to(target)
    fd = os.open(inside, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def read(fd: int) -> bytes:
    try:
        return os.read(fd, 100)
    finally:
        os.close(fd)


@pytest.mark.parametrize("name", ["f", "ok", "up_and_down", "d/../f", "./f"])
def test_inside_is_followed(root: int, name: str) -> None:
    fd = follow_beneath(root, name)
    try:
        assert read(reopen(fd, os.O_RDONLY)) == b"inside"
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        *((n, errno.EXDEV) for n in ("out", "absolute", "same_but_absolute", "magic", "through")),
        *((n, errno.EXDEV) for n in ("..", "../secret", "/etc/passwd", "d/../../secret")),
        ("loop", errno.ELOOP),
        ("dangling", errno.ENOENT),
        ("x\0y", errno.EINVAL),
        ("", errno.ENOENT),
    ],
)
def test_leaving_is_refused_by_the_kernel(root: int, name: str, code: int) -> None:
    with pytest.raises(OSError) as caught:  # the code is what matters
        follow_beneath(root, name)
    assert caught.value.errno == code


def test_no_link_at_all_for_files_of_our_making(root: int) -> None:
    assert read(open_beneath(root, "f", os.O_RDONLY)) == b"inside"
    with pytest.raises(OSError) as caught:
        open_beneath(root, "ok", os.O_RDONLY)
    assert caught.value.errno == errno.ELOOP


def test_a_mount_point_is_not_entered() -> None:
    slash = os.open("/", os.O_PATH)
    try:
        with pytest.raises(OSError) as caught:
            follow_beneath(slash, "proc/self/status")
    finally:
        os.close(slash)
    assert caught.value.errno == errno.EXDEV


def test_special_files_do_not_block(root: int, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "in" / "fifo")
    os.mknod(tmp_path / "in" / "s", stat.S_IFSOCK | 0o600)
    for name, kind in (("fifo", stat.S_IFIFO), ("s", stat.S_IFSOCK)):
        fd = follow_beneath(root, name)
        assert stat.S_IFMT(os.fstat(fd).st_mode) == kind
        os.close(fd)
    os.close(open_beneath(root, "fifo", os.O_RDONLY))  # O_NONBLOCK: returns at once


def test_descriptors_are_close_on_exec(root: int) -> None:
    fd = openat2(root, "f", os.O_RDONLY, 0)
    assert not os.get_inheritable(fd)
    os.close(fd)
