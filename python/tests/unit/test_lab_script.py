"""A body of checks/ runs in the lab as in the NixOS test driver."""

from __future__ import annotations

from pathlib import Path

import pytest

from flashpods_dev.lab import script
from flashpods_dev.machine import StackError


class Node:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def start(self) -> None:
        self.told.append("start")

    def succeed(self, command: str) -> str:
        self.told.append(command)
        return "said"


def checkout(top: Path, **bodies: str) -> Path:
    (top / "checks" / "common").mkdir(parents=True)
    (top / script.COMMON).write_text("ANSWER = 42\n\ndef ready():\n    start_all()\n")
    for name, text in bodies.items():
        (top / "checks" / f"{name}.py").write_text(text)
    return top


GOOD = """
ready()
with subtest("first"):
    assert host.succeed("true") == "said"
with subtest("second"):
    assert ANSWER == 42
"""


def test_a_body_gets_nodes_subtests_and_the_prelude(tmp_path: Path) -> None:
    place = checkout(tmp_path, good=GOOD)
    host, laptop, lines = Node(), Node(), list[str]()
    nodes = {"host": host, "laptop": laptop}
    assert script.run(place, "good", nodes, tell=lines.append) == ["first", "second"]
    assert host.told == ["start", "true"]
    assert laptop.told == ["start"]
    assert [line.rpartition(" (")[0] for line in lines] == ["good: first", "good: second"]


def test_what_a_body_prints_goes_where_it_is_wanted(tmp_path: Path) -> None:
    text = 'with subtest("one"):\n    print("RTO 7 s")\n'
    place, shown = checkout(tmp_path, prints=text), list[str]()
    script.run(place, "prints", {}, show=shown.append)
    assert shown == ["RTO 7 s"]


def test_a_place_may_say_something_else_than_the_prelude(tmp_path: Path) -> None:
    place = checkout(tmp_path, other="with subtest('a'):\n    assert ANSWER == 7\n")
    assert script.run(place, "other", {}, constants={"ANSWER": 7}) == ["a"]


def test_what_fails_names_its_subtest(tmp_path: Path) -> None:
    place = checkout(tmp_path, bad="with subtest('a'):\n    pass\nwith subtest('b'):\n    1 / 0\n")
    with pytest.raises(ZeroDivisionError) as failed:
        script.run(place, "bad", {})
    assert failed.value.__notes__ == ["in the subtest 'b' of checks/bad.py"]


def test_a_body_without_subtests_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="no subtest"):
        script.run(checkout(tmp_path, empty="pass\n"), "empty", {})


def test_bodies_are_found_from_the_directory(tmp_path: Path) -> None:
    assert script.names(checkout(tmp_path, b="", a="")) == ["a", "b"]
