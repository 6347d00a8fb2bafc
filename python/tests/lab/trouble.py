"""What a trouble is, and what is done with each: break, see, ask the doctor, follow the guide."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import guide
from oncall import OnCall

Act = Callable[[OnCall], object]
Step = Callable[[OnCall, guide.Section], None]


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """A trouble of the guide, on the host as the modules render it."""

    name: str
    section: str  # the guide's, by its anchor
    how: str  # it was broken, for the table
    sees: str  # words of "You see" that name the symptom
    make: Act
    seen: Act  # returns when the symptom shows
    code: str  # the doctor's; empty: it only refuses the settings
    says: str  # a pattern that its words about it match
    steps: tuple[Step, ...]
    exit_code: int = 1
    held: str = "completed"  # how a job ends that ran before
    prepare: Act = lambda _: None  # what the host has before that job; no part of the trouble
    after: Act = lambda _: None  # takes that away again, whatever came of it


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A row of the table."""

    trouble: str
    section: str
    how: str
    doctor: str
    seconds: float  # from the symptom to well; a person reads and thinks besides
    log: list[str] = field(repr=False)


def on_host(*commands: str) -> Act:
    """Break it by shell lines on HOST."""
    return lambda oncall: oncall.host.succeed(*commands)


def look(*blocks: int) -> Step:
    """Run the blocks below **Look.**; what only looks may end with any code."""
    return _blocks("Look", blocks, must=False)


def do(*blocks: int) -> Step:
    """Run these blocks below **Do.**, which must succeed."""
    return _blocks("Do", blocks, must=True)


def _blocks(part: str, numbers: tuple[int, ...], *, must: bool) -> Step:
    def step(oncall: OnCall, section: guide.Section) -> None:
        marked = f"**{part}.**" in section.body  # an alert's section has its blocks alone
        found = section.blocks(part if marked else "")
        assert found, f"{section.anchor} has nothing below {part}"
        for number in numbers or range(len(found)):
            for command in found[number]:
                # The doctor may still see what was; the test asks it until it finds nothing.
                oncall.run(command, must=must and "doctor" not in command)

    return step


def as_said(words: str, act: Act) -> Step:
    """Do what a sentence of the section says, and no command of it can."""

    def step(oncall: OnCall, section: guide.Section) -> None:
        assert words in section.body, (section.anchor, words)
        act(oncall)

    return step


def by_doctor(code: str, *beginnings: str) -> Step:
    """Do what the doctor printed after ``do:``, those of its lines that begin so."""

    def step(oncall: OnCall, _: guide.Section) -> None:
        for beginning in beginnings:
            oncall.run(oncall.remedy(code, beginning))

    return step


def live_through(oncall: OnCall, trouble: Trouble) -> Outcome:
    """Break it, wait for the symptom, ask the doctor, follow the guide, see that it is well."""
    oncall.log, oncall.printed, oncall.code = [], "", trouble.code
    oncall.section = guide.section(trouble.section)
    assert trouble.sees in oncall.section.symptom, (trouble.sees, oncall.section.symptom)
    oncall.api.ready()  # ends what a trouble before, which failed, has left
    try:
        trouble.prepare(oncall)
        return _live_through(oncall, trouble)
    finally:
        trouble.after(oncall)


def _live_through(oncall: OnCall, trouble: Trouble) -> Outcome:
    held = oncall.hold()
    broken = time.monotonic()
    trouble.make(oncall)
    trouble.seen(oncall)
    began = time.monotonic()
    oncall.log.append(f"seen after {began - broken:.1f} s")
    said = examine(oncall, trouble)
    for step in trouble.steps:
        step(oncall, oncall.section)
    oncall.wait_well()
    seconds = time.monotonic() - began
    oncall.let_go(held)
    row = oncall.api.ended(held)
    assert row["status"] == trouble.held, row
    if trouble.held == "completed":
        assert oncall.api.output(held) == ["began", "over"], row
    return Outcome(
        trouble=trouble.name,
        section=trouble.section,
        how=trouble.how,
        doctor=said,
        seconds=round(seconds, 1),
        log=oncall.log,
    )


def examine(oncall: OnCall, trouble: Trouble) -> str:
    """Hold the doctor to name the trouble, its reason and a remedy; return what it said."""
    code = oncall.doctor()
    assert code == trouble.exit_code, (code, oncall.findings)
    if not trouble.code:
        assert re.search(trouble.says, oncall.printed), oncall.printed
        return oncall.printed.strip()
    found = oncall.finding(trouble.code)
    words = "; ".join([found["symptom"], found["cause"], *found["evidence"]])
    assert re.search(trouble.says, words), (trouble.says, words)
    assert found["remedy"], found
    assert found["guide"].endswith(f"#{trouble.section}"), found
    return words
