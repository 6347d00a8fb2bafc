"""Remove what no process owns, once ./dev is gone: the cgroup subtree and the scratch directory.

Started with ./dev's end of a pipe as its standard input, in a session and a mount namespace of its
own; end of file means that ./dev ended, by itself or by SIGKILL.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from flashpods_dev import cgroups


def main() -> None:
    """Wait for the end of ./dev, then clean up."""
    plan = json.loads(sys.argv[1])
    scratch = Path(plan["run_dir"])
    sys.stdin.buffer.read()
    hierarchy = scratch / "cgroup"
    hierarchy.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "cgroup2", "none", str(hierarchy)], check=True)
    left = not cgroups.clear(hierarchy / plan["cgroup"].lstrip("/"))
    subprocess.run(["umount", "--lazy", str(hierarchy)], check=True)
    shutil.rmtree(scratch, ignore_errors=True)
    if left:
        sys.exit(f"./dev: the cgroup {plan['cgroup']} could not be removed")


if __name__ == "__main__":
    main()
