"""What the exit code of an agent's container says: the errors of its entrypoint.

The entrypoint (``pkgs/agent-image/entrypoint.sh``) ends with the code of the agent's command, or
with one of these when it fails itself. An exit code is in the container's state, so it needs no
file that a job could garble, and recovery reads it like the life before. These lie above every
code that a shell gives to a signal (128 + 64), and the entrypoint never passes one of them on from
a command.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

COMMAND_FAILED: Final = "agent_command_failed"
ENTRYPOINT_ERRORS: Final[Mapping[int, str]] = MappingProxyType(
    {
        201: "spire_attestation_timeout",  # no identity in time
        202: "token_exchange_failed",  # the token service refused, or was away
        203: "git_clone_failed",  # no repository, or origin refused or was away
        204: "git_branch_failed",  # the branch can't be switched to, or has diverged from origin's
        205: "git_push_failed",  # the work is in changes.patch
        206: "git_commit_failed",
        207: "agent_report_failed",  # all is pushed, but summary.md or changes.patch is missing
    }
)


def agent_error(exit_code: int) -> str:
    """Return the ``error`` of an agent's job that ended with another code than 0."""
    return ENTRYPOINT_ERRORS.get(exit_code, COMMAND_FAILED)
