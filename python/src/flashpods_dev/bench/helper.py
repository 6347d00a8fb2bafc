"""An exchange by the helper mounted into jobs, beside a bare fetch of a JWT-SVID."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from flashpods_dev import helper_build
from flashpods_dev.bench.report import Result, p50
from flashpods_dev.fake_identity import fake_identity

EXTRA_MS = 30.0  # what the exchange may take more than the bare fetch


def measure(checkout: Path, rounds: int, sockets: Path | None = None) -> list[Result]:
    """Take both in turn, each a process of its own.

    Args:
        checkout: whose helper is measured.
        rounds: of each.
        sockets: the directory with ``agent.sock`` and ``token.sock``; fakes serve them when None.
    """
    programs = helper_build.ensure(checkout)
    if sockets is not None:
        return _measure(programs, rounds, sockets)
    with fake_identity(programs, {"GITHUB_TOKEN": "token"}) as directory:
        return _measure(programs, rounds, directory)


def _measure(programs: helper_build.Programs, rounds: int, sockets: Path) -> list[Result]:
    env = {
        "SPIFFE_ENDPOINT_SOCKET": f"unix://{sockets}/agent.sock",
        "FLASHPODS_TOKEN_SOCKET": f"{sockets}/token.sock",
    }
    ours, peer = [], []
    for number in range(-2, rounds):  # two rounds warm up
        mine = _timed([programs.helper, "get", "GITHUB_TOKEN"], env)
        theirs = _timed([programs.rawfetch], env)
        if number >= 0:
            ours.append(mine)
            peer.append(theirs)
    fetch = p50(peer) * 1000
    return [
        Result(
            name="token exchange by the helper",
            unit="ms",
            ours=p50(ours) * 1000,
            peer_name="bare JWT-SVID fetch",
            peer=fetch,
            goal=round(1 + EXTRA_MS / fetch, 1),
            at_most=True,
            note=f"p50 of {rounds}, in turn, process start included; goal: {EXTRA_MS:.0f} ms more",
        )
    ]


def _timed(command: Sequence[Path | str], env: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, env={**os.environ, **env}, check=True, capture_output=True, timeout=30)
    return time.perf_counter() - began
