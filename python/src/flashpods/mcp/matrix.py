"""The jobs of a ``spawn_many`` call: commands by images by variables. Pure rules."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from flashpods.client.errors import ClientError

__all__ = ["MOST", "Variant", "expand"]

MOST: Final = 100
MOST_COMMAND: Final = 10_000  # the host's limit
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


@dataclass(frozen=True, slots=True)
class Variant:
    """One job: what it runs, in which image, and what tells it from the others."""

    command: str
    image: str | None
    label: str


def expand(
    commands: Sequence[str], images: Sequence[str | None], matrix: Mapping[str, Sequence[str]]
) -> list[Variant]:
    """Return every combination, in the order of the arguments.

    Variables of the matrix are exported before the command; an image goes to the job.

    Raises:
        ClientError: ``invalid_matrix``: a name that is no variable's, no values, too many jobs or
            a command that gets too long.
    """
    for name, values in matrix.items():
        if not _NAME.match(name):
            raise ClientError("invalid_matrix", f"matrix: {name[:80]!r} is no variable's name")
        if not values:
            raise ClientError("invalid_matrix", f"matrix: {name} has no values; leave it out")
    count = len(commands) * max(1, len(images))
    for values in matrix.values():
        count *= len(values)
    if count > MOST:
        raise ClientError(
            "invalid_matrix", f"that makes {count} jobs, {MOST} is the most; split the call"
        )
    found = []
    for command, image in itertools.product(commands, images or [None]):
        for chosen in itertools.product(*matrix.values()):
            setting = dict(zip(matrix, chosen, strict=True))
            found.append(_variant(command, image, setting, len(images) > 1))
    return found


def _variant(
    command: str, image: str | None, setting: Mapping[str, str], show_image: bool
) -> Variant:
    words = [f"{name}={shlex.quote(value)}" for name, value in setting.items()]
    exports = f"export {' '.join(words)}; " if words else ""
    whole = exports + command
    if len(whole) > MOST_COMMAND or "\0" in whole:
        raise ClientError(
            "invalid_matrix",
            f"a command has {len(whole)} characters or a NUL; {MOST_COMMAND} are the most: put it "
            "into a script among the files",
        )
    label = " ".join([*words, *([image] if show_image and image else []), command])
    return Variant(whole, image, label if len(label) <= 200 else label[:199] + "…")
