"""A stand-in for conmon, what it writes, and what the log must then hold."""

import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flashpods.adapters.files.capture import Capture
from flashpods.adapters.files.k8sfile import ParserState, flush, parse
from flashpods.adapters.files.logread import truncation_line

JOB = "0123456789abcdef"
MB = 1024**2


class Engine:
    """Writes as conmon does: O_APPEND, and a fresh file renamed over a full one."""

    def __init__(self, raw: Path, most: int) -> None:
        self.raw, self.most, self.size = raw, most, 0
        self.fd = os.open(raw, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._lines: list[bytes] = []
        self.rotations = 0

    def write(self, *lines: bytes) -> None:
        for line in lines:
            if self.size + len(line) > self.most:
                os.close(self.fd)
                tmp = self.raw.with_name("raw.tmp")
                self.fd = os.open(tmp, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
                tmp.rename(self.raw)
                self.size, self.rotations = 0, self.rotations + 1
            os.write(self.fd, line)
            self.size += len(line)
            self._lines.append(line)

    @property
    def written(self) -> bytes:
        return b"".join(self._lines)

    def close(self) -> None:
        os.close(self.fd)


def raw(text: str, tag: str = "F", stream: str = "stdout", second: int = 26) -> bytes:
    return f"2026-11-24T09:31:{second:02}.123456789+00:00 {stream} {tag} {text}\n".encode()


def expected(stream: bytes, limit: int, own: bytes = b"") -> bytes:
    """What the log must hold, worked out in one go."""
    lines, state = parse(stream, ParserState()) if stream else ([], ParserState())
    log = bytearray(own)
    for line in [*lines, *flush(state)]:
        if len(log) + len(line) + 1 > limit:
            return bytes(log + truncation_line(limit))
        log += line + b"\n"
    return bytes(log)


def new(root: Path, limit: int = 50 * MB) -> Capture:
    (root / "logs").mkdir(exist_ok=True)
    (root / "capture").mkdir(exist_ok=True)
    return Capture(JOB, root / "logs" / f"{JOB}.log", root / "capture" / JOB, log_bytes=limit)


def finish(capture: Capture) -> bytes:
    while capture.step(final=True):
        pass
    capture.seal()
    assert not capture.directory.exists()
    return capture.log.read_bytes()


def output(count: int) -> list[bytes]:
    """Make raw lines with everything that may come: parts, both streams, odd bytes."""
    rng = random.Random(count)
    lines = []
    for n in range(count):
        second = n // 50 % 60
        stream = rng.choice(["stdout", "stderr"])
        lines.append(raw(f"{n} " + "x" * rng.randrange(100), "F", stream, second))
        if n % 7 == 0:
            lines.append(raw(f"{n} part ", "P", stream, second))
        if n % 501 == 0:
            lines.append(b"odd \xff\0\n")
    return [*lines, raw("no newline", "P")]


def failing(number: int, tried: threading.Event | None = None) -> Callable[..., Any]:
    """Return what always fails with that error, and says that it was tried."""

    def fail(*args: Any, **kwargs: Any) -> Any:
        if tried is not None:
            tried.set()
        raise OSError(number, os.strerror(number))

    return fail
