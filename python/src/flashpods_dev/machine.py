"""What the private namespace offers to the stacks inside it, and the user that runs them.

Ids are constants: the image store remembers in which mapping it was warmed, and every stack of a
checkout shares it. They lie outside what Debian, Ubuntu and systemd hand out.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

USER = "flashpods"
UID = 64900
TOKEN_UID = 64901  # the token service's: the jobs run as the stack's user
SUBIDS_START = 2_000_000_000
SUBIDS_COUNT = 65536
RSYNC_UID = (
    SUBIDS_START + SUBIDS_COUNT - 1
)  # the last subordinate id: transfers own nothing of ours

IMAGE = "localhost/flashpods/base:dev"
AGENT_IMAGE = "localhost/flashpods/agent:dev"
VARIABLE = "FLASHPODS_DEV_MACHINE"
CGROUP_ROOT = Path("/sys/fs/cgroup")


class StackError(Exception):
    """The stack can't start or go on; the message is for a person and names the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The inside of a namespace.

    ``cgroup`` is the delegated subtree, as a path below the root of the hierarchy (``/name``).
    """

    checkout: Path
    run_dir: Path  # scratch of this run, removed with it
    volatiles: Path  # a tmpfs that only the namespace has
    cgroup: str
    limits_enforced: bool

    @property
    def dev(self) -> Path:
        """The checkout's ``.dev``, which holds everything that ./dev creates."""
        return self.checkout / ".dev"

    @property
    def images(self) -> Path:
        """The image store that all stacks share, read-only to them."""
        return self.dev / "images"

    @property
    def cgroup_dir(self) -> Path:
        """Where the subtree is mounted."""
        return CGROUP_ROOT / self.cgroup.lstrip("/")

    def export(self) -> None:
        """Hand the machine to child processes, by the environment."""
        os.environ[VARIABLE] = json.dumps(asdict(self), default=str)


def inside() -> Machine:
    """Return the machine of this namespace.

    Raises:
        StackError: this process is not inside one.
    """
    text = os.environ.get(VARIABLE)
    if not text:
        raise StackError("this must run inside the stack's namespace: ./dev test, ./dev bench")
    data = json.loads(text)
    return Machine(
        checkout=Path(data["checkout"]),
        run_dir=Path(data["run_dir"]),
        volatiles=Path(data["volatiles"]),
        cgroup=data["cgroup"],
        limits_enforced=data["limits_enforced"],
    )
