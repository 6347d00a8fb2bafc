"""The commands that run inside the namespace: image, up, demo, test, attacks, bench, lab, …"""

from __future__ import annotations

import compileall
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flashpods_dev import attacks, check, demo, faults, helper_build, image, lanes, laptop, tiers
from flashpods_dev.identity import build
from flashpods_dev.identity.parts import Options
from flashpods_dev.lab import run as lab
from flashpods_dev.layout import write_for_user
from flashpods_dev.machine import IMAGE, UID, Machine
from flashpods_dev.report import Steps, say
from flashpods_dev.stack import MiniStack
from flashpods_dev.vm import run as vm

PASSED_ON = (
    "test",
    "attacks",
    "faults",
    "soak",
    "bench",
    "lab",
    "laptop",
    "shell",
    "vm",
    *tiers.TIERS,
)  # what follows these is not ours to parse
# What state_directory() makes: no name that a person would give.
TEMPORARY = re.compile(
    r"(up|demo|test|attacks|faults|soak|identity|lab|laptop|monitoring|ui|vm)-[a-z0-9_]{8}"
)
MACHINES = {"lab": lab.run, "vm": vm.run}  # these need no stack and no image of ours
GIVE_UP_DEATHS = 5
GIVE_UP_WINDOW = 30  # seconds


def run(machine: Machine, arguments: list[str]) -> int:
    """Run one command; return the exit code of ./dev.

    Raises:
        StackError: the stack can't start.
    """
    parser = ArgumentParser(prog="./dev", allow_abbrev=False)
    verbs = parser.add_subparsers(dest="verb", required=True)
    up = verbs.add_parser("up")
    up.add_argument("--state", type=Path)
    up.add_argument("--port", type=int, default=0)
    up.add_argument("--identity", action="store_true")
    for name in ("image", "demo"):
        verbs.add_parser(name)
    for name in PASSED_ON:
        verbs.add_parser(name, add_help=False, prefix_chars="\0")
    known, rest = parser.parse_known_args(arguments)
    if known.verb in PASSED_ON:
        rest = arguments[1:]
    return _run(machine, known, rest)


def _run(machine: Machine, known: Namespace, rest: list[str]) -> int:  # noqa: PLR0911 - one a verb
    _compile(machine)
    if known.verb in MACHINES:
        with state_directory(machine, known.verb) as state:
            return MACHINES[known.verb](machine, state, rest)
    image.ensure(machine)
    match known.verb:
        case "up":
            return _up(machine, known.state, known.port, identity=known.identity)
        case "demo":
            with state_directory(machine, "demo") as state:
                return demo.run(machine, state)
        case "test":
            return _test(machine, rest)
        case "attacks":
            with state_directory(machine, "attacks") as state:
                return attacks.run(machine, state, rest)
        case "faults":
            with state_directory(machine, "faults") as state:
                return faults.run(machine, state, rest)
        case "soak":
            with state_directory(machine, "soak") as state:
                return faults.soak(machine, state, rest)
        case tier if tier in tiers.TIERS:
            with state_directory(machine, tier) as state:
                return tiers.run(machine, state, tiers.TIERS[tier], rest)
        case "laptop":
            with state_directory(machine, "laptop") as state:
                return laptop.run(machine, state, rest)
        case "bench":
            return _call([sys.executable, "-m", "flashpods_dev.bench", *rest], machine)
        case "shell":
            return _call(rest or ["bash"], machine)
    return 0


@contextmanager
def state_directory(machine: Machine, name: str) -> Iterator[Path]:
    """Give a state directory that is removed at the end; remove those of runs that were killed.

    A directory is in use while a process holds its lock: the kernel says who lives.
    """
    parent = machine.dev / "state"
    parent.mkdir(parents=True, exist_ok=True)
    with (machine.dev / "state.lock").open("w") as making:
        fcntl.flock(making, fcntl.LOCK_EX)
        for old in parent.iterdir():
            if TEMPORARY.fullmatch(old.name) and (stale := _lock(old)) is not None:
                shutil.rmtree(old, ignore_errors=True)
                os.close(stale)
        path = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=parent))
        lock = _lock(path)
    path.chmod(0o711)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _lock(directory: Path) -> int | None:
    """Return a descriptor that holds the directory's lock; None if another process does."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _up(machine: Machine, given: Path | None, port: int, *, identity: bool) -> int:
    """Run the stack until a signal stops it (0), or a part of it keeps failing (1)."""
    if given is None:
        with state_directory(machine, "up") as state:
            return _up(machine, state, port, identity=identity)
    options = None
    if identity:
        helper = helper_build.ensure(machine.checkout).helper
        options = Options(spire=build.ensure(machine.dev), helper=helper)
    steps = Steps()
    with MiniStack(given, machine, port=port, identity=options) as stack:
        steps.done("stack")
        print(stack.info.line(), flush=True)
        if stack.layout.socket_is_hidden:
            say("podman_socket is out of your reach: for that, choose a shorter --state")
        say("running; ctrl-C stops it")
        try:
            return _watch(stack)
        except KeyboardInterrupt:
            say("stopping")
            return 0


def _watch(stack: MiniStack) -> int:
    """Start a part again when it dies, as systemd would; give up when that happens too often."""
    deaths: dict[str, list[float]] = {}
    while True:
        if stack.identity:
            stack.identity.tend()
        for service in stack.services:
            if service.alive:
                continue
            now = time.monotonic()
            recent = [t for t in deaths.get(service.name, []) if t > now - GIVE_UP_WINDOW]
            if len(recent) >= GIVE_UP_DEATHS:
                if service is stack.cleanup:
                    continue  # jobs run without it; it is tried again when the window has passed
                say(f"too often:\n{service.tail()}")
                return 1
            say(f"{service.name} ended, starting it again; its log: {service.log}")
            deaths[service.name] = [*recent, now]
            service.start(wait=False)
        time.sleep(1)


def _compile(machine: Machine) -> None:
    """Write the bytecode that the stack's user can't write itself."""
    compileall.compile_dir(machine.checkout / "python" / "src", quiet=2)


def _test(machine: Machine, rest: list[str]) -> int:
    """Run the checks, then every test; pytest has the last word."""
    if rest:
        return _pytest(machine, rest, {})
    checked = check.run(machine.checkout)
    with (
        state_directory(machine, "test") as state,
        lanes.beside(machine.checkout, state / "lanes") as variables,
    ):
        apart = [f"--ignore={path}" for path in lanes.APART]
        words = [*_test_paths(machine), "tests/lanes", *apart]
        return _pytest(machine, words, variables) or checked


def _test_paths(machine: Machine) -> list[str]:
    project = tomllib.loads((machine.checkout / "python" / "pyproject.toml").read_text())
    paths: list[str] = project["tool"]["pytest"]["ini_options"]["testpaths"]
    return paths


def _pytest(machine: Machine, arguments: list[str], variables: dict[str, str]) -> int:
    """Run pytest beside a stack, and an engine for the tests that make containers themselves."""
    with (
        state_directory(machine, "test") as state,
        MiniStack(state / "engine", machine, parts=["podman"]) as engine,
        MiniStack(state / "stack", machine) as stack,
    ):
        return _call(
            [sys.executable, "-m", "pytest", *arguments],
            machine,
            {**_test_variables(state, engine, stack), **variables},
        )


def _test_variables(state: Path, engine: MiniStack, stack: MiniStack) -> dict[str, str]:
    """Return what tests/conftest.py and the integration tests find the stacks by."""
    scratch = state / "tmp"
    scratch.mkdir()
    os.chown(scratch, UID, UID)
    write_for_user(state / "stack.json", stack.info.line() + "\n")
    return {
        "FLASHPODS_TEST_STACK": str(state / "stack.json"),
        "FLASHPODS_TEST_SETTINGS": str(stack.layout.settings),
        "FLASHPODS_TEST_STATE": str(state),  # for the state directories of further stacks
        "FLASHPODS_TEST_TMP": str(scratch),  # reachable and writable by the stack's user
        "FLASHPODS_TEST_USER": str(UID),
        "FLASHPODS_TEST_PODMAN_SOCKET": str(engine.layout.socket),
        "FLASHPODS_TEST_CGROUP_PARENT": engine.cgroup_parent,
        "FLASHPODS_TEST_LIMITS": "1" if stack.machine.limits_enforced else "0",
    }


def _call(argv: list[str], machine: Machine, variables: dict[str, str] | None = None) -> int:
    """Run a command in the namespace, as root, at the terminal."""
    environment = {**os.environ, "FLASHPODS_TEST_IMAGE": IMAGE, **(variables or {})}
    child = subprocess.Popen(argv, cwd=machine.checkout / "python", env=environment)
    try:
        return child.wait()
    except KeyboardInterrupt:
        child.send_signal(signal.SIGINT)
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
        raise
