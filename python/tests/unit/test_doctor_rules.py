"""What the doctor concludes from what it is shown."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flashpods.admin.doctor import identity, jobs, listeners, network, services, storage
from flashpods.admin.doctor.examine import CHECKS, examine
from flashpods.admin.doctor.finding import Check, Finding, Look, Severity
from flashpods.admin.doctor.services import degraded
from flashpods.admin.live import Health
from flashpods.admin.units import Units, read_credential, read_states
from flashpods.config import Settings

NOW = 1_764_120_000
# wg(8), show ... dump: the interface's line, then a line a peer; real, with other keys.
DUMP = (
    "cPriv=\tcPub=\t51820\toff\n"
    "laptop1key/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\t(none)\t203.0.113.9:40001\t10.0.0.2/32\t"
    "{handshake}\t1024\t2048\toff\n"
)


def look(tmp_path: Path, **sections: Any) -> Look:
    return Look(settings=Settings(**sections), now=datetime.now(UTC), health=None, units=None)


def codes(found: list[Finding]) -> list[str]:
    return [f.code for f in found]


def test_a_peer_that_was_just_heard_of_is_well() -> None:
    peers = network.peers(DUMP.format(handshake=NOW - 30))
    assert [(p.allowed, p.handshake) for p in peers] == [("10.0.0.2/32", NOW - 30)]
    assert network.judge(peers, now=NOW) == []


@pytest.mark.parametrize(
    ("handshake", "cause"), [(0, "keys that do not fit"), (NOW - 4000, "off or asleep")]
)
def test_a_quiet_peer_is_a_notice(handshake: int, cause: str) -> None:
    (found,) = network.judge(network.peers(DUMP.format(handshake=handshake)), now=NOW)
    assert (found.code, found.severity) == ("wireguard_quiet", Severity.NOTICE)
    assert cause in found.cause
    assert "cPriv" not in str(found)


def test_no_peer_is_a_trouble() -> None:
    (found,) = network.judge(network.peers(DUMP.splitlines()[0]), now=NOW)
    assert (found.code, found.severity) == ("wireguard_no_peer", Severity.CRITICAL)
    assert found.remedy[0].startswith("wg set wg0 peer")


def test_loopback_is_no_host_of_a_laptop(tmp_path: Path) -> None:
    seen = look(tmp_path, http={"host": "127.0.0.1"})
    assert network.wireguard(seen) == []
    assert network.firewall(seen) == []


def test_no_interface_and_no_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = look(tmp_path)
    assert codes(network.wireguard(seen)) == ["wireguard_down"]
    if os.geteuid() == 0:  # ./dev test is root, in a network namespace without these rules
        assert codes(network.firewall(seen)) == ["boundary_not_loaded"]
    monkeypatch.setenv("PATH", str(tmp_path))  # tools that are not there are told as such
    assert network.wireguard(seen)[0].cause != ""


# ------------------------------------------------------------------ identity


def with_identity(tmp_path: Path) -> dict[str, Any]:
    return {
        "podman": {"cgroup_parent": "/fp/ctrs", "socket": str(tmp_path / "podman.sock")},
        "identity": {
            "enabled": True,
            "spire_socket_dir": str(tmp_path / "spire"),
            "token_socket": str(tmp_path / "token.sock"),
        },
        "spire": {
            "agent_config": str(tmp_path / "agent.json"),
            "server_socket": str(tmp_path / "server.sock"),
        },
        "tokens": {"secrets_file": str(tmp_path / "secrets.json")},
    }


def test_without_identity_nothing_of_it_is_looked_at(tmp_path: Path) -> None:
    seen = look(tmp_path)
    assert identity.agent(seen) + identity.server(seen) + identity.tokens(seen) == []


def test_a_chain_that_is_not_there(tmp_path: Path) -> None:
    seen = look(tmp_path, **with_identity(tmp_path))
    assert "spire_agent_silent" in codes(identity.agent(seen))
    assert codes(identity.tokens(seen)) == ["secrets_unusable", "token_service_silent"]
    if os.geteuid() == 0:
        assert codes(identity.server(seen)) == ["spire_server_silent"]


@contextmanager
def answering(path: Path, answer: bytes) -> Iterator[None]:
    """Listen on a unix socket and give each caller that answer."""
    path.parent.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen()
        server.settimeout(20)

        over = threading.Event()

        def serve() -> None:
            while True:
                caller, _ = server.accept()
                if over.is_set():
                    caller.close()
                    return
                with caller, suppress(OSError):  # who only connects is gone by now
                    caller.recv(4096)
                    caller.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            over.set()
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as last:
                last.connect(str(path))
            thread.join(20)


def secrets_file(path: Path, mode: int = 0o600) -> None:
    path.write_text('{"anthropic_api_key": "sk-real-secret", "github_token": "gh-real-secret"}')
    path.chmod(mode)


def test_a_token_service_that_is_well(tmp_path: Path) -> None:
    secrets_file(tmp_path / "secrets.json")
    with answering(tmp_path / "token.sock", b"HTTP/1.1 200 OK\r\n\r\n{}"):
        assert identity.tokens(look(tmp_path, **with_identity(tmp_path))) == []


def test_a_token_service_that_is_not_well(tmp_path: Path) -> None:
    secrets_file(tmp_path / "secrets.json")
    answer = b'HTTP/1.1 503 Service Unavailable\r\n\r\n{"status": "degraded"}'
    with answering(tmp_path / "token.sock", answer):
        (found,) = identity.tokens(look(tmp_path, **with_identity(tmp_path)))
    assert found.code == "token_service_unwell"
    assert "degraded" in found.cause


def test_open_secrets_are_named_and_not_shown(tmp_path: Path) -> None:
    secrets_file(tmp_path / "secrets.json", 0o644)
    with answering(tmp_path / "token.sock", b"HTTP/1.1 200 OK\r\n\r\n{}"):
        (found,) = identity.tokens(look(tmp_path, **with_identity(tmp_path)))
    assert found.code == "secrets_unusable"
    assert "mode 0644" in found.cause
    assert "real-secret" not in str(found)


def test_an_agent_that_could_be_fooled(tmp_path: Path) -> None:
    (tmp_path / "agent.json").write_text(
        '{"agent": {}, "plugins": {"WorkloadAttestor": [{"docker": {"plugin_data": '
        '{"docker_socket_path": "unix://%s", "use_new_container_locator": true}}}]}}'
        % (tmp_path / "podman.sock")
    )
    with answering(tmp_path / "spire" / "agent.sock", b""):
        found = identity.agent(look(tmp_path, **with_identity(tmp_path)))
    causes = " ".join(f.cause for f in found)
    assert "use_new_container_locator must be false" in causes
    assert "spire_agent_podman" in codes(found)  # its engine's socket is not there
    assert "spire_agent_silent" not in codes(found)


class Handing(Units):
    """Hands the token service this file as its credential."""

    def __init__(self, source: Path | None) -> None:
        self._source = source

    def credential(self, unit: str, name: str) -> Path | None:
        assert (unit, name) == ("flashpods-token-service.service", "secrets.json")
        return self._source


def of_a_host(tmp_path: Path, source: Path | None) -> list[Finding]:
    """Ask about secrets that systemd hands over, as on a host that the modules made."""
    sections = with_identity(tmp_path)
    sections["tokens"]["secrets_file"] = "/run/credentials/flashpods-token-service/secrets.json"
    (tmp_path / "token.sock").unlink(missing_ok=True)
    with answering(tmp_path / "token.sock", b"HTTP/1.1 200 OK\r\n\r\n{}"):
        seen = look(tmp_path, **sections)
        return identity.tokens(replace(seen, units=Handing(source)))


def test_the_source_of_a_credential_is_judged(tmp_path: Path) -> None:
    file = tmp_path / "secrets.json"
    if os.geteuid() != 0:  # only root may see the source
        assert of_a_host(tmp_path, file) == []
        return
    (lost,) = of_a_host(tmp_path, file)
    assert (lost.code, lost.severity) == ("secrets_unusable", Severity.CRITICAL)
    assert "No such file" in lost.cause
    assert lost.remedy[1] == f"install -m 0600 COPY {file} (from where you keep it)"


def test_a_credential_whose_source_is_open_is_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "secrets.json"
    secrets_file(file, 0o640)
    link = tmp_path / "link"  # as sops-nix and agenix have it
    link.symlink_to(file)
    if os.geteuid() != 0:
        assert of_a_host(tmp_path, link) == []
        return
    (found,) = of_a_host(tmp_path, link)
    assert (found.code, found.severity) == ("secrets_exposed", Severity.WARNING)
    assert f"chmod 0600 {file}" in found.remedy
    file.chmod(0o600)
    assert of_a_host(tmp_path, link) == []
    file.write_text('{"github_token": gh-real-secret}')
    (garbled,) = of_a_host(tmp_path, link)
    assert (garbled.code, "is not JSON" in garbled.cause) == ("secrets_unusable", True)
    assert "gh-real-secret" not in str(garbled)


def test_a_credential_that_no_unit_declares(tmp_path: Path) -> None:
    assert of_a_host(tmp_path, None) == []


# ------------------------------------------------------------------ units, ports, rounds


def test_a_podman_that_does_not_run_and_one_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "podman.sock"
    seen = look(tmp_path, podman={"socket": str(path)})
    assert "there is no socket" in services.podman(seen)[0].cause
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        assert services.podman(seen)[0].cause == "it does not run"
        server.listen()
        monkeypatch.setattr(services, "PODMAN_SECONDS", 0.5)
        assert services.podman(seen)[0].cause == "it hangs"


def test_containers_of_a_podman_that_fails_are_not_waited_for(tmp_path: Path) -> None:
    failing = {"podman": {"status": "failing", "message": "no answer within 2 s"}}
    health = Health(healthy=False, version="1", checks=failing)
    seen = replace(look(tmp_path), health=health)
    assert seen.podman_fails
    assert jobs.orphans(seen) == []
    assert not look(tmp_path).podman_fails


# systemctl show --property=Id,LoadState,ActiveState,SubState, of systemd 257
SHOWN = """\
Id=flashpods-api.service
LoadState=loaded
ActiveState=active
SubState=running

Id=flashpods-token-service.service
LoadState=loaded
ActiveState=activating
SubState=auto-restart

Id=flashpods-rsyncd.service
LoadState=not-found
ActiveState=inactive
SubState=dead
"""


def test_a_unit_that_ends_again_and_again_is_not_starting() -> None:
    assert read_states(SHOWN) == {
        "flashpods-api.service": "active",
        "flashpods-token-service.service": "auto-restart",
        "flashpods-rsyncd.service": "absent",
    }


def test_the_source_of_a_credential() -> None:
    text = "[Service]\nLoadCredential=api-token:/etc/flashpods/api-token\n"
    assert read_credential(text, "api-token") == Path("/etc/flashpods/api-token")
    assert read_credential(text, "secrets.json") is None
    assert read_credential("LoadCredential=secrets.json:relative", "secrets.json") is None


def test_who_has_a_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        (found,) = listeners.of_port(port)
        assert found.pid == os.getpid()
        assert "python" in found.command
        with socket.create_connection(("127.0.0.1", port)):  # who is connected does not have it
            assert [h.pid for h in listeners.of_port(port)] == [os.getpid()]
    assert listeners.of_port(port) == []


@pytest.mark.parametrize(
    ("ran", "good", "code"),
    [
        (5, 5, None),
        (5, 200, None),  # a round or two that failed is no trouble yet
        (5, 400, "cleanup_failing"),
        (5, None, "cleanup_failing"),
        (700, 700, "cleanup_stale"),
    ],
)
def test_the_word_that_cleanup_leaves(
    tmp_path: Path, ran: float, good: float | None, code: str | None
) -> None:
    seen = look(tmp_path, paths={"database": str(tmp_path / "flashpods.db")})
    now = seen.now.timestamp()
    word = {"done": {}, "failed": 7, "last_run_at": now - ran, "duration_seconds": 0.1}
    word["last_success_at"] = None if good is None else now - good
    (tmp_path / "cleanup.json").write_text(json.dumps(word))
    assert codes(storage.rounds(seen)) == ([code] if code else [])


def test_without_a_word_of_cleanup_there_is_nothing_to_say(tmp_path: Path) -> None:
    seen = look(tmp_path, paths={"database": str(tmp_path / "flashpods.db")})
    assert storage.rounds(seen) == []


# ------------------------------------------------------------------ the run


def test_a_check_that_breaks_hides_no_other(tmp_path: Path) -> None:
    def broken(_: Look) -> list[Finding]:
        raise RuntimeError("a defect")

    checks = [Check(name="one", run=broken), Check(name="two", run=lambda _: [])]
    (one, first), (two, second) = examine(look(tmp_path), checks)
    assert (one.name, codes(first), two.name, second) == ("one", ["not_examined"], "two", [])
    assert "a defect" in first[0].cause


def test_what_the_api_says_of_itself_is_passed_on(tmp_path: Path) -> None:
    health = Health(
        healthy=False,
        version="1",
        checks={
            "database": {"status": "ok"},
            "podman": {"status": "failing", "message": "no answer within 2 s"},
        },
    )
    seen = Look(settings=Settings(), now=datetime.now(UTC), health=health, units=None)
    (found,) = degraded(seen)
    assert (found.code, found.cause) == ("api_degraded_podman", "no answer within 2 s")


def test_checks_have_names_of_their_own() -> None:
    assert len({check.name for check in CHECKS}) == len(CHECKS)


class Standing(Units):
    """All units run, but for those that are named."""

    def __init__(self, but: dict[str, str]) -> None:
        self._but = but

    def states(self, *names: str) -> dict[str, str]:
        return {name: self._but.get(name, "active") for name in names}


@pytest.mark.parametrize(
    ("but", "named"),
    [
        ({}, []),
        ({"flashpods-rsyncd.socket": "inactive"}, ["flashpods-rsyncd.socket is inactive"]),
        ({"flashpods-api.service": "auto-restart"}, ["flashpods-api.service is auto-restart"]),
        ({"flashpods-rsyncd.socket": "absent"}, []),
    ],
)
def test_units_that_do_not_run(tmp_path: Path, but: dict[str, str], named: list[str]) -> None:
    seen = replace(look(tmp_path), units=Standing(but))
    assert [found.symptom for found in services.units(seen)] == named
