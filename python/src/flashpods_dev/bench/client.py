"""A plain client for the API under measure: one kept connection, nothing clever."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flashpods_dev.stack import MiniStack


class Api:
    """One kept connection with the stack's token."""

    def __init__(self, stack: MiniStack) -> None:
        """Read the token; the first call connects."""
        self.address = urlsplit(stack.api_url)
        self.token = Path(stack.info.token_file).read_text().strip()
        self._connection = http.client.HTTPConnection(
            self.address.hostname or "", self.address.port, timeout=120
        )

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Do one call and return its JSON.

        Raises:
            RuntimeError: the status is not 2xx.
        """
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body)
        self._connection.request(method, path, data, headers)
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {text[:300]!r}")
        return json.loads(text) if text else None

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def run(self, command: str, **fields: object) -> str:
        """Post a worker and return its id."""
        body = {"type": "worker", "command": command, "cpus": 1, "memory_gb": 1, **fields}
        return str(self.call("POST", "/jobs", body)["job_id"])

    def until(self, job_id: str, *states: str) -> dict[str, Any]:
        """Wait until the job is in one of the states, or has ended."""
        job: dict[str, Any] = self.call("GET", f"/jobs/{job_id}")
        while job["status"] not in {*states, "completed", "failed", "timed_out", "cancelled"}:
            job = self.call("GET", f"/jobs/{job_id}?wait=30&since={job['revision']}")
        return job
