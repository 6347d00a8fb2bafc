"""The seccomp profile: the file is what the rules render, and the rules close what they must."""

import errno
import json
import socket
from typing import Any

import pytest

from flashpods.adapters.podman import seccomp
from flashpods.config import SECCOMP_PROFILE

RULES: list[dict[str, Any]] = seccomp.profile()["syscalls"]


def verdicts(call: str) -> list[tuple[str, int, Any]]:
    """Return action, errno and arguments of each rule that names the call."""
    return [(r["action"], r.get("errnoRet", 0), r.get("args")) for r in RULES if call in r["names"]]


def test_the_file_is_what_the_rules_render() -> None:
    assert SECCOMP_PROFILE.read_text() == seccomp.render(), (
        "run: python -m flashpods.adapters.podman.seccomp"
    )


def test_what_no_rule_names_is_not_there() -> None:
    profile = json.loads(SECCOMP_PROFILE.read_text())
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    assert profile["defaultErrnoRet"] == errno.ENOSYS


def test_no_call_is_both_allowed_and_refused() -> None:
    allowed, refused = seccomp.names(seccomp.ALLOWED), seccomp.names(seccomp.REFUSED)
    every = [*allowed, *refused, "clone", "socket", "socketpair", "personality"]
    assert len(every) == len(set(every))


@pytest.mark.parametrize(
    "call",
    [
        "unshare",
        "setns",
        "mount",
        "umount2",
        "pivot_root",
        "chroot",
        "open_tree",
        "move_mount",
        "fsopen",
        "mount_setattr",
        "bpf",
        "perf_event_open",
        "userfaultfd",
        "keyctl",
        "add_key",
        "request_key",
        "open_by_handle_at",
        "init_module",
        "kexec_load",
        "reboot",
    ],
)
def test_the_doors_are_shut(call: str) -> None:
    assert verdicts(call) == [("SCMP_ACT_ERRNO", errno.EPERM, None)]


@pytest.mark.parametrize("call", ["clone3", "io_uring_setup", "socketcall"])
def test_what_a_filter_cannot_read_is_not_there(call: str) -> None:
    assert verdicts(call) == []


def test_clone_makes_processes_and_no_namespaces() -> None:
    ((action, _, [argument]),) = verdicts("clone")
    assert action == "SCMP_ACT_ALLOW"
    assert argument == {
        "index": 0,
        "op": "SCMP_CMP_MASKED_EQ",
        "value": seccomp.NAMESPACE_FLAGS,
        "valueTwo": 0,
    }
    new_user, new_mount, new_net = 0x10000000, 0x00020000, 0x40000000
    assert all(seccomp.NAMESPACE_FLAGS & flag for flag in (new_user, new_mount, new_net))
    threads = 0x3D0F00  # what glibc asks for
    assert not seccomp.NAMESPACE_FLAGS & threads


@pytest.mark.parametrize("call", ["socket", "socketpair"])
def test_sockets_of_few_families_only(call: str) -> None:
    allowed = {a[0]["value"] for action, _, a in verdicts(call) if action == "SCMP_ACT_ALLOW"}
    assert allowed == {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK}
    refused = {a[0]["value"]: e for action, e, a in verdicts(call) if action == "SCMP_ACT_ERRNO"}
    assert refused[socket.AF_ALG] == refused[socket.AF_VSOCK] == errno.EAFNOSUPPORT
