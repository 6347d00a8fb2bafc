"""What each script begins with: the API as the laptop sees it.

A script is Python in the NixOS test driver's dialect. Its nodes are ``host``, ``laptop`` and
``internet``; the VM tests and the lab run the same text (docs/checks.md).
"""

import json
import shlex
import time
from typing import Any

API = "http://10.0.0.1:8080"
TOKEN_FILE = "/root/.config/flashpods/token"
PODMAN = "podman --url unix:///run/flashpods/podman.sock"
ENDED = ("completed", "failed", "timed_out", "cancelled")


def curl(*words: str) -> str:
    """Return a command line of curl with the token, which no argument holds."""
    header = f"-H @<(printf 'Authorization: Bearer %s\\n' \"$(cat {TOKEN_FILE})\")"
    return f"curl -sS --max-time 90 {header} {' '.join(words)}"


def ask(method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Ask the API from the laptop; return the status and the JSON answer."""
    words = ["-X", method, "-w", shlex.quote("\\n%{http_code}"), shlex.quote(f"{API}{path}")]
    if body is not None:
        words += ["-H 'Content-Type: application/json'", "-d", shlex.quote(json.dumps(body))]
    said, _, status = laptop.succeed(curl(*words)).rstrip().rpartition("\n")
    return int(status), json.loads(said) if said else None


def get(path: str) -> Any:
    """Return the answer to a GET that must be 200."""
    status, answer = ask("GET", path)
    assert status == 200, (path, status, answer)
    return answer


def refused(method: str, path: str, body: Any, status: int, code: str) -> Any:
    """Hold a request to be refused with that status and that code; return the answer."""
    found, answer = ask(method, path, body)
    assert (found, answer.get("error")) == (status, code), (method, path, found, answer)
    return answer


def submit(command: str, **fields: Any) -> str:
    """Post a worker of one CPU and return its id."""
    body = {"type": "worker", "command": command, "cpus": 1, "memory_gb": 1, **fields}
    status, answer = ask("POST", "/jobs", body)
    assert status == 201, (status, answer)
    return str(answer["job_id"])


def until(job: str, *states: str, seconds: int = 120) -> Any:
    """Return the job's row once it is in one of the states."""
    end = time.monotonic() + seconds
    while True:
        row = get(f"/jobs/{job}?wait=5")
        if row["status"] in states:
            return row
        assert row["status"] not in ENDED, row
        assert time.monotonic() < end, row


def ended(job: str, seconds: int = 120) -> Any:
    """Return the job's row once it has ended, however."""
    return until(job, *ENDED, seconds=seconds)


def output(job: str) -> list[str]:
    """Return what the job printed, without the times."""
    text = get(f"/jobs/{job}/output?tail=10000")["output"]
    return [line.partition("] ")[2] for line in text.splitlines()]


def printed(job: str, text: str) -> None:
    """Return when the running job has printed the text."""
    path = shlex.quote(f"{API}/jobs/{job}/output?tail=10000")
    laptop.wait_until_succeeds(f"{curl(path)} | grep -qF {shlex.quote(text)}")


def goes_on(job: str) -> None:
    """Return when the running job has printed more than it has by now."""
    before = len(output(job))
    path = shlex.quote(f"{API}/jobs/{job}/output?tail=10000")
    laptop.wait_until_succeeds(f"test $({curl(path)} | jq .lines) -gt {before}")


def run(command: str, **fields: Any) -> list[str]:
    """Run a job to its successful end and return what it printed."""
    job = submit(command, **fields)
    row = ended(job)
    assert row["status"] == "completed", (row, output(job))
    return output(job)


def ready() -> None:
    """Return when host and laptop are up and the laptop is served; other nodes stay off."""
    for node in (host, laptop, internet):
        node.start()
    host.wait_for_unit("flashpods-api.service")
    host.wait_for_unit("flashpods-rsyncd.socket")
    laptop.wait_until_succeeds(f"{curl('-f', API + '/capacity')} >/dev/null")
    for row in get("/jobs?status=active")["jobs"]:  # of a script that failed before this one
        ask("DELETE", f"/jobs/{row['id']}")
        ended(row["id"])


def counter(name: str) -> int:
    """Return the packets that a counter of the boundary has seen."""
    listed = json.loads(host.succeed(f"nft -j list counter inet flashpods {name}"))
    return int(next(e["counter"]["packets"] for e in listed["nftables"] if "counter" in e))


def admin(words: str, code: int = 0) -> Any:
    """Run a command of flashpods-admin's on the host that must end so; return its JSON."""
    found, said = host.execute(f"flashpods-admin {words} --json", timeout=120)
    assert found == code, (words, found, said)
    return json.loads(said)
