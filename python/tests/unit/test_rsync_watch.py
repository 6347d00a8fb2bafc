"""The watcher of a transfer and the processes that it stops: never itself."""

from __future__ import annotations

import json
import subprocess
import sys

# What the rsync daemon, the hook and the watcher are to each other, until the hook has exited.
TREE = """
import json, os, sys
from flashpods.rsync_watch import family, stopped
daemon, hook_done = os.getpid(), os.pipe()
if os.fork() == 0:  # the hook
    hook = os.getpid()
    if os.fork() == 0:  # the watcher
        own = os.fork()
        if own == 0:
            os.read(hook_done[0], 1)  # a child of the watcher, such as who goes to the database
            os._exit(0)
        with stopped([p for p in family(daemon) if p != daemon]):
            state = open(f"/proc/{hook}/stat").read().rsplit(")", 1)[1].split()[0]
        print(json.dumps([family(daemon) == [daemon, hook], state]))
        sys.stdout.flush()
        os.write(hook_done[1], b"xx")
        os._exit(0)
    os.wait()
    os._exit(0)
os.wait()
"""


def test_a_watcher_below_the_hook_stops_the_hook_and_not_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TREE], capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(done.stdout) == [True, "T"]
