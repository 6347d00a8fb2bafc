"""The watcher of a transfer ends what it can't watch: trees of any depth, walks that take long."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from flashpods import rsync_hook
from flashpods.adapters.files import trees
from flashpods.adapters.sqlite.connection import connect_writer
from flashpods.adapters.sqlite.migrations import migrate
from flashpods.rsync_measure import Count, measure
from flashpods.rsync_record import keep_size, settle
from flashpods.rsync_watch import Quota

BOUND = 60.0
LEVELS = 1500  # above the recursion limit; the kernel moves a deep directory slowly
KB = 1024
MB = 1024 * KB
ID = "upload_abcdefghijkl"
LAST = (True, True)  # it was the last word, and came before the transfer had ended

# It writes into the directory that it is in, for ever or, told so, one file again and again.
WRITER = """
import itertools, os, sys
often = int(sys.argv[1])
print(flush=True)
sys.stdin.readline()
for n in range(often) if often else itertools.count():
    with open("same" if often else f"{n}", "wb") as file:
        file.write(bytes(256 * 1024))
"""
WATCHER = """
import json, resource, sys
from pathlib import Path
from flashpods import rsync_meter, rsync_watch
from flashpods.adapters.sqlite import transfers
from flashpods.rsync_watch import Quota, Watch
tree, pid, change = sys.argv[1:]
told = []
def tell(size, files, last):
    told.append([size, last, transfers.alive(*writer)])
    return 0
real, calls = rsync_watch.measure, []
def measure(tree, *, seconds, **most):
    calls.append(seconds)
    return real(tree, seconds=-1.0 if len(calls) == 2 else seconds, **most)
exec(change)
quota = Quota(max_bytes=4 * 1024**2, total_bytes=1024**3, max_files=100_000)
writer = int(pid), transfers.start_ticks(int(pid))
watch = Watch(Path(tree), writer, quota, tell)
print(flush=True)
sys.stdin.readline()
watch.run()
print(json.dumps(told[-1]))
"""


def chain(top: Path, levels: int) -> int:
    """Make directories in each other, a byte in each; return the descriptor of the lowest."""
    fd = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=fd)
        with os.fdopen(os.open("f", os.O_WRONLY | os.O_CREAT, dir_fd=fd), "wb") as file:
            file.write(b"x")
        deeper = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    return fd


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / ID).mkdir()
    yield tmp_path / ID
    top = os.open(tmp_path, os.O_RDONLY)
    trees.remove(top, ID)  # pytest's own would run out of stack
    os.close(top)


@pytest.fixture
def deep(tree: Path) -> Path:
    os.close(chain(tree, LEVELS))
    return tree


def watched(tree: Path, at: int, change: str = "", often: int = 0) -> tuple[int, str, str]:
    """Watch a writer in the directory ``at``; return its exit code and what the watcher said."""
    code = f"import os; os.fchdir({at})\n{WRITER}"
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", code, str(often)], stdin=pipe, stdout=pipe, pass_fds=[at]
    ) as writer:
        try:
            with subprocess.Popen(
                [sys.executable, "-c", WATCHER, str(tree), str(writer.pid), change],
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
            ) as watcher:
                try:
                    assert writer.stdout
                    assert writer.stdin
                    assert watcher.stdout
                    writer.stdout.readline()
                    watcher.stdout.readline()
                    writer.stdin.write(b"\n")
                    writer.stdin.flush()
                    said, errors = watcher.communicate(b"\n", timeout=BOUND)
                finally:
                    watcher.kill()
            return writer.wait(BOUND), said.decode(), errors.decode()
        finally:
            writer.kill()


def test_a_deep_tree_is_counted_with_few_descriptors(deep: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(fd.name) for fd in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 8, hard))
    try:
        assert measure(deep, seconds=BOUND) == Count(LEVELS, 2 * LEVELS)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_no_link_leads_the_count_away(tree: Path) -> None:
    (tree / "a").mkdir()
    (tree / "up").symlink_to("..")
    (tree / "a" / "root").symlink_to("/")
    (tree / "a" / "f").write_text("abc")
    assert measure(tree, seconds=BOUND) == Count(len("abc" + ".." + "/"), 4)
    assert measure(tree / "up", seconds=BOUND) == Count(0, 0)


def test_a_transfer_into_a_deep_tree_is_ended_at_its_quota(tree: Path) -> None:
    at = chain(tree, LEVELS)
    code, said, errors = watched(tree, at)
    os.close(at)
    assert (code < 0, errors) == (True, "")
    size, *more = json.loads(said)
    assert (size > 4 * MB, *more) == (True, *LAST)


def test_a_watch_that_fails_ends_the_transfer_and_says_why(tree: Path) -> None:
    at = chain(tree, 2)
    few = "resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4))"  # the tree's top takes the last
    code, said, errors = watched(tree, at, few)
    os.close(at)
    assert code < 0
    assert f"the push to {ID} was ended: its watch failed: OSError: " in errors
    assert "Too many open files" in errors
    assert said == ""


def test_a_tree_that_is_never_walked_in_time_is_ended(tree: Path) -> None:
    at = os.open(tree, os.O_RDONLY)
    code, said, errors = watched(
        tree, at, "rsync_watch.WALK_SECONDS = -1.0; rsync_meter.HASTE = 1e-9"
    )
    os.close(at)
    assert code < 0
    assert f"the push to {ID} was ended: its tree could not be walked" in errors
    size, *more = json.loads(said)
    assert (size > 4 * MB, *more) == (True, *LAST)  # so that no further push begins


def test_one_walk_that_is_late_forgets_nothing_and_ends_nothing(tree: Path) -> None:
    """What was written before it still counts, so the next walk is at once and finds little."""
    at = os.open(tree, os.O_RDONLY)
    code, _, errors = watched(tree, at, "rsync_watch.measure = measure", often=200)
    os.close(at)
    assert (code, errors) == (0, "")
    assert measure(tree, seconds=BOUND).bytes == 256 * KB


def test_a_count_that_is_late_has_what_it_came_to(tree: Path) -> None:
    for n in range(10):
        (tree / f"{n}").write_bytes(b"x" * 10)
    found = measure(tree, seconds=-1.0)
    assert not found.in_time
    assert (found.entries, found.bytes) < (10, 100)


def test_a_late_count_only_raises_what_is_kept(tmp_path: Path) -> None:
    migrate(tmp_path / "db")
    quota = Quota(max_bytes=1000, total_bytes=5000, max_files=100)
    with closing(connect_writer(tmp_path / "db")) as connection:

        def kept() -> list[tuple[object, ...]]:
            return connection.execute("SELECT size_bytes, file_count FROM uploads").fetchall()

        connection.execute(
            "INSERT INTO uploads (id, state, created_at, expires_at)"
            " VALUES (?, 'uploading', '2020-01-01T00:00:00.000Z', '2999-01-01T00:00:00.000Z')",
            (ID,),
        )
        settle(connection, {ID: Count(70, 3, in_time=False)}, quota)
        assert kept() == [(70, 3)]
        settle(connection, {ID: Count(60, 4, in_time=False)}, quota)
        assert kept() == [(70, 4)]
        settle(connection, {ID: Count(10, 2)}, quota)
        assert kept() == [(10, 2)]
        keep_size(connection, ID, 1001, 2)
        settle(connection, {ID: Count(10, 2)}, quota)
        assert kept() == [(1001, 2)]


def test_the_hook_settles_a_deep_tree(deep: Path) -> None:
    assert rsync_hook.count(deep.parent, ID) == Count(LEVELS, 2 * LEVELS)


def test_the_hook_goes_on_where_a_tree_can_not_be_read(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = {int(fd.name) for fd in Path("/proc/self/fd").iterdir()}
    free = next(n for n in range(len(used) + 1) if n not in used)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard[1]))
    try:
        found = rsync_hook.count(tree.parent, ID)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, hard)
    assert found == Count(0, 0, in_time=False)
    assert f"{ID} was not measured" in capsys.readouterr().err
