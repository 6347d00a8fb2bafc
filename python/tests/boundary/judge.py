"""Tries the cells of one place, without rules and with them, and compares with what is expected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from matrix import COUNTER, NO_UDP, WITHOUT_RULES
from netlab import OTHERS, PORTS, SERVICES, Prober

Cell = tuple[str, str, int]
# Below the kernel's first retransmission of a SYN (1 s): a cell is one packet, and can be counted.
PATIENCE = 0.6
NOBODY = {"refused", "unreachable", "silent", "none"}
TRIES = 3  # a machine so busy that a second went by is no verdict


class Rules(Protocol):
    """A host whose rules can be loaded and read: the namespaces of netlab, a machine of the lab."""

    def load(self) -> None: ...
    def unload(self) -> None: ...
    def counted(self) -> AbstractContextManager[dict[str, int]]: ...


def cells(addresses: Sequence[str]) -> list[Cell]:
    """Return the cells of some addresses."""
    tcp = [("tcp", address, port) for address in addresses for port in PORTS]
    return [*tcp, *(("udp", address, 7777) for address in addresses if address not in NO_UDP)]


def judge(
    lab: Rules,
    place: Callable[[], AbstractContextManager[Prober]],
    verdicts: Mapping[str, Sequence[str]],
) -> None:
    """Try all cells of a place, without rules and with them.

    pasta of 2023 sometimes stops relaying under load: a place where what must answer does not,
    without any rules, is set up anew.
    """
    for left in reversed(range(TRIES)):
        lab.unload()
        with place() as prober:
            missed = without_rules(prober, verdicts)
            if missed and left:
                continue
            assert not missed, f"without rules nobody answers: {missed}"
            with_rules(lab, prober, verdicts)
            return


def without_rules(prober: Prober, verdicts: Mapping[str, Sequence[str]]) -> list[Cell]:
    """Return the cells that are not answered by whom the table says.

    Only what is answered without rules can be said to be refused by them.
    """
    missed = []
    for verdict, addresses in verdicts.items():
        left = cells(addresses)
        if verdict == ".":
            expect_nobody(left, prober(*left, seconds=PATIENCE))
        if verdict not in WITHOUT_RULES:
            continue
        for _ in range(TRIES):
            said = prober(*left, seconds=4)
            left = [c for c, s in zip(left, said, strict=True) if s != WITHOUT_RULES[verdict]]
            if not left:
                break
        missed += left
    return missed


def with_rules(lab: Rules, prober: Prober, verdicts: Mapping[str, Sequence[str]]) -> None:
    """Nobody answers, and the very counters have seen each packet; the internet answers."""
    lab.load()
    internet = [cell for cell in cells(verdicts.get("I", ())) if cell[2] not in SERVICES]
    said = prober(*internet)
    assert set(said) <= {"internet"}, list(zip(internet, said, strict=True))
    unsure = cells(verdicts.get("~", ()))
    expect_nobody(unsure, prober(*unsure, seconds=PATIENCE))
    known = {verdict: addresses for verdict, addresses in verdicts.items() if verdict != "~"}
    shut = [c for addresses in known.values() for c in cells(addresses) if c not in internet]
    for _ in range(TRIES):
        with lab.counted() as grown:
            expect_nobody(shut, prober(*shut, seconds=PATIENCE))
        if grown == expected(known):
            return
    raise AssertionError(f"counted {grown}, not {expected(known)}")


def expect_shut(
    lab: Rules, prober: Prober, shut: Sequence[Cell], counter: str, said: Collection[str]
) -> None:
    """Each cell comes to one of ``said``, and the very counter has seen one packet of each."""
    for _ in range(TRIES):
        with lab.counted() as grown:
            came = prober(*shut, seconds=PATIENCE)
        assert set(came) <= set(said), list(zip(shut, came, strict=True))
        if grown == {counter: len(shut)}:
            return
    raise AssertionError(f"counted {grown}, not {counter}: {len(shut)}")


def expected(verdicts: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Return what each counter must have grown by, if every cell was tried once."""
    many: Counter[str] = Counter()
    for verdict, addresses in verdicts.items():
        if verdict == ".":
            continue
        many["job_to_service"] += len(SERVICES) * len(addresses)
        if counter := COUNTER.get(verdict):
            udp = [address for address in addresses if address not in NO_UDP]
            many[counter] += len(OTHERS) * len(addresses) + len(udp)
    return dict(many)


def expect_nobody(tried: Sequence[Cell], said: Sequence[str]) -> None:
    """Fail if somebody answered."""
    reached = [(c, s) for c, s in zip(tried, said, strict=True) if s not in NOBODY]
    assert not reached, f"reached: {reached}"
