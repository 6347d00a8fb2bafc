"""What git ignores, asked of the real git, and left out by the real rsync."""

import os
import subprocess
from pathlib import Path

import pytest

from flashpods.client.errors import UploadError
from flashpods.client.gitignore import ignored_patterns, to_pattern
from flashpods.client.rsync import build_command

KEPT = {
    ".gitignore", "a.py", "important.log", "empty/", "build/", "build/tracked", "sub/",
    "sub/.gitignore", "sub/debug.log", "sub/secret", "sub/build2/", "sub/build2/x", "n/", "n/dir/",
    "n/dir/repo/", "n/dir/repo/.gitignore", "n/dir/repo/b.log", "back\\slash", "back\\s?ash",
    "new\nline", "xlog",
}  # fmt: skip
LEFT_OUT = {
    "x.log", "build/a", "build/deep/b", "secret", "sub/x.log", "sub/y.tmp", "odd*[1].ign",
    "n/dir/repo/a.o", "excluded", "wild\\*.ign", "ignored-repo/file", "ignored-repo/.git/HEAD",
}  # fmt: skip


def git(place: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", place, *arguments], check=True, capture_output=True, timeout=120)


def make(top: Path, name: str, text: str = "") -> None:
    path = top / name
    if name.endswith("/"):
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    top = tmp_path / "tree"
    for name in sorted(KEPT | LEFT_OUT):
        make(top, name)
    make(top, ".gitignore", "/build/\n*.log\n!important.log\n/secret\n*.ign\n/ignored-repo/\n")
    make(top, "sub/.gitignore", "!debug.log\n*.tmp\n/build/\n")
    make(top, "n/dir/repo/.gitignore", "*.o\n")
    git(top, "init", "-q")
    git(top, "add", "--force", "build/tracked")
    make(top, ".git/info/exclude", "excluded\n")
    git(top / "n/dir/repo", "init", "-q")
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as in a hook: it must not lead astray
    return top


def names(top: Path) -> set[str]:
    return {
        f"{path.relative_to(top)}{'/' if path.is_dir() else ''}"
        for path in top.rglob("*")
        if ".git" not in path.relative_to(top).parts
    }


def push(source: Path, tmp_path: Path, patterns: list[str]) -> set[str]:
    listed = tmp_path / "list"
    listed.write_bytes(b"".join(os.fsencode(p) + b"\0" for p in patterns))
    out = tmp_path / "out"
    command = build_command(
        "rsync", source, f"{out}/", exclude=[".git"], base=None, exclude_from=listed
    )
    command = [word for word in command if not word.startswith("--contimeout")]  # daemons only
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return names(out)


async def test_what_git_ignores_stays_here_and_nothing_else(tree: Path, tmp_path: Path) -> None:
    assert push(tree, tmp_path, await ignored_patterns(tree)) == KEPT


async def test_a_directory_within_the_repository(tree: Path, tmp_path: Path) -> None:
    inner = {n.removeprefix("sub/") for n in KEPT if n.startswith("sub/")} - {""}
    assert push(tree / "sub", tmp_path, await ignored_patterns(tree / "sub")) == inner


def test_patterns_are_exact() -> None:
    assert to_pattern("a/b/") == "/a/b/"
    assert to_pattern("a\\b") == "/a\\b"
    assert to_pattern("a\\*[x]?") == "/a\\\\\\*\\[x]\\?"


async def test_outside_of_any_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    with pytest.raises(UploadError) as caught:
        await ignored_patterns(tmp_path)
    assert caught.value.code == "not_a_repository"
    assert str(tmp_path) in caught.value.message


async def test_a_directory_that_git_ignores_as_a_whole(tree: Path) -> None:
    make(tree, ".gitignore", "/dist\n")
    make(tree, "dist/x")
    with pytest.raises(UploadError) as caught:
        await ignored_patterns(tree / "dist")
    assert caught.value.code == "not_a_repository"
    assert "dist" in caught.value.message


async def test_a_repository_that_git_can_not_read(tree: Path) -> None:
    (tree / ".git" / "config").write_text("[")
    with pytest.raises(UploadError) as caught:
        await ignored_patterns(tree)
    assert caught.value.code == "git_failed"
    assert "bad config" in caught.value.message


async def test_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UploadError) as caught:
        await ignored_patterns(tmp_path)
    assert caught.value.code == "git_missing"


async def test_the_repositorys_own_configuration_executes_nothing(
    tree: Path, tmp_path: Path
) -> None:
    script = tmp_path / "monitor"
    script.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    script.chmod(0o755)
    git(tree, f"--git-dir={tree}/.git", "config", "core.fsmonitor", str(script))
    await ignored_patterns(tree)
    assert not (tmp_path / "ran").exists()
