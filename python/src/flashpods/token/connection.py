"""One connection to the token service: it is counted, short, and knows its peer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flashpods.errors import FlashpodsError
from flashpods.token.door import SEAT, Seat
from flashpods.web.protocol import Protocol

if TYPE_CHECKING:
    from flashpods.token.app import TokenService


class Connection(Protocol):
    """uvicorn's protocol behind our door. A subclass made at the start sets ``head_seconds``."""

    head_limit = 16 * 1024
    seat: Seat | None = None

    @property
    def service(self) -> TokenService:
        """The application."""
        app: TokenService = self.config.app  # type: ignore[assignment] # uvicorn allows a name too
        return app

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        """Look who it is, before anything is read."""
        super().connection_made(transport)
        try:
            self.seat = self.service.door.enter(transport.get_extra_info("socket"))
        except FlashpodsError as e:
            self.refuse(e)
        except OSError:
            transport.abort()  # the peer has gone, or we are out of descriptors

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place back."""
        if self.seat is not None:
            self.service.door.leave(self.seat)
            self.seat = None
        super().connection_lost(exc)

    def rate_key(self) -> str:
        """Return the peer."""
        return self.seat.key if self.seat is not None else ""

    def on_message_begin(self) -> None:
        """Give the request its peer."""
        super().on_message_begin()
        self.scope[SEAT] = self.seat  # type: ignore[typeddict-unknown-key] # ASGI allows our own
