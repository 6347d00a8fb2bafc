"""``flashpods-admin validate`` on a stack with identity, and with one thing broken at a time.

There is no boundary and no WireGuard here, and the checks of those must say so; ``./dev lab`` has
both.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import identity_rig as rig
import pytest

from flashpods_dev.layout import merge
from flashpods_dev.stack import MiniStack

# Of the checks that can't pass without the boundary, what they say.
WITHOUT_BOUNDARY = {
    "api-blocked": "the table inet flashpods is not loaded",
    "rsync-blocked": "the table inet flashpods is not loaded",
    "api-over-wireguard": "no interface has the address 127.0.0.1",
    "rsync-over-wireguard": "no interface has the address 127.0.0.1",
}
INTERNET: socket.socket
PASSING = {
    *("svid-worker", "svid-agent", "token-exchange-agent", "token-exchange-worker"),
    *("internet-allowed", "end-to-end-job", "rootless", "socket-permissions"),
}


def command(stack: MiniStack, *options: str, settings: Path | None = None) -> list[str]:
    """Return the command line; the internet of these tests is a listener on this machine."""
    words = [sys.executable, "-m", "flashpods.admin.main", "validate", "--json"]
    internet = f"--internet={address()}:{INTERNET.getsockname()[1]}"
    return [*words, f"--settings={settings or stack.layout.settings}", internet, *options]


def address() -> str:
    """Return an address of this machine that a container reaches through slirp4netns."""
    listed = json.loads(subprocess.check_output(["ip", "-4", "-json", "address"], text=True))
    found = [a["local"] for i in listed for a in i["addr_info"] if a["scope"] == "global"]
    return str(found[0])


def validate(
    stack: MiniStack, *options: str, settings: Path | None = None
) -> dict[str, dict[str, Any]]:
    """Run it and return the checks by their name; the exit code says whether all passed."""
    done = subprocess.run(
        command(stack, *options, settings=settings),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    said = json.loads(done.stdout)
    assert done.returncode == (0 if said["passed"] else 1), done.stderr
    assert said["passed"] == all(check["passed"] for check in said["checks"])
    return {check["name"]: check for check in said["checks"]}


def expect(said: dict[str, dict[str, Any]], **broken: str) -> None:
    """Hold the outcome to: these failed, with these words; with None, blocked; all else passed."""
    wrong = {name.replace("_", "-"): words for name, words in broken.items()}
    for name in PASSING & set(said):
        check = said[name]
        if name not in wrong:
            assert check["status"] == "passed", check
            assert check["remedy"] == ""
        elif wrong[name]:
            assert check["status"] == "failed", check
            assert wrong[name] in check["said"], check
            assert check["remedy"]
        else:
            assert check["status"] == "blocked", check


def left(stack: MiniStack) -> list[str]:
    """Return what it must not leave: containers, scratch directories, logs and artifacts."""
    listed = stack.run_podman("ps", "--all", "--quiet")
    assert listed.returncode == 0, listed.stderr
    root = stack.layout.root
    found = [*root.glob(".validate-*"), *root.glob("joblogs/*.log"), *root.glob("artifacts/[!.]*")]
    return [*listed.stdout.split(), *map(str, found)]


@pytest.fixture(scope="module", autouse=True)
def internet() -> Iterator[None]:
    """Have what jobs must reach; nobody needs to accept a connection for it to be open."""
    global INTERNET
    with socket.create_server(("0.0.0.0", 0), backlog=512) as INTERNET:
        yield


@pytest.fixture
def quiet(shared: MiniStack) -> Iterator[MiniStack]:
    """The stack, cleaned of what other tests left in it; it must be so again at the end."""
    for path in (*shared.layout.root.glob("joblogs/*.log"), *artifacts(shared)):
        subprocess.run(["rm", "-r", str(path)], check=True)
    yield shared
    assert left(shared) == []


def artifacts(stack: MiniStack) -> Iterator[Path]:
    return stack.layout.root.glob("artifacts/[!.]*")


def test_a_whole_host_passes_where_there_is_no_boundary(quiet: MiniStack) -> None:
    said = validate(quiet)
    assert list(said) == [
        *("svid-worker", "svid-agent", "token-exchange-agent", "token-exchange-worker"),
        *("api-blocked", "rsync-blocked", "internet-allowed"),
        *("api-over-wireguard", "rsync-over-wireguard"),
        *("end-to-end-job", "rootless", "socket-permissions"),
    ]
    expect(said)
    for name, words in WITHOUT_BOUNDARY.items():
        assert said[name]["status"] == "failed"
        assert words in said[name]["said"]
        assert said[name]["remedy"]
    secrets = set(rig.SECRETS.values())
    assert not any(secret in json.dumps(said) for secret in secrets)


@pytest.mark.parametrize("kind", ["worker", "agent"])
def test_no_identity(quiet: MiniStack, kind: str) -> None:
    identity = rig.identity_of(quiet)
    server = identity.client()
    (entry,) = (e for e in server.entries() if e["spiffe_id"]["path"] == f"/{kind}")
    server.call("entry", "delete", "-entryID", entry["id"])
    try:
        only = f"--only=svid-{kind}"
        rig.within(20, lambda: not validate(quiet, only)[f"svid-{kind}"]["passed"], "no SVID")
        expect(
            validate(quiet),
            **{f"svid_{kind}": "spire_attestation_timeout", f"token_exchange_{kind}": ""},
        )
    finally:
        identity.register()
        rig.within(20, lambda: validate(quiet, only)[f"svid-{kind}"]["passed"], "SVID again")


@contextmanager
def changed(stack: MiniStack, **sections: Any) -> Iterator[Path]:
    """Give a settings file that says something else than the running services were told."""
    file = stack.layout.root / "other.json"
    file.write_text(json.dumps(merge(stack.settings, sections)))
    try:
        yield file
    finally:
        file.unlink()


POLICIES = {
    "agent": ({"granted": ["GITHUB_TOKEN"], "answered_null": ["ANTHROPIC_API_KEY"]}, "withholds"),
    "worker": ({"granted": ["GITHUB_TOKEN", "ANTHROPIC_API_KEY"]}, "KEY is missing"),
}


@pytest.mark.parametrize("kind", POLICIES)
def test_other_secrets_than_the_policy_says(quiet: MiniStack, kind: str) -> None:
    grant, words = POLICIES[kind]
    default = {
        f"{rig.DOMAIN}/agent": {
            "job_type": "agent",
            "granted": ["ANTHROPIC_API_KEY", "GITHUB_TOKEN"],
        },
        f"{rig.DOMAIN}/worker": {
            "job_type": "worker",
            "granted": ["GITHUB_TOKEN"],
            "answered_null": ["ANTHROPIC_API_KEY"],
        },
    }
    policy = {**default, f"{rig.DOMAIN}/{kind}": {"job_type": kind, **grant}}
    with changed(quiet, tokens={"policy": policy}) as file:
        expect(validate(quiet, settings=file), **{f"token_exchange_{kind}": words})


def test_a_token_service_that_is_away(quiet: MiniStack) -> None:
    identity = rig.identity_of(quiet)
    identity.tokens.kill()
    try:
        expect(
            validate(quiet),
            token_exchange_agent="token_exchange_failed",
            token_exchange_worker="token_exchange_failed",
        )
    finally:
        identity.tokens.start()


def test_no_internet(quiet: MiniStack) -> None:
    said = validate(quiet, f"--internet={address()}:1", "--only=internet-allowed")
    expect(said, internet_allowed="ECONNREFUSED")
    said = validate(quiet, "--internet=no.such.name.invalid:443", "--only=internet-allowed")
    expect(said, internet_allowed="does not resolve in a job")


def test_no_job_gets_its_files(quiet: MiniStack) -> None:
    with changed(quiet, uploads={"rsync_url": "rsync://127.0.0.1:1/uploads"}) as file:
        expect(validate(quiet, settings=file), end_to_end_job="rsync failed")


def test_an_open_token_socket(quiet: MiniStack) -> None:
    path = rig.identity_of(quiet).token_socket
    before = path.stat().st_mode
    path.chmod(0o666)
    try:
        expect(validate(quiet), socket_permissions="any user may connect to identity.token_socket")
    finally:
        path.chmod(before & 0o777)


def test_a_closed_workload_api(quiet: MiniStack) -> None:
    sockets = rig.identity_of(quiet).sockets
    sockets.chmod(0o700)
    try:
        said = validate(quiet, "--only=socket-permissions")
        expect(said, socket_permissions="any user can't connect to the Workload API")
    finally:
        sockets.chmod(0o755)


def test_an_engine_that_is_away(quiet: MiniStack) -> None:
    """Everything that needs a container says so, within its time, and the rest passes."""
    quiet.podman.kill()
    try:
        said = validate(quiet, "--only=rootless", "--only=svid-worker")
        expect(said, rootless="Podman does not answer", svid_worker="Podman does not answer")
    finally:
        quiet.podman.start()
        rig.identity_of(quiet).tend()


# ------------------------------------------------------------------ nothing is left


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("only", ["rootless", "end-to-end-job"])
def test_interrupted_it_leaves_nothing(
    quiet: MiniStack, number: signal.Signals, code: int, only: str
) -> None:
    """At any moment: it is interrupted a little later each time, until it gets to its end."""
    for delay in range(40):
        process = subprocess.Popen(
            command(quiet, f"--only={only}"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        with process:
            try:
                process.wait(0.4 + delay * 0.25)
                ended = True
            except subprocess.TimeoutExpired:
                ended = False
                process.send_signal(number)
            process.communicate(timeout=60)
        if ended:
            assert process.returncode == 0
            assert delay > 1, "it was never interrupted"
            break
        # Before Python is up, a signal has its default effect.
        assert process.returncode in {code, 0, -number}, (delay, process.returncode)
        rig.within(10, lambda: left(quiet) == [], "nothing is left")
        active = active_jobs(quiet)
        assert active == [], active


def active_jobs(stack: MiniStack) -> list[str]:
    rows = subprocess.check_output(
        [
            *("sqlite3", str(stack.layout.database)),
            "SELECT id FROM jobs WHERE status IN ('pending', 'starting', 'running')",
        ],
        text=True,
    )
    return rows.split()


def test_bad_options(shared: MiniStack) -> None:
    for option, error in (
        ("--only=svid", "unknown_check"),
        ("--internet=example.org", "invalid_internet"),
        ("--internet=example.org:0", "invalid_internet"),
    ):
        done = subprocess.run(
            [*command(shared), option], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 2, done
        assert json.loads(done.stdout)["error"] == error


def test_another_user_than_root_is_refused(shared: MiniStack) -> None:
    began = time.monotonic()
    done = rig.as_user_of_host(rig.UID, *command(shared))
    assert done.returncode == 1, done
    assert json.loads(done.stdout)["error"] == "not_root"
    assert time.monotonic() - began < 60
