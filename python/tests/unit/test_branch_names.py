"""The branch names that we accept are those that git accepts."""

import os
import subprocess
from pathlib import Path

import pytest

from flashpods.errors import BadRequest
from flashpods.jobs.submit import MOST_BRANCH, _branch

NAMES = [
    *(
        "main",
        "a/b",
        "fix-1",
        "a.b",
        "ä",
        "a@b",
        "a;b",
        "$(id)",
        "a'b",
        "{a}",
        "--",
        "refs/heads/x",
    ),
    *("HEAD", "-a", "a-", ".a", "a/.b", "a.", "a./b", "a..b", "a/", "/a", "a//b", "a.lock"),
    *(
        "a.lock/b",
        "a.lockx",
        "a b",
        "a\tb",
        "a\x7f",
        "a~b",
        "a^b",
        "a:b",
        "a?b",
        "a*b",
        "a[b",
        "a\\b",
    ),
    *("a@{b", "@{-1}", "HEAD/a", "heads/HEAD", "a" * MOST_BRANCH),
]


@pytest.mark.parametrize("name", NAMES)
def test_we_and_git_agree(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        ["git", "check-ref-format", "--branch", name],
        cwd=tmp_path,  # in a repository "@{-1}" is the branch that was checked out before
        env={**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)},
        capture_output=True,
        timeout=120,
        check=False,
    )
    if done.returncode == 0:
        assert _branch({"type": "agent", "git_branch": name}) == name
    else:
        with pytest.raises(BadRequest, match="git_branch"):
            _branch({"type": "agent", "git_branch": name})


@pytest.mark.parametrize("name", ["@", "a" * (MOST_BRANCH + 1)])
def test_what_git_would_take_for_something_else_or_can_not_store(name: str) -> None:
    with pytest.raises(BadRequest, match="git_branch"):
        _branch({"type": "agent", "git_branch": name})
