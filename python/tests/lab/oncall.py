"""The operator on call: the guide, a shell on HOST, and what was printed there. Nothing else.

What a command of the guide leaves open, such as ``JOB``, is filled from what the doctor or an
earlier command printed, never from what the test knows.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from types import SimpleNamespace
from typing import Any, Final

import guide
from deployment import IMAGE, RENDERED, Deployment
from netlab import CHECKOUT

from flashpods.web import checks

HELPER: Final = "/usr/local/bin/flashpods-token"
GATE: Final = "while [ ! -e /artifacts/go ]; do sleep 0.2; done; echo over"
JOB_ID: Final = re.compile(r"\b[0-9a-f]{16}\b")
# What the guide shows by example, and what this host has in its place.
EXAMPLES: Final = {"docker.io/library/rust:latest": IMAGE}
COMMAND_SECONDS: Final = 200
WELL_SECONDS: Final = 120
# Each part has its time to answer /health, whose answer is shared for a while; and the machine may
# be as busy as it likes.
SYMPTOM_SECONDS: Final = 20 * (checks.CHECK_SECONDS + checks.SHARED_SECONDS)
VAULT: Final = "/root/vault"  # where this operator keeps the secrets


class OnCall:
    """One person at three in the morning, with a terminal on HOST and a laptop."""

    def __init__(self, deployed: Deployment) -> None:
        """Look at nothing yet."""
        self.host, self.laptop = deployed.host, deployed.laptop
        self.deployed = deployed
        self.printed = ""  # by the last commands
        self.findings: list[dict[str, Any]] = []
        self.log: list[str] = []
        self.code = ""  # the doctor's for the trouble at hand
        self.section = guide.Section("", "")  # the one that is followed
        self.late = ""  # a job that should be gone by now
        self.thief = ""  # a job that presents another's identity
        self.kept: dict[str, str] = {}  # of the host's configuration, what the test has changed
        exports = [c for c in guide.commands() if c.startswith("export ")]
        self._shell = "; ".join([*exports, ""])
        space: dict[str, Any] = {**deployed.nodes, "start_all": lambda: None}
        exec((CHECKOUT / "checks/common/prelude.py").read_text(), space)
        self.api = SimpleNamespace(**space)
        self._secrets = [
            *json.loads(self.host.succeed("cat /etc/flashpods/secrets.json")).values(),
            self.host.succeed("cat /etc/flashpods/api-token").strip(),
            self.host.succeed("cat /etc/flashpods/restic-password").strip(),
        ]

    # ------------------------------------------------------------------ the terminal

    def run(self, command: str, *, must: bool = True) -> str:
        """Run a line of the guide, filled in; return what it printed.

        Args:
            command: the line.
            must: whether it has to succeed; what only looks may say no.
        """
        line = self.fill(command)
        if line.startswith("nixos-rebuild switch"):
            self.switch()
            return ""
        began = time.monotonic()
        code, said = self.host.execute(f"{{ {self._shell}{line}\n}} 2>&1", COMMAND_SECONDS)
        self.log.append(f"$ {line}  [{code}, {time.monotonic() - began:.1f} s]\n{said}")
        assert code == 0 or not must, f"{line}: {code}\n{said}"
        self.hold_no_secret(said)
        self.printed += said
        return str(said)

    def fill(self, command: str) -> str:
        """Return a line with its open places filled from what was printed."""
        for example, ours in EXAMPLES.items():
            command = command.replace(example, ours)
        if re.search(r"\bJOB\b", command):
            # Of the trouble at hand, if it names one: what happened in the hour before is told too.
            found = [f for f in self.findings if f["code"] == self.code and f["evidence"]]
            evidence = " ".join(line for f in found or self.findings for line in f["evidence"])
            ids = JOB_ID.findall(evidence) or JOB_ID.findall(self.printed)
            assert ids, f"{command}: no job was named\n{self.printed}"
            command = re.sub(r"\bJOB\b", ids[0], command)
        return command

    def doctor(self) -> int:
        """Run the doctor; keep what it found; return its exit code."""
        code, said = self.host.execute("flashpods-admin doctor --json 2>&1", COMMAND_SECONDS)
        self.hold_no_secret(said)
        self.printed += said
        answer = json.loads(said)
        self.findings = answer.get("findings", [])
        self.log.append("\n".join([f"doctor: {code}", *map(self._line, self.findings)]))
        if "findings" not in answer:
            self.log.append(said)
        return int(code)

    @staticmethod
    def _line(found: dict[str, Any]) -> str:
        return f"  {found['severity']} {found['code']}: {found['symptom']}; why: {found['cause']}"

    def hold_no_secret(self, said: str) -> None:
        """Hold an output to contain no secret."""
        for secret in self._secrets:
            assert secret not in said, "a secret was printed"

    def finding(self, code: str) -> dict[str, Any]:
        """Return what the doctor said under this code."""
        found = [f for f in self.findings if f["code"] == code]
        assert found, (code, self.findings)
        return found[0]

    def remedy(self, code: str, beginning: str) -> str:
        """Return the doctor's own command that begins so."""
        lines = [line for line in self.finding(code)["remedy"] if line.startswith(beginning)]
        assert lines, (beginning, self.finding(code)["remedy"])
        return str(lines[0])

    def switch(self) -> None:
        """Stand in for ``nixos-rebuild switch``: lay the rendered files, restart what they change.

        The lab has no Nix; what a switch would put there is in ``lab/rendered``.
        """
        for name in ("etc/flashpods/settings.json", "etc/spire/agent.json"):
            text = self.kept.get(name) or (RENDERED / "host" / name).read_text()
            self.host.succeed(f"cat >/{name} <<'EOF'\n{text}\nEOF")
        self.log.append("$ nixos-rebuild switch  (in the lab: the rendered files, laid again)")

    # ------------------------------------------------------------------ the laptop

    def job(self, command: str, **fields: Any) -> str:
        """Post a job from the laptop and return its id."""
        return str(self.api.submit(command, **fields))

    def hold(self) -> str:
        """Start a job that goes on until it is let go, and return its id when it runs."""
        job = self.job(f"echo began; {GATE}")
        self.api.printed(job, "began")
        return job

    def let_go(self, job: str) -> None:
        """Let it end."""
        self.host.succeed(f"touch /var/lib/flashpods/artifacts/.staging/{job}/go")

    def health(self) -> tuple[int, dict[str, Any]]:
        """Ask ``/health`` from the laptop; 0 without an answer."""
        words = f"-s --max-time 20 -w '\\n%{{http_code}}' {self.api.API}/health"
        code, said = self.laptop.execute(f"curl {words} || true")
        body, _, status = said.strip().rpartition("\n")
        if code or status == "000" or not body:
            return 0, {}
        return int(status), json.loads(body)

    def wait_silent(self) -> None:
        """Return when the laptop gets no answer at all."""
        self._until(lambda: self.health()[0] == 0, "the API goes on answering the laptop")

    def wait_failing(self, part: str) -> None:
        """Return when ``/health`` names that part."""

        def failing() -> bool:
            status, body = self.health()
            checks = body.get("checks", {})
            return status == 503 and checks.get(part, {}).get("status") == "failing"

        self._until(failing, f"/health does not say that {part} fails", SYMPTOM_SECONDS)

    def wait_refused(self, status: int) -> None:
        """Return when a new job is answered so."""

        def refused() -> bool:
            body = {"type": "worker", "command": "true", "cpus": 1, "memory_gb": 1}
            return bool(self.api.ask("POST", "/jobs", body)[0] == status)

        self._until(refused, f"POST /jobs is not answered {status}")

    def wait_diagnosed(self, code: str) -> None:
        """Return when the doctor names it, where nothing else shows it as surely."""
        self.host.wait_until_succeeds(
            f"(flashpods-admin doctor --json || test $? -eq 1) | grep -q {code}", timeout=280
        )

    def wait_error_in_job(self, command: str, error: str) -> None:
        """Run jobs until one prints that error, as its user sees it."""

        def says() -> bool:
            job = self.job(command)
            self.api.ended(job)
            return error in "\n".join(self.api.output(job))

        self._until(says, f"no job says {error}")

    def _until(self, true: Any, otherwise: str, seconds: float = WELL_SECONDS) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, otherwise
            time.sleep(0.2)

    # ------------------------------------------------------------------ well

    def wait_well(self, *, seconds: float = WELL_SECONDS) -> None:
        """Return when the doctor finds nothing, the laptop is served, and a job gets its token."""
        self._until(lambda: self.doctor() == 0, f"not well: {self.findings}", seconds)
        self._until(lambda: self.health()[0] == 200, "/health is not healthy from the laptop")
        github = json.loads(self.host.succeed("cat /etc/flashpods/secrets.json"))["github_token"]
        lines = self.api.run(f"{HELPER} --timeout 30s get GITHUB_TOKEN")
        assert lines[-1] == github

    def fetch_from_vault(self, name: str, target: str) -> None:
        """Bring a file back from where this operator keeps it."""
        self.run(f"install -m 0600 {VAULT}/{shlex.quote(name)} {shlex.quote(target)}")
