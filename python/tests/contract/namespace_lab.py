"""A machine with a user flashpods and subordinate ids, for one command; ours stays untouched.

In a private mount namespace, /etc/passwd, group, subuid and subgid are bind mounts of copies, and
directories that only root may enter (an interpreter below /root) are opened up by a tmpfs in front.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UID = 64900
FIRST_SUBID = 700_000
SUBIDS = 65_536
RSYNC_UID = FIRST_SUBID + SUBIDS - 1

_ENTER = r"""
set -e
S=$1; U=$2; F=$3; N=$4; shift 4
mkdir -p "$S/etc"
cp /etc/passwd /etc/group "$S/etc/"
echo "flashpods:x:$U:$U::/:/usr/sbin/nologin" >> "$S/etc/passwd"
echo "flashpods:x:$U:" >> "$S/etc/group"
echo "flashpods:$F:$N" | tee "$S/etc/subuid" > "$S/etc/subgid"
for f in passwd group subuid subgid; do
  [ -e /etc/$f ] || : > /etc/$f
  mount --bind "$S/etc/$f" /etc/$f
done
for closed in $CLOSED; do
  mkdir -p "$S/hold"
  mount --rbind "$closed" "$S/hold"
  mount -t tmpfs -o mode=755,size=256k none "$closed"
  for e in "$S"/hold/* "$S"/hold/.[!.]*; do
    if [ -d "$e" ] && [ ! -L "$e" ]; then
      mkdir "$closed/${e##*/}"; mount --rbind "$e" "$closed/${e##*/}"
    fi
  done
done
exec setpriv --reuid "$U" --regid "$U" --clear-groups env -i PATH="$PATH" "$@"
"""


def _closed() -> list[str]:
    """Return the directories above the interpreter and this file that only their owner enters."""
    real = [Path(sys.executable).resolve(), Path(sys.executable), Path(__file__).resolve()]
    found = {
        str(parent) for path in real for parent in path.parents if not parent.stat().st_mode & 0o001
    }
    return sorted(found)


@contextmanager
def place() -> Iterator[Path]:
    """Yield a directory that everybody may enter; pytest's own is root's alone."""
    path = Path(tempfile.mkdtemp(prefix="flashpods-lab-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


def as_flashpods(where: Path, script: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a Python script as user flashpods; its lines of output can be read as they come."""
    command = ["unshare", "--mount", "--propagation", "private", "bash", "-c", _ENTER, "bash"]
    command += [str(where), str(UID), str(FIRST_SUBID), str(SUBIDS)]
    command += [sys.executable, "-c", script, *arguments]
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n", "-E"]
    return subprocess.Popen(
        [*sudo, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={"PATH": os.environ["PATH"], "CLOSED": " ".join(_closed())},
    )


def run_as_flashpods(where: Path, script: str, *arguments: str) -> str:
    """Run a Python script to its end and return its output; it must succeed."""
    with as_flashpods(where, script, *arguments) as process:
        out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    return out
