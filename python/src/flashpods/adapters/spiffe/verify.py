"""JWT-SVIDs, validated by py-spiffe with the bundle at hand; its exceptions become ours.

py-spiffe and PyJWT refuse an algorithm that is not an asymmetric one of the standard, an unknown
key id, a wrong signature, a foreign trust domain, and what has expired. What they leave open is
closed here: a size, more than one audience, and claims of the wrong kind, which make py-spiffe
raise ``KeyError`` or ``TypeError``.
"""

from __future__ import annotations

from typing import Final, NoReturn

from jwt.exceptions import ExpiredSignatureError, InvalidAudienceError, MissingRequiredClaimError
from spiffe import JwtSvid
from spiffe.errors import PySpiffeError

from flashpods.adapters.spiffe.bundles import BundleKeeper
from flashpods.errors import Unauthorized
from flashpods.ports.identity import Verified

TOKEN_CHARS: Final = 8192  # SPIRE's are of about 700


class BundleVerifier:
    """Validates tokens for one audience; see the port."""

    def __init__(self, bundles: BundleKeeper, audience: str) -> None:
        """Trust the keeper's bundle."""
        self._bundles = bundles
        self._audience = audience

    def age(self) -> float:
        """Return for how long the bundle has not been kept fresh; see the port."""
        return self._bundles.age()

    def verify(self, token: str) -> Verified:
        """Validate; see the port.

        Our messages never hold anything of the token. The cause's kind may be logged, its text,
        which may, must not be.
        """
        if len(token) > TOKEN_CHARS or not token.isascii():
            _invalid(f"it is over {TOKEN_CHARS} characters, or not ASCII")
        bundle = self._bundles.bundle()
        try:
            svid = JwtSvid.parse_and_validate(token, bundle, {self._audience})
        except PySpiffeError as e:
            self._refuse(e)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as e:
            _invalid("a header or claim is missing, or of the wrong type", e)
        if svid.audience != {self._audience}:
            # Each of its other audiences has seen it, or will, and could present it here.
            self._wrong_audience()
        return Verified(spiffe_id=str(svid.spiffe_id))

    def _refuse(self, error: PySpiffeError) -> NoReturn:
        """Translate; the signature has been checked before expiry, and expiry before audience."""
        cause = error.__cause__
        if isinstance(cause, ExpiredSignatureError):
            raise Unauthorized(
                "the JWT-SVID has expired; fetch a new one from the Workload API",
                code="expired_jwt",
            ) from cause
        if isinstance(cause, InvalidAudienceError) or (
            isinstance(cause, MissingRequiredClaimError) and cause.claim == "aud"
        ):
            self._wrong_audience(cause)
        _invalid(
            "its signature, key, algorithm or claims do not hold in this trust domain",
            cause or error,
        )

    def _wrong_audience(self, cause: BaseException | None = None) -> NoReturn:
        raise Unauthorized(
            f"the JWT-SVID must be for the audience {self._audience!r} and no other; fetch one "
            f"for it from the Workload API",
            code="invalid_audience",
        ) from cause


def _invalid(why: str, cause: BaseException | None = None) -> NoReturn:
    raise Unauthorized(
        f"the JWT-SVID is not valid: {why}; fetch a new one from the Workload API",
        code="invalid_jwt",
    ) from cause
