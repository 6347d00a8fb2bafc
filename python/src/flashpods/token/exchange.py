"""The exchange: a JWT-SVID from its own container for the secrets of its identity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from flashpods.errors import BadRequest, Forbidden, Unauthorized
from flashpods.ports.identity import ContainerTypes, JobContainer, SvidVerifier
from flashpods.token.policy import Policy
from flashpods.token.secrets import Vault

_HOW: Final = "send one header 'Authorization: Bearer <JWT-SVID>'"


@dataclass(slots=True, kw_only=True)
class Attempt:
    """What is known of one exchange; filled in as it goes, for the audit."""

    container: JobContainer | None  # by the caller's cgroup
    spiffe_id: str | None = None  # once the token has been verified
    job_type: str | None = None  # by the container's labels


class Exchanger:
    """Goes through the checks, each with its code; the first that fails ends it."""

    def __init__(
        self, *, verifier: SvidVerifier, policy: Policy, types: ContainerTypes, vault: Vault
    ) -> None:
        """Wire them."""
        self._verifier = verifier
        self._policy = policy
        self._types = types
        self._vault = vault

    async def exchange(
        self, authorization: Sequence[bytes], attempt: Attempt
    ) -> dict[str, str | None]:
        """Return the secrets.

        Args:
            authorization: the values of the request's Authorization headers.
            attempt: with the caller's container; the rest is filled in.

        Raises:
            BadRequest: ``missing_authorization``.
            Unauthorized: ``invalid_jwt``, ``expired_jwt``, ``invalid_audience``.
            Forbidden: ``unknown_identity``, ``identity_mismatch``.
            InternalError: ``secrets_unavailable``.
            Unavailable: there is no trust bundle, or the engine does not answer.
        """
        token = bearer(authorization)
        attempt.spiffe_id = self._verifier.verify(token).spiffe_id
        grant = self._policy.grant(attempt.spiffe_id)
        if attempt.container is None:
            raise _mismatch("the caller is not in a job's container")
        attempt.job_type = await self._types.job_type(attempt.container)
        if attempt.job_type != grant.job_type:
            raise _mismatch("the caller is in another type of container")
        answer: dict[str, str | None] = dict.fromkeys(grant.answered_null)
        answer.update(self._vault.get(grant.granted))
        return answer


def bearer(authorization: Sequence[bytes]) -> str:
    """Return the token of the one Authorization header.

    Raises:
        BadRequest: ``missing_authorization``: there is none, or it is of another scheme.
        Unauthorized: ``invalid_jwt``: the header comes twice, or what it bears is not ASCII.
    """
    if not authorization:
        raise BadRequest(f"there is no Authorization header; {_HOW}", code="missing_authorization")
    if len(authorization) > 1:
        raise Unauthorized(f"there are two Authorization headers; {_HOW}", code="invalid_jwt")
    scheme, _, rest = authorization[0].partition(b" ")
    token = rest.strip(b" ")
    if scheme.lower() != b"bearer" or not token:
        raise BadRequest(
            f"the Authorization header has no bearer token; {_HOW}", code="missing_authorization"
        )
    try:
        return token.decode("ascii")
    except UnicodeDecodeError:
        raise Unauthorized(f"the token is not ASCII; {_HOW}", code="invalid_jwt") from None


def _mismatch(why: str) -> Forbidden:
    return Forbidden(
        f"{why}; an identity serves only in the container that it was issued to",
        code="identity_mismatch",
    )
