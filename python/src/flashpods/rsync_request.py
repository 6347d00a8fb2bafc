"""What a client may ask of the rsync daemon: pure rules on the request, nothing is looked at.

Standard library only: the rsync hook starts often.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

UPLOAD_ID: Final = re.compile(r"upload_[A-Za-z0-9_-]{12,64}")
BASE: Final = re.compile(r"/\.bases/[A-Za-z0-9][A-Za-z0-9._-]{0,63}/?")

# What rsync 3.1 to 3.5 and openrsync send to a receiving server (options.c, server_options()),
# less all that names a place (backup-dir, temp-dir, partial-dir, compare-dest, link-dest,
# files-from, log-file, …), follows links there (K, k, L), or acts as root. -D comes with -a.
FLAGS: Final = frozenset("svqbunldmOJyWHogDtUNpEAXrcCIRxSz")
WITH_VALUE: Final = frozenset("B@")  # -B700, -@-1: the rest of the word is a number
LONG: Final = frozenset(
    (
        *("server", "append", "checksum-choice", "checksum-seed", "compress-choice", "compress"),
        *("compress-level", "delete", "delete-after", "delete-before", "delete-delay"),
        *("delete-during", "delete-excluded", "delete-missing-args", "delay-updates", "existing"),
        *("force", "fsync", "iconv", "ignore-errors", "ignore-existing", "inplace", "info"),
        *("debug", "log-format", "max-delete", "max-size", "min-size", "mkpath"),
        *("modify-window", "msgs2stderr", "new-compress", "no-implied-dirs", "no-msgs2stderr"),
        *("no-r", "no-relative", "no-specials", "no-W", "numeric-ids", "old-compress"),
        *("open-noatime", "partial", "preallocate", "remove-sent-files", "remove-source-files"),
        *("safe-links", "size-only", "specials", "stats", "timeout", "bwlimit", "use-qsort"),
    )
)


class Refused(Exception):
    """The transfer may not begin; the message is one line for the client."""


def requested_upload(env: Mapping[str, str]) -> str:
    """Return the id of the upload that the request writes to, after checking all of the request.

    Raises:
        Refused: an option that reaches beyond the upload, several targets, or no upload's path.
    """
    arguments: list[str] = []
    while (value := env.get(f"RSYNC_ARG{len(arguments)}")) is not None:
        arguments.append(value)
    if "." not in arguments:
        raise Refused("the request has no path; push to rsync://<host>/uploads/upload_<id>/")
    end = arguments.index(".")
    check_options(arguments[1:end])
    paths = arguments[end + 1 :]
    module = env.get("RSYNC_MODULE_NAME", "")
    # The arguments are the paths after expansion, the request is what the client sent; where they
    # differ (several paths, wildcards, dots) it is not worth knowing why.
    inner = paths[0].removeprefix("/") if len(paths) == 1 else ""
    if env.get("RSYNC_REQUEST") != f"{module}/{inner}":
        raise Refused("the request must name one directory, .../upload_<id>/, and nothing else")
    return upload_of(inner)


def upload_of(path: str) -> str:
    """Return the upload's id in ``<upload id>/...``, a path within the module.

    Raises:
        Refused: another path.
    """
    upload_id, *inner = path.split("/")
    if not UPLOAD_ID.fullmatch(upload_id):
        raise Refused(
            f"{cut(path)} is no upload; the first directory must be upload_ and 12 to 64 letters, "
            f"digits, _ or -"
        )
    if not inner:  # a single file would take the directory's place
        raise Refused(f"{cut(path)} must end with a /")
    if ".." in inner or "\0" in path:
        raise Refused(f"{cut(path)} leaves the upload")
    return upload_id


def check_options(options: Sequence[str]) -> None:
    """Refuse what this module does not know to stay within the upload.

    Raises:
        Refused: it names the option.
    """
    rest = iter(options)
    for option in rest:
        name, has_value, value = option.removeprefix("--").partition("=")
        if option.startswith("--") and name == "copy-dest":
            place = value if has_value else next(rest, "")
            if not BASE.fullmatch(place):
                raise Refused(f"--copy-dest={cut(place)} is not allowed; /.bases/<project> is")
        elif option.startswith("--") and name not in LONG:
            raise Refused(f"--{cut(name)} is not allowed here; leave it out")
        elif not option.startswith("--"):
            _check_flags(option)


def _check_flags(word: str) -> None:
    """Check one word of single-letter options; ``e`` ends it (the client's capabilities)."""
    if len(word) < 2 or word[0] != "-":
        raise Refused(f"argument {cut(word)} is not expected here")
    for place, letter in enumerate(word[1:], 1):
        if letter == "e" and word[place + 1 :].replace(".", "").isalnum():
            return
        if letter in WITH_VALUE and word[place + 1 :].lstrip("-").isdigit():
            return
        if letter not in FLAGS:
            raise Refused(f"-{cut(letter)} is not allowed here; leave it out")


def cut(text: str) -> str:
    """Return printable ASCII, at most 80 characters: it goes to a terminal and a log."""
    return text.encode("ascii", "backslashreplace").decode()[:80].translate(_UNPRINTABLE)


_UNPRINTABLE: Final = dict.fromkeys((*range(32), 127), "?")
