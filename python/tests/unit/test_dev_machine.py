"""The namespace's account files, reachable paths, and the description handed to children."""

from __future__ import annotations

from pathlib import Path

import pytest

from flashpods_dev.accounts import render, with_account
from flashpods_dev.expose import closed_ancestors, unused_directory, without_nested
from flashpods_dev.machine import VARIABLE, Machine, StackError, inside

PASSWD = "root:x:0:0:root:/root:/bin/bash\nflashpods:x:999:999::/x:/bin/sh\nbob:x:64900:5::/b:/b\n"


def test_our_line_replaces_any_of_that_name_or_number() -> None:
    files = render(PASSWD, "root:x:0:\n", Path("/h"))
    assert files["passwd"] == (
        "root:x:0:0:root:/root:/bin/bash\nflashpods:x:64900:64900::/h:/usr/sbin/nologin\n"
    )
    assert files["group"] == "root:x:0:\nflashpods:x:64900:\n"
    assert files["subuid"] == files["subgid"] == "flashpods:2000000000:65536\n"


def test_a_file_without_newline_at_its_end() -> None:
    assert with_account("a:x:1", "b", 2, "b:x:2") == "a:x:1\nb:x:2\n"


MODES = {"/": 0o755, "/root": 0o700, "/root/p": 0o700, "/home": 0o755, "/home/u": 0o750}


def mode(path: Path) -> int:
    return MODES.get(str(path), 0o755)


def test_paths_are_grouped_by_their_topmost_closed_ancestor() -> None:
    paths = [Path(p) for p in ("/root/p/src", "/root/.pyenv", "/home/u/src", "/srv/src", "/root")]
    assert closed_ancestors(paths, mode) == {
        Path("/root"): [Path("/root/.pyenv"), Path("/root/p/src")],
        Path("/home/u"): [Path("/home/u/src")],
    }


def test_a_path_within_another_needs_no_bind_of_its_own() -> None:
    paths = [Path("/a/b/c"), Path("/a/b"), Path("/a/bc")]
    assert without_nested(paths) == [Path("/a/b"), Path("/a/bc")]


def test_the_hidden_directory_holds_nothing_that_is_needed() -> None:
    spare = unused_directory([])
    assert unused_directory([spare / "usb" / "checkout"]) != spare
    with pytest.raises(StackError, match="mkdir /media"):
        unused_directory([Path(p) for p in ("/media/a", "/mnt/a", "/srv/a", "/opt/a")])


def test_the_machine_survives_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")
    machine = Machine(
        checkout=Path("/c"),
        run_dir=Path("/c/.dev/run/x"),
        volatiles=Path("/media"),
        cgroup="/outer/x",
        limits_enforced=True,
    )
    machine.export()
    assert inside() == machine
    assert machine.cgroup_dir == Path("/sys/fs/cgroup/outer/x")


def test_outside_a_namespace_the_message_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(StackError, match=r"\./dev test"):
        inside()
