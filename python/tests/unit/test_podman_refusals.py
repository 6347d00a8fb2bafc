"""Which of the engine's refusals pass, and which end the job."""

from __future__ import annotations

import pytest

from flashpods.adapters.podman.refusals import refusal
from flashpods.adapters.podman.rest import Answer
from flashpods.errors import Unavailable
from flashpods.ports import ContainerError


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("crun: create keyring `ed0f`: Disk quota exceeded: OCI runtime error", Unavailable),
        ("database is locked", Unavailable),
        ("localhost/x: image not known", Unavailable),
        ("crun: open executable: Permission denied: OCI permission denied", ContainerError),
    ],
)
def test_a_cause_that_passes_is_told_from_one_that_stays(
    message: str, kind: type[Exception]
) -> None:
    found = refusal(Answer(500, b'{"message": "%b"}' % message.encode()), "cannot initialise x")
    assert type(found) is kind
    assert message in str(found)
