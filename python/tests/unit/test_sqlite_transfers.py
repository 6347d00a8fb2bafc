"""Who writes to an upload is told by /proc, whatever the process is called."""

from __future__ import annotations

import subprocess

from flashpods.adapters.sqlite.transfers import alive, parent, start_ticks

NAMED = r"printf '\377\376)' >/proc/$$/comm && echo named && read -r _"


def test_a_process_may_be_called_anything() -> None:
    with subprocess.Popen(
        ["sh", "-c", NAMED], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"named\n"
        ticks = start_ticks(child.pid)
        assert ticks is not None
        assert ticks > 0
        assert alive(child.pid, ticks)
        assert not alive(child.pid, ticks + 1)
        assert parent(child.pid) > 0
        child.communicate(b"\n")
    assert not alive(child.pid, ticks)
