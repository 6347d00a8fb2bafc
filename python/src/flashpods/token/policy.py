"""Who gets what: SPIFFE ID → names. A pure rule over the settings."""

from __future__ import annotations

from collections.abc import Mapping

from flashpods.config_tokens import Grant
from flashpods.errors import Forbidden


class Policy:
    """The settings' policy."""

    def __init__(self, grants: Mapping[str, Grant]) -> None:
        """Keep it; the settings have been checked."""
        self._grants = dict(grants)

    def grant(self, spiffe_id: str) -> Grant:
        """Return what the SPIFFE ID gets.

        Raises:
            Forbidden: ``unknown_identity``.
        """
        found = self._grants.get(spiffe_id)
        if found is None:
            raise Forbidden(
                "this identity gets no secrets; the host's setting tokens.policy names those that "
                "do",
                code="unknown_identity",
            )
        return found

    @property
    def names(self) -> frozenset[str]:
        """Every name that is granted to somebody."""
        return frozenset(name for grant in self._grants.values() for name in grant.granted)
