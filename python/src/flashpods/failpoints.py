"""Named places at which a fault test has the process killed.

``FLASHPODS_FAILPOINT=NAME[:N]`` in the environment arms one place: the process sends itself SIGKILL
the N-th time (default 1) it comes there, as a power switch would. ``FLASHPODS_FAILPOINT=@FILE``
takes ``NAME[:N]`` from a file, while it exists, so that a process can be armed when it is needed.
Without the variable :func:`hit` is one test of a constant. The names are those of :data:`PLACES`,
each is placed once (``tests/faults/test_failpoints.py`` sees to it), and experiment 1 of
``./dev faults`` visits all.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Final

VARIABLE: Final = "FLASHPODS_FAILPOINT"

PLACES: Final = (
    # jobs/submit.py: POST /jobs
    "submit.before_commit",
    "submit.after_commit",
    "submit.after_begin",
    # jobs/supervisor.py: DELETE /jobs/{id}
    "cancel.before_commit",
    "cancel.after_commit",
    # jobs/launch.py
    "launch.before_starting",
    "launch.after_starting",
    "launch.after_claim",
    "launch.after_image",
    "launch.before_create",
    "launch.after_create",
    "launch.before_start",
    "launch.after_start",
    "launch.after_started",
    # adapters/sqlite/jobs.py: within the transaction that makes a job ``running``
    "consume.before",
    "consume.after",
    # adapters/podman/runtime.py
    "engine.before_init",
    "engine.after_delete",
    # adapters/files/capture.py: the raw output on its way into the log
    "capture.before_append",
    "capture.after_append",
    "capture.after_checkpoint",
    "capture.before_rename",
    "capture.after_rename",
    # jobs/monitor.py
    "monitor.before_wait",
    "monitor.after_wait",
    "monitor.before_sigterm",
    "monitor.after_sigterm",
    "monitor.before_sigkill",
    "monitor.after_sigkill",
    # jobs/collect.py
    "collect.before_drain",
    "collect.after_drain",
    # adapters/files/artifacts.py
    "artifacts.before_rename",
    "artifacts.after_rename",
    "collect.after_artifacts",
    "collect.after_note",
    "collect.after_end",
    "tidy.before_remove",
    "tidy.after_remove",
    "tidy.after_base",
    "tidy.after_discard",
    "tidy.after_delete",
    # jobs/supervisor.py: a job that ends before it ran
    "early.before_remove",
    "early.after_remove",
    # uploads.py
    "reserve.before_commit",
    "reserve.after_commit",
    "finalize.before_begin",
    "finalize.after_begin",
    "finalize.after_move",
    "finalize.after_complete",
    "copy.after_begin",
    "copy.after_copy",
    "discard.after_expire",
    "discard.after_delete",
    # jobs/cleanup.py, in the reaper's process
    "cleanup.after_adopt",
    "cleanup.after_expire",
    "cleanup.after_upload",
    "cleanup.after_artifacts_note",
    "cleanup.after_artifacts",
    "cleanup.after_cleaning",
    "cleanup.after_finish_log",
    "cleanup.after_finish_artifacts",
    "cleanup.after_finish_workspace",
    "cleanup.after_cleaned",
    "cleanup.after_log_note",
    "cleanup.after_log",
    "cleanup.after_container",
)


def parse(text: str) -> tuple[str, int]:
    """Return (name, count) of ``NAME[:N]``.

    Raises:
        ValueError: there is no such place, or N is not a whole number of at least 1.
    """
    name, _, count = text.partition(":")
    if name not in PLACES:
        raise ValueError(f"{VARIABLE}={text}: there is no failpoint {name!r}")
    if count and (not count.isdecimal() or int(count) < 1):
        raise ValueError(f"{VARIABLE}={text}: give a count of at least 1 after the colon")
    return name, int(count or 1)


class _Switch:
    """What is armed, and how often it is still to be passed."""

    def __init__(self, text: str) -> None:
        self._file = Path(text[1:]) if text.startswith("@") else None
        self._text = ""
        self._name = ""
        self._left = 0
        if self._file is None:
            self._arm(text)

    def _arm(self, text: str) -> None:
        self._text = text
        self._name, self._left = parse(text) if text else ("", 0)

    def passed(self, name: str) -> bool:
        """Whether this is the armed place and its turn has come."""
        if self._file is not None:
            try:
                text = self._file.read_text()
            except FileNotFoundError:
                text = ""
            if text != self._text:
                self._arm(text)
        if name != self._name:
            return False
        self._left -= 1
        return self._left == 0


_switch = _Switch(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None
ARMED: Final = _switch is not None


def hit(name: str) -> None:
    """Die here if this place is the armed one and its turn has come."""
    if _switch is not None and _switch.passed(name):
        os.kill(os.getpid(), signal.SIGKILL)
