"""A fake Workload API and a fake token service, for tests that need answers and no SPIRE."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from flashpods_dev.helper_build import Programs


@contextmanager
def fake_identity(
    programs: Programs,
    tokens: Mapping[str, str | None],
    *,
    refuse: bool = False,
    status: int = 200,
) -> Iterator[Path]:
    """Serve ``agent.sock`` and ``token.sock`` in a directory that everybody may reach.

    Args:
        programs: with the fakes.
        tokens: what the token service answers.
        refuse: whether the Workload API has no identity for anybody.
        status: of the token service's answers.
    """
    directory = Path(tempfile.mkdtemp(prefix="fpi-", dir="/tmp"))  # short enough for a socket
    directory.chmod(0o755)
    body = json.dumps(tokens) if status == 200 else json.dumps({"error": "unknown_identity"})
    command = [str(programs.fakes), "-directory", str(directory), "-body", body]
    command += ["-refuse"] if refuse else []
    command += ["-status", str(status)]
    try:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as fakes:
            try:
                assert fakes.stdout is not None
                if fakes.stdout.readline() != b"ready\n":
                    raise RuntimeError("the fake identity does not start")
                yield directory
            finally:
                fakes.kill()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
