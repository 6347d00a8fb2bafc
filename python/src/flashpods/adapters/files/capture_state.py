"""What a capture knows of its place, and how that outlives the process."""

from __future__ import annotations

import base64
import json
import os
from dataclasses import dataclass
from pathlib import Path

from flashpods.adapters.files.k8sfile import ParserState, Pending


@dataclass(frozen=True, slots=True)
class Place:
    """A consistent point: all raw output before it is in the log before ``log``."""

    generation: int
    offset: int  # in that raw file
    log: int
    capped: bool
    parser: ParserState


@dataclass(frozen=True, slots=True)
class Kept:
    """A raw file under ``kept/``."""

    number: int
    gap: bool
    inode: int
    path: Path

    @classmethod
    def at(cls, path: Path) -> Kept:
        """Return what the name says. Raises OSError, ValueError."""
        gap = path.name.endswith("g")
        return cls(int(path.name.removesuffix("g")), gap, path.stat().st_ino, path)


def replace_file(file: Path, data: bytes) -> None:
    """Write a file so that a reader finds the old or the new content whole. Raises OSError.

    From the return on it is the new one, after a power cut as well.
    """
    temporary = file.with_name(f"{file.name}.tmp")
    with temporary.open("wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    temporary.replace(file)
    directory = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def encode(place: Place) -> bytes:
    """Return the checkpoint."""
    return json.dumps(
        {
            "generation": place.generation,
            "offset": place.offset,
            "log": place.log,
            "capped": place.capped,
            "head": place.parser.head.decode(),
            "pending": [
                [p.stream.decode(), p.head.decode(), base64.b64encode(p.text).decode()]
                for p in place.parser.pending
            ],
        }
    ).encode()


def decode(checkpoint: bytes) -> Place:
    """Return the place.

    Raises:
        ValueError, KeyError, TypeError: it is not a checkpoint (a power cut may leave it empty).
    """
    data = json.loads(checkpoint)
    pending = tuple(
        Pending(stream.encode(), head.encode(), base64.b64decode(text))
        for stream, head, text in data["pending"]
    )
    return Place(
        int(data["generation"]),
        int(data["offset"]),
        int(data["log"]),
        bool(data["capped"]),
        ParserState(pending, data["head"].encode()),
    )
