# ruff: noqa: E501 - the attacks are data
"""Attack 2: a machine that knows the API's rules plays against it, step by step; schemathesis too."""

from __future__ import annotations

import re
import subprocess
import time
import uuid
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
    run_state_machine_as_test,
)
from scoring import EXAMPLES, Score

from flashpods_dev.stack import MiniStack

Answered = tuple[str, str, int]  # method, path, status
Answers = dict[str, set[tuple[int, str | None]]]  # upload's state → statuses and errors

TERMINAL = {"completed", "failed", "timed_out", "cancelled"}
NEXT: dict[str | None, set[str]] = {
    None: {"pending"},
    "pending": {"starting", "failed", "cancelled"},
    "starting": {"running", "failed", "cancelled", "timed_out", "completed"},
    "running": TERMINAL,
    **{status: {"cleaning"} for status in TERMINAL},
    "cleaning": {"cleaned"},
    "cleaned": set(),
}
# Four short runs meet few of the rules; those of this seed meet these answers, if the host is as
# quick as it was: otherwise more runs are made.
SEED = 392
MET = {
    ("POST", "/uploads/ID/finalize", 200),
    ("DELETE", "/uploads/ID", 204),
    ("POST", "/jobs", 201),
    ("DELETE", "/jobs/ID", 200),
    ("GET", "/jobs/ID/artifacts", 200),
}
FINALIZED: Answers = {
    "reserved": {(404, "upload_not_found")},
    "uploading": {(200, None)},
    "finalized": {(409, "upload_already_finalized")},
    "consumed": {(409, "upload_already_consumed"), (410, "upload_expired")},
    "expired": {(410, "upload_expired")},
}
CLAIMED: Answers = {
    "reserved": {(409, "upload_not_finalized")},
    "uploading": {(409, "upload_not_finalized")},
    "finalized": {(201, None)},
    "consumed": {(409, "upload_already_consumed"), (404, "upload_not_found")},
    "expired": {(404, "upload_not_found")},
}
COMMANDS = ["true", "exit 3", "echo out; echo file > /artifacts/f", "sleep 3000"]


@dataclass
class Submitted:
    """What we know of a job."""

    command: str
    body: dict[str, object]
    cancelled: bool = False


class Api:
    """A client of the stack, with the patience of one."""

    def __init__(self, stack: MiniStack, tree: Path) -> None:
        token = stack.layout.token.read_text().strip()
        self.client = httpx.Client(
            base_url=stack.api_url, headers={"Authorization": f"Bearer {token}"},
            trust_env=False, timeout=60, event_hooks={"response": [self.count]},
        )  # fmt: skip
        self.answers: Counter[Answered] = Counter()
        self.rsync_url = stack.info.rsync_url
        self.tree = tree

    def count(self, answer: httpx.Response) -> None:
        place = re.sub(r"/(upload_[\w-]+|[0-9a-f]{16})", "/ID", answer.request.url.path)
        self.answers[answer.request.method, place, answer.status_code] += 1

    def job(self, job_id: str, **query: Any) -> dict[str, Any]:
        answer = self.client.get(f"/jobs/{job_id}", params=query)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def ended(self, job_id: str) -> dict[str, Any]:
        row = self.job(job_id)
        for _ in range(20):
            if row["status"] in TERMINAL:
                return row
            row = self.job(job_id, wait=30)
        raise AssertionError(f"it does not end: {row}")

    def push(self, upload_id: str) -> subprocess.CompletedProcess[bytes]:
        """Push the tree, once the daemon is done with a push before."""
        end = time.monotonic() + 60
        while True:
            done = subprocess.run(
                ["rsync", "-r", f"{self.tree}/", f"{self.rsync_url}/{upload_id}/"],
                capture_output=True, timeout=60, check=False,
            )  # fmt: skip
            if b"another transfer" not in done.stderr or time.monotonic() > end:
                return done

    def settled(self, method: str, path: str) -> httpx.Response:
        """Ask until the daemon's process, which outlives the client's, is done."""
        end = time.monotonic() + 60
        while True:
            answer = self.client.request(method, path)
            busy = answer.status_code == 409 and answer.json()["error"] == "upload_in_progress"
            if not busy or time.monotonic() > end:
                return answer
            time.sleep(0.02)


class Machine(RuleBasedStateMachine):
    """The rules; a subclass says of which stack, and which tree is pushed."""

    stack: MiniStack
    tree: Path
    answers: ClassVar[Counter[Answered]]  # of all runs, clean-up left out

    # None: refused for want of room, which hangs on what has ended by then. A bundle must not:
    # Hypothesis takes a run whose prefix draws otherwise the second time for a broken test.
    jobs: Bundle[str | None] = Bundle("jobs")
    uploads: Bundle[str] = Bundle("uploads")

    def __init__(self) -> None:
        super().__init__()
        self.api = Api(self.stack, self.tree)
        self.client = self.api.client
        self.known: dict[str, Submitted] = {}
        # Upload → the state that it must have; "consumed" once a job has it, which may give it up.
        self.states: dict[str, str] = {}

    def teardown(self) -> None:
        self.answers.update(self.api.answers)
        for job_id in self.known:
            self.client.delete(f"/jobs/{job_id}")
        for job_id in self.known:
            self.api.ended(job_id)
        for upload_id, state in self.states.items():
            if state != "consumed":
                self.client.delete(f"/uploads/{upload_id}")
        self.client.close()

    @rule(target=uploads)
    def reserve(self) -> str:
        upload_id = str(self.client.post("/uploads", json={}).json()["upload_id"])
        self.states[upload_id] = "reserved"
        return upload_id

    @rule(upload_id=uploads)
    def push(self, upload_id: str) -> None:
        done = self.api.push(upload_id)
        open_ = self.states[upload_id] in {"reserved", "uploading"}
        assert (done.returncode == 0) is open_, (self.states[upload_id], done.stderr)
        if open_:
            self.states[upload_id] = "uploading"

    @rule(upload_id=uploads)
    def finalize(self, upload_id: str) -> None:
        answer = self.api.settled("POST", f"/uploads/{upload_id}/finalize")
        assert (answer.status_code, answer.json().get("error")) in FINALIZED[
            self.states[upload_id]
        ], answer.text
        if answer.status_code == 200:
            self.states[upload_id] = "finalized"

    @rule(upload_id=uploads)
    def discard(self, upload_id: str) -> None:
        answer = self.api.settled("DELETE", f"/uploads/{upload_id}")
        if self.states[upload_id] == "consumed":
            assert answer.status_code in {204, 409}, answer.text
        else:
            assert answer.status_code == 204, answer.text
            self.states[upload_id] = "expired"

    @rule(
        target=jobs,
        command=st.sampled_from(COMMANDS),
        cpus=st.integers(1, 200),
        key=st.booleans(),
    )
    def submit(self, command: str, cpus: int, key: bool) -> str | None:
        body = {"type": "worker", "command": command, "cpus": cpus, "memory_gb": 1}
        if key:
            body["client_job_id"] = str(uuid.uuid4())
        answer = self.client.post("/jobs", json=body)
        if answer.status_code == 429:
            assert answer.json()["error"] == "insufficient_resources"
            return None
        assert answer.status_code == 201, answer.text
        job_id = str(answer.json()["job_id"])
        assert job_id not in self.known
        self.known[job_id] = Submitted(command, body)
        return job_id

    @rule(target=jobs, upload_id=uploads)
    def submit_with_files(self, upload_id: str) -> str | None:
        body = {
            "type": "worker",
            "command": "ls",
            "cpus": 1,
            "memory_gb": 1,
            "files_id": upload_id,
        }
        answer = self.client.post("/jobs", json=body)
        if answer.status_code == 429:
            return None
        assert (answer.status_code, answer.json().get("error")) in CLAIMED[
            self.states[upload_id]
        ], answer.text
        if answer.status_code != 201:
            return None
        self.states[upload_id] = "consumed"
        job_id = str(answer.json()["job_id"])
        self.known[job_id] = Submitted("ls", body)
        return job_id

    @rule(job_id=jobs)
    def again(self, job_id: str | None) -> None:
        if job_id is None:
            return
        body = self.known[job_id].body
        if "client_job_id" in body:
            answer = self.client.post("/jobs", json=body)
            assert (answer.status_code, answer.json()["job_id"]) == (200, job_id)
            assert answer.json()["created"] is False
            other = self.client.post("/jobs", json={**body, "command": "other"})
            assert other.json()["error"] == "idempotency_conflict", other.text

    @rule(job_id=jobs)
    def cancel(self, job_id: str | None) -> None:
        if job_id is None:
            return
        answer = self.client.delete(f"/jobs/{job_id}")
        row = self.api.job(job_id)
        if answer.status_code == 200:
            assert answer.json()["status"] == "cancelled"
            assert row["cancel_requested"] or row["status"] == "cancelled", row
            self.known[job_id].cancelled = True
        else:
            assert (answer.status_code, answer.json()["error"]) == (409, "job_already_terminal")
            assert row["status"] in TERMINAL

    @rule(job_id=consumes(jobs))
    def to_its_end(self, job_id: str | None) -> None:
        if job_id is None:
            return
        known = self.known[job_id]
        if known.command.startswith("sleep"):
            self.client.delete(f"/jobs/{job_id}")
            known.cancelled = True
        row = self.api.ended(job_id)
        wanted = {"exit 3": ("failed", 3)}.get(known.command, ("completed", 0))
        if known.cancelled:
            assert row["status"] == "cancelled", row
        else:
            assert (row["status"], row["exit_code"]) == wanted, row
        page = self.client.get(f"/jobs/{job_id}/output")
        assert page.status_code == 200 or row["started_at"] is None, page.text
        files = self.client.get(f"/jobs/{job_id}/artifacts").json()["artifacts"]
        if row["status"] == "completed" and "artifacts" in known.command:
            assert [a["name"] for a in files] == ["f"]
            assert self.client.get(f"/jobs/{job_id}/artifacts/f").content == b"file\n"

    @invariant()
    def only_legal_transitions(self) -> None:
        for job_id in list(self.known)[-5:]:
            last = None
            for event in self.api.job(job_id)["events"]:
                assert event["from"] == last, event
                assert event["to"] in NEXT[last], event
                last = event["to"]

    @invariant()
    def no_overcommit(self) -> None:
        found = self.client.get("/capacity").json()
        for what in ("cpus", "memory_gb"):
            assert 0 <= found["available"][what] <= found["host"][what]
            assert found["reserved"][what] + found["available"][what] == found["host"][what]

    @invariant()
    def uploads_are_in_their_states(self) -> None:
        for upload_id, state in self.states.items():
            found = self.client.get(f"/uploads/{upload_id}").json()["state"]
            if state == "consumed":  # finalized until its job runs; expired if it never does
                assert found in {"finalized", "consumed", "expired"}
            else:
                assert found == {"reserved": "uploading"}.get(state, state)


@pytest.mark.attack(2, "a state machine that models the API")
def test_machine(shared: MiniStack, scratch: Path, score: Score) -> None:
    (scratch / "file").write_text("x")

    class OfStack(Machine):
        stack = shared
        tree = scratch
        answers: ClassVar[Counter[Answered]] = Counter()

    examples, steps = (EXAMPLES, 50) if EXAMPLES else (4, 15)
    for number in range(SEED, SEED + 10):
        with score.attempt():
            run_state_machine_as_test(
                OfStack if EXAMPLES else seed(number)(OfStack),
                settings=settings(
                    max_examples=examples, stateful_step_count=steps, deadline=None, database=None,
                    suppress_health_check=list(HealthCheck), print_blob=True,
                ),
            )  # fmt: skip
        if set(OfStack.answers) >= MET:
            break
    kinds, runs = len(OfStack.answers), examples * score.tries
    score.note(f"{runs} runs of up to {steps} steps, {kinds} kinds of answers")
    assert set(OfStack.answers) >= MET, MET - set(OfStack.answers)
