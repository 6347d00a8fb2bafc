"""The rules are exchanged without a gap, and stay what they are whatever others do to theirs."""

from __future__ import annotations

import json
import re
import select
import socket
import sys
from contextlib import closing

import judge
import modes
import pytest
from netlab import PORTS, Lab, as_user, ruleset

from flashpods_dev.machine import UID, StackError

RELOADS = 40
STREAM = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(("10.0.0.1", 5555))
print("ready", flush=True)
sent = 0
while True:
    try:
        s.send(b"x")
    except OSError:
        pass
    sent += 1
    if sent % 2000 == 0:
        print(sent, flush=True)
"""


def text_of(lab: Lab) -> str:
    """Return our table as the kernel has it, without what is counted."""
    listed = lab.host.run("nft", "list", "table", "inet", "flashpods")
    return re.sub(r"packets \d+ bytes \d+", "", listed)


def leaked_while(lab: Lab, rules: list[str]) -> tuple[int, int]:
    """Reload in turn while a job sends at full speed; return what came through and was tried."""
    with lab.host.entered():
        listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with closing(listener):
        listener.bind(("10.0.0.1", 5555))
        stream = lab.host.start(*as_user(), sys.executable, "-c", STREAM)
        sent = 0
        for number in range(RELOADS):
            lab.load(rules[number % len(rules)])
            sent = int(stream.line())
        stream.end()
        leaked = 0
        while select.select([listener], [], [], 0)[0]:
            listener.recv(10)
            leaked += 1
    return leaked, sent


def test_no_packet_passes_during_reloads(lab: Lab) -> None:
    leaked, sent = leaked_while(lab, [ruleset(), ruleset(allow_private=True)])
    assert leaked == 0
    assert sent >= RELOADS * 2000


def test_the_stream_would_show_a_gap(lab: Lab) -> None:
    """Two transactions instead of one leave a gap: the test above can fail."""
    without = "table inet flashpods\ndelete table inet flashpods\n"
    leaked, _ = leaked_while(lab, [ruleset(), without])
    assert leaked > 0


def test_the_laptop_is_served_during_reloads(lab: Lab) -> None:
    prober = lab.laptop.probe()
    for _ in range(20):
        lab.load()
        said = prober(*[("tcp", "10.0.0.1", port) for port in (8080, 873)] * 5)
        assert set(said) == {"host"}


def test_counters_outlive_a_reload(lab: Lab) -> None:
    with modes.in_host(lab, UID) as job:
        job.one("10.0.0.1", 8080)
    before = lab.counters()
    assert before["job_to_service"] >= 1
    lab.load()
    assert lab.counters() == before


def test_a_faulty_file_changes_nothing(lab: Lab) -> None:
    before = text_of(lab)
    with pytest.raises(StackError, match="nft"):
        lab.load(ruleset().replace("chain refuse {", "chain refuse {\nno such statement"))
    with pytest.raises(StackError, match="nft"):
        lab.load(ruleset() + "add rule inet flashpods nowhere accept\n")
    assert text_of(lab) == before


def test_loading_twice_is_loading_once(lab: Lab) -> None:
    before = text_of(lab)
    lab.load()
    assert text_of(lab) == before


def test_other_tables_are_left_alone(lab: Lab) -> None:
    """As Podman's: an ``inet netavark`` table, and rules by iptables-nft in ``ip filter``."""
    theirs = (
        "table inet netavark { set s { type ipv4_addr; elements = { 10.88.0.2 }; }; "
        "chain c { type nat hook postrouting priority 100; ip saddr @s masquerade; }; };"
        "table ip filter { chain FORWARD { type filter hook forward priority 0; accept; }; };"
    )
    lab.host.run("nft", "-f", "-", text=theirs)
    try:
        before = lab.host.run("nft", "list", "table", "inet", "netavark")
        ours = text_of(lab)
        lab.load()
        assert lab.host.run("nft", "list", "table", "inet", "netavark") == before
        # Their accept does not overrule our refusal, nor their flush our table.
        out = [("tcp", "203.0.113.80", 80)]
        judge.expect_shut(lab, lab.bridged.probe(), out, "forward_any", {"silent"})
    finally:
        lab.host.run("nft", "-f", "-", text="delete table inet netavark; delete table ip filter;")
    assert text_of(lab) == ours
    with modes.in_host(lab, UID) as job:
        cells = [("tcp", "10.0.0.1", port) for port in PORTS]
        judge.expect_nobody(cells, job(*cells))


def test_every_refusal_is_counted_by_name(lab: Lab) -> None:
    """No rule drops or refuses without a counter of its own, in the text that is loaded."""
    listed = json.loads(lab.host.run("nft", "-j", "list", "table", "inet", "flashpods"))
    rules = [entry["rule"] for entry in listed["nftables"] if "rule" in entry]
    assert len(rules) > 20
    for rule in rules:
        verdicts = [
            e for e in rule["expr"] if "drop" in e or e.get("goto", {}).get("target") == "refuse"
        ]
        if verdicts:
            assert any("counter" in e for e in rule["expr"]), rule


def test_no_set_is_looked_up(lab: Lab) -> None:
    """While rules are exchanged a set may be found empty: docs/decisions/0007."""
    listed = lab.host.run("nft", "-j", "list", "table", "inet", "flashpods")
    assert '"set"' not in listed
    assert '"map"' not in listed
    assert '"vmap"' not in listed
