"""Tries the cells of one place, without rules and with them, and compares with what is expected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matrix import COUNTER, NO_UDP, WITHOUT_RULES
from netlab import OTHERS, PORTS, SERVICES, Lab, Prober

Cell = tuple[str, str, int]
# Below the kernel's first retransmission of a SYN (1 s): a cell is one packet, and can be counted.
PATIENCE = 0.6
NOBODY = {"refused", "unreachable", "silent", "none"}
TRIES = 3  # a machine so busy that a second went by is no verdict


def cells(addresses: Sequence[str]) -> list[Cell]:
    """Return the cells of some addresses."""
    tcp = [("tcp", address, port) for address in addresses for port in PORTS]
    return [*tcp, *(("udp", address, 7777) for address in addresses if address not in NO_UDP)]


def without_rules(lab: Lab, prober: Prober, verdicts: Mapping[str, Sequence[str]]) -> None:
    """Every cell is answered by whom the table says, so that a refusal later means something."""
    lab.unload()
    for verdict, addresses in verdicts.items():
        left = cells(addresses)
        if verdict == ".":
            expect_nobody(left, prober(*left, seconds=PATIENCE))
        for _ in range(TRIES if verdict in WITHOUT_RULES else 0):
            said = prober(*left, seconds=4)
            left = [c for c, s in zip(left, said, strict=True) if s != WITHOUT_RULES[verdict]]
            if not left:
                break
        else:
            assert verdict not in WITHOUT_RULES, f"{verdict}: without rules {left} said {said}"


def with_rules(lab: Lab, prober: Prober, verdicts: Mapping[str, Sequence[str]]) -> None:
    """Nobody answers, and the very counter has seen each packet; the internet answers."""
    lab.load()
    for verdict, addresses in verdicts.items():
        tried = cells(addresses)
        open_ = [c for c in tried if verdict == "I" and c[2] not in SERVICES]
        said = prober(*open_, seconds=10) if open_ else []
        assert set(said) <= {"internet"}, (open_, said)
        shut = [c for c in tried if c not in open_]
        for _ in range(TRIES):
            with lab.counted() as grown:
                expect_nobody(shut, prober(*shut, seconds=PATIENCE))
            if verdict == "~" or grown == expected(verdict, addresses):
                break
        else:
            raise AssertionError(f"{verdict}: {grown}, not {expected(verdict, addresses)}")


def expected(verdict: str, addresses: Sequence[str]) -> dict[str, int]:
    """Return what each counter must have grown by."""
    if verdict == ".":
        return {}
    many = {"job_to_service": len(SERVICES) * len(addresses)}
    if counter := COUNTER.get(verdict):
        udp = [address for address in addresses if address not in NO_UDP]
        many[counter] = len(OTHERS) * len(addresses) + len(udp)
    return many


def expect_nobody(tried: Sequence[Cell], said: Sequence[str]) -> None:
    """Fail if somebody answered."""
    reached = [(c, s) for c, s in zip(tried, said, strict=True) if s not in NOBODY]
    assert not reached, f"reached: {reached}"
