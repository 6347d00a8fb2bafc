"""A place that rsync's user may enter, with a database, and a daemon that is confined as HOST's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from rsync_hook_rig import BOUND, OWNER, ROOT, RSYNC_UID, Daemon, answers, named, until

from flashpods.adapters.sqlite.migrations import migrate
from flashpods_dev import rsyncd
from flashpods_dev.layout import free_port


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that the other users may enter, unlike pytest's."""
    directory = Path(tempfile.mkdtemp(prefix="flashpods-hook-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def database(place: Path) -> Path:
    directory = place / "db"
    directory.mkdir(mode=0o700)
    path = directory / "flashpods.db"
    migrate(path)
    if ROOT:
        for owned in (directory, *directory.iterdir()):
            os.chown(owned, OWNER, OWNER)
    return path


@pytest.fixture
def limits() -> str:
    """The hook's quotas, as options."""
    return ""


@pytest.fixture
def daemon(place: Path, database: Path, limits: str) -> Iterator[Daemon]:
    module, source = place / "uploads", place / "source"
    (module / ".bases" / "proj").mkdir(parents=True)
    source.mkdir()
    (source / "hello").write_text("hello\n")
    (source / "link").symlink_to("/etc/passwd")
    if ROOT:
        for owned in (module, module / ".bases", module / ".bases" / "proj"):
            os.chown(owned, RSYNC_UID, RSYNC_UID)
    port = free_port()  # none that the kernel gives to a client meanwhile
    hook = f"{sys.executable} -m flashpods.rsync_hook {{}} --database {database} {limits}"
    lines = [
        f"use chroot = {'yes' if ROOT else 'no'}",
        "[uploads]",
        f"path = {module}",
        "read only = no",
        "write only = yes",
        "munge symlinks = yes",
        "numeric ids = yes",
        *([f"uid = {RSYNC_UID}", f"gid = {RSYNC_UID}"] if ROOT else []),
        f"pre-xfer exec = {hook.format('pre')}",
        f"post-xfer exec = {hook.format('post')}",
    ]
    config = place / "rsyncd.conf"
    config.write_text("\n".join(lines) + "\n")
    command = ["rsync", "--daemon", "--no-detach", f"--config={config}", f"--port={port}"]
    command += ["--address=127.0.0.1", f"--log-file={place / 'log'}"]
    process = subprocess.Popen(
        rsyncd.confined(command) if ROOT else command, stdin=subprocess.DEVNULL
    )
    try:
        until(lambda: answers(port))
        yield Daemon(module, database, port, source)
        # the post hooks and the watchers, which are nobody's children, write to the directory
        until(lambda: named(place) <= {process.pid})
    finally:
        process.terminate()
        process.wait(BOUND)
