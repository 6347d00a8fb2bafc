"""Runs in a job: fetches SVIDs with SPIRE's own client, exchanges tokens; prints lines of JSON.

Only Python's standard library is there.
"""

import base64
import http.client
import json
import socket
import subprocess
import sys
import time

AUDIENCE = "flashpods-token-service"
AGENT_SOCKET = "/run/spire/sockets/agent.sock"
TOKEN_SOCKET = "/run/flashpods/token.sock"


def fetch(audience: str = AUDIENCE) -> dict[str, str]:
    """Fetch a JWT-SVID: ``{"id", "jwt"}``, or ``{"refused"}``."""
    command = ["/opt/spire-agent", "api", "fetch", "jwt", "-audience", audience]
    command += ["-socketPath", AGENT_SOCKET, "-output", "json", "-timeout", "10s"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        svid = json.loads(done.stdout)[0]["svids"][0]
    except (ValueError, LookupError, TypeError):
        return {"refused": (done.stdout + done.stderr).strip()[-300:]}
    return {"id": svid["spiffe_id"], "jwt": svid["svid"]}


def exchange(token: str | None) -> dict[str, object]:
    """Exchange a token: ``{"status", "body"}``, or ``{"failed"}``."""
    connection = http.client.HTTPConnection("localhost", timeout=10)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(10)
    try:
        connection.sock.connect(TOKEN_SOCKET)
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        connection.request("GET", "/tokens", headers=headers)
        answer = connection.getresponse()
        return {"status": answer.status, "body": json.loads(answer.read())}
    except (OSError, http.client.HTTPException, ValueError) as e:
        return {"failed": f"{type(e).__name__}: {e}"}
    finally:
        connection.close()


def whole() -> dict[str, object]:
    """Go the whole way once."""
    svid = fetch()
    if "jwt" not in svid:
        return {**svid}
    head = svid["jwt"].split(".")[0]
    kid = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))["kid"]
    return {"id": svid["id"], "kid": kid, **exchange(svid["jwt"])}


def late() -> dict[str, object]:
    """Exchange a token once it has expired."""
    svid = fetch()
    if "jwt" not in svid:
        return {**svid}
    payload = svid["jwt"].split(".")[1]
    expires = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["exp"]
    time.sleep(max(0, expires + 1 - time.time()))
    return exchange(svid["jwt"])


def patient(seconds: float) -> None:
    """Go the whole way until it works, and say how long that took."""
    began = time.monotonic()
    while True:
        result = whole()
        spent = time.monotonic() - began
        if result.get("status") == 200 or spent > seconds:
            print(json.dumps({**result, "seconds": round(spent, 2)}))
            return
        time.sleep(0.1)


def attempts(seconds: float, pause: float) -> None:
    """Go the whole way again and again, and print when and how each time went.

    The audience is another each time, so the agent's cache of JWT-SVIDs does not answer.
    """
    end = time.monotonic() + seconds
    number = 0
    while time.monotonic() < end:
        number += 1
        fresh = fetch(f"probe-{number}")
        result = whole()
        outcome = {"at": round(time.time(), 3), "fresh": "jwt" in fresh, **result}
        outcome.pop("body", None)
        print(json.dumps(outcome), flush=True)
        time.sleep(pause)


def main() -> None:
    """Do what the first argument says; the functions of that name have the rest."""
    verb, *words = sys.argv[1:]
    if verb == "fetch":
        print(json.dumps(fetch(*words)))
    elif verb == "whole":
        print(json.dumps(whole()))
    elif verb == "late":
        print(json.dumps(late()))
    elif verb == "exchange":
        print(json.dumps(exchange(words[0] if words else None)))
    elif verb == "patient":
        patient(float(words[0]))
    elif verb == "attempts":
        attempts(float(words[0]), float(words[1]))


if __name__ == "__main__":
    main()
