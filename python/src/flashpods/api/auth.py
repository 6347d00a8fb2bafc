"""The bearer token (RFC 6750), compared in constant time with every token of the file."""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from flashpods.errors import Unauthorized

_BEARER: Final = re.compile(rb"bearer +([!-~]{1,1024}) *\Z", re.IGNORECASE)
_WORD: Final = re.compile(r"[^/?&=;,\s]{16,512}")
_HOW: Final = "send one header 'Authorization: Bearer <token>' with the token of the host's file"


class Authenticator:
    """Knows the tokens only as digests."""

    def __init__(self, tokens: Sequence[bytes]) -> None:
        """Take one token, or two during a rotation."""
        self._digests = tuple(sha256(token).digest() for token in tokens)

    def replace(self, tokens: Sequence[bytes]) -> bool:
        """Accept these tokens from now on, and no others; return whether that is a change."""
        before = self._digests
        self._digests = tuple(sha256(token).digest() for token in tokens)
        return self._digests != before

    def check(self, headers: Sequence[bytes]) -> None:
        """Accept the values of the request's ``Authorization`` headers.

        Digests are compared, so that neither the length nor the place of the first wrong byte
        shows in the time; and all of them always, so that it does not show which one was right.

        Raises:
            Unauthorized: ``missing_authorization``, ``malformed_authorization`` (also when the
                header comes twice), ``invalid_token``.
        """
        if not headers:
            raise _refusal("missing_authorization", f"there is no Authorization header; {_HOW}")
        found = _BEARER.match(headers[0]) if len(headers) == 1 else None
        if found is None:
            raise _refusal("malformed_authorization", f"the Authorization header is wrong; {_HOW}")
        given = sha256(found[1]).digest()
        known = False
        for digest in self._digests:
            known |= hmac.compare_digest(digest, given)
        if not known:
            raise _refusal(
                "invalid_token",
                "the host does not know this token; it may have been "
                "rotated, read the host's token file again",
            )

    def redact(self, text: str) -> str:
        """Return a path fit for a log: who puts a token into one by mistake finds it nowhere."""
        return _WORD.sub(lambda m: "***" if self._knows(m[0]) else m[0], text)

    def _knows(self, word: str) -> bool:
        digest = sha256(word.encode("utf-8", "surrogatepass")).digest()
        return any(hmac.compare_digest(known, digest) for known in self._digests)


def _refusal(code: str, message: str) -> Unauthorized:
    challenge = 'Bearer realm="flashpods"'
    if code == "invalid_token":
        challenge += ', error="invalid_token"'
    return Unauthorized(message, code=code, headers={"WWW-Authenticate": challenge})
