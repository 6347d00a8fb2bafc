"""The SPIRE server's own command line, on its private socket; every call has a deadline.

Its JSON is protobuf's (https://protobuf.dev/programming-guides/json/): 64-bit numbers are strings.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from typing import Any, Final

from flashpods.config_identity import Spire

LOOK_SECONDS: Final = 0.1
NOT_FOUND: Final = 5  # google.rpc.Code


class SpireError(Exception):
    """The server did not do what it was asked; the message is one line for a person."""


class ServerAway(SpireError):
    """The server does not answer; it may later."""


class SpireServer:
    """Calls ``spire-server``; what it prints never holds a join token unless one was asked for."""

    def __init__(self, settings: Spire) -> None:
        """Call nothing yet."""
        self._settings = settings

    def call(self, *words: str, options: tuple[str, ...] = (), data: Any = None) -> Any:
        """Run a subcommand and return its JSON.

        Args:
            words: the subcommand, such as ``"entry", "show"``.
            options: its options; nothing secret, others can read them.
            data: sent as JSON to its standard input.

        Raises:
            ServerAway: the socket is not there, or no answer came in time.
            SpireError: it refused, or what it printed is not JSON.
        """
        settings = self._settings
        command = [settings.server_binary, *words, "-socketPath", str(settings.server_socket)]
        command += ["-output", "json", *options]
        what = f"spire-server {' '.join(words)}"
        if not settings.server_socket.exists():
            raise ServerAway(f"{what}: {settings.server_socket} is missing; is the server up?")
        try:
            done = subprocess.run(
                command,
                input="" if data is None else json.dumps(data),
                capture_output=True,
                text=True,
                timeout=settings.call_seconds,
                check=False,
                env={"PATH": os.environ.get("PATH", os.defpath)},
            )
        except OSError as e:
            raise SpireError(f"{what}: {settings.server_binary}: {e.strerror}") from e
        except subprocess.TimeoutExpired:
            raise ServerAway(f"{what}: no answer within {settings.call_seconds:g} s") from None
        return _answer(done, what)

    def wait(self, seconds: float) -> None:
        """Return when the server answers.

        Raises:
            ServerAway: it does not within that time.
        """
        end = time.monotonic() + seconds
        while True:
            try:
                self.call("bundle", "count")
            except ServerAway:
                if time.monotonic() > end:
                    raise
                time.sleep(LOOK_SECONDS)
            else:
                return

    def bundle(self) -> dict[str, Any]:
        """Return the trust bundle (``x509_authorities``, ``jwt_authorities``)."""
        bundle: dict[str, Any] = self.call("bundle", "show")
        return bundle

    def entries(self) -> list[dict[str, Any]]:
        """Return all registration entries."""
        entries: list[dict[str, Any]] = self.call("entry", "show")["entries"]
        return entries

    def agents(self) -> list[dict[str, Any]]:
        """Return all attested agents."""
        agents: list[dict[str, Any]] = self.call("agent", "list")["agents"]
        return agents

    def join_token(self) -> str:
        """Mint a join token for this host's node; a secret until it is used."""
        settings = self._settings
        host, ttl = settings.spiffe_id(settings.host), str(settings.join_token_seconds)
        answer = self.call("token", "generate", options=("-spiffeID", host, "-ttl", ttl))
        token: str = answer["value"]
        return token


def _answer(done: subprocess.CompletedProcess[str], what: str) -> Any:
    """Read what the command printed; an error is an object ``{"error"}`` or a line."""
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        answer = None
    refusal = answer.get("error") if isinstance(answer, dict) else None
    if done.returncode == 0 and answer is not None and not refusal:
        return answer
    said = " ".join(str(refusal or done.stderr or done.stdout or "no output").split())[:500]
    # gRPC's way of saying that nobody listens, or that the server is still coming up.
    kind = ServerAway if "Unavailable" in said or "connection refused" in said else SpireError
    raise kind(f"{what} ended with {done.returncode}: {said}")
