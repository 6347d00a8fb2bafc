"""Where AppArmor restricts user namespaces ./dev tries them, and says what helps."""

from __future__ import annotations

from pathlib import Path

import pytest

from flashpods_dev import userns
from flashpods_dev.machine import SUBIDS_START, StackError


@pytest.mark.parametrize("text", ["0\n", None])
def test_without_the_restriction_nothing_is_tried(
    reachable_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    sysctl = reachable_path / "sysctl"
    if text is not None:
        sysctl.write_text(text)
    monkeypatch.setattr(userns, "probe", lambda _: pytest.fail("nothing is to be tried"))
    userns.check(reachable_path, sysctl)


def test_under_the_restriction_what_works_passes(reachable_path: Path) -> None:
    """The kernel here allows it, so the real probe must succeed: its file is a subordinate's."""
    sysctl = reachable_path / "sysctl"
    sysctl.write_text("1\n")
    userns.check(reachable_path, sysctl)
    info = (reachable_path / "userns" / "file").stat()
    assert (info.st_uid, info.st_gid) == (SUBIDS_START, SUBIDS_START)


def test_what_does_not_work_is_refused_with_its_remedy(
    reachable_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sysctl = reachable_path / "sysctl"
    sysctl.write_text("1\n")
    tools = reachable_path / "bin"
    tools.mkdir()
    for name in ("setpriv", "env", "sh", "touch"):
        (tools / name).symlink_to(f"/usr/bin/{name}")
    # As a namespace without capabilities does: everything runs, and the owner can't be changed.
    (tools / "unshare").write_text('#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done\nshift\n"$@"\n')
    (tools / "unshare").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    with pytest.raises(StackError, match=r"not permitted.*sysctl -w kernel\.apparmor_restrict"):
        userns.check(reachable_path, sysctl)
