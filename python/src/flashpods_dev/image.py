"""The images, built once from the machine's own package sources, in a store all stacks share.

No image registry is needed: mmdebstrap makes a small root of the machine's own Debian or Ubuntu,
and Podman imports it. The first container in a keep-id mapping makes Podman copy the image with
other owners (2 to 5 s); one container made and removed here leaves that copy in the store, so no
job pays for it. The agent image is the base image with the entrypoint on top.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from flashpods_dev.machine import AGENT_IMAGE, IMAGE, SUBIDS_START, UID, Machine, StackError
from flashpods_dev.report import Steps, say
from flashpods_dev.stack import MiniStack

PACKAGES = (
    *("python3", "python3-hatchling", "python3-pip", "python3-pytest"),
    *("ca-certificates", "git"),
)
RECIPE = "2"  # raise it when the way of building changes
ENTRYPOINT = Path("pkgs") / "agent-image" / "entrypoint.sh"
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")


def os_release(text: str) -> dict[str, str]:
    """Parse os-release(5)."""
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
    return {key: value.strip("\"'") for key, value in pairs}


def own_sources(lists: dict[str, str], codename: str) -> list[str]:
    """Pick the distribution's own entries from the machine's apt sources.

    Args:
        lists: file name → text of ``sources.list`` and ``sources.list.d`` (sources.list(5)).
        codename: such as ``bookworm``.

    Returns:
        One-line entries and whole deb822 stanzas.
    """
    kept = []
    for name, text in lists.items():
        if name.endswith(".sources"):
            kept += [s for s in text.split("\n\n") if _own_stanza(s, codename)]
        else:
            lines = (line.strip() for line in text.splitlines())
            kept += [s for s in lines if s.startswith("deb ") and _own_words(s.split(), codename)]
    return kept


def _own_words(words: list[str], codename: str) -> bool:
    suites = [word for word in words if word.split("-")[0] == codename]
    return bool(suites) and "main" in words[words.index(suites[0]) :]


def _own_stanza(stanza: str, codename: str) -> bool:
    fields: dict[str, str] = {}
    for line in stanza.splitlines():
        if ":" in line and not line.startswith(("#", " ", "\t")):
            key, value = line.split(":", 1)
            fields[key.strip().lower()] = value
    if "deb" not in fields.get("types", "").split() or fields.get("enabled", "").strip() == "no":
        return False
    return _own_words(
        [*fields.get("suites", "").split(), *fields.get("components", "").split()], codename
    )


def ensure(machine: Machine) -> None:
    """Have the image in the shared store; quick when it is there, one builder at a time.

    Raises:
        StackError: a tool failed; the message has the end of what it said.
    """
    machine.dev.mkdir(exist_ok=True)
    with (machine.dev / "image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = machine.images / "stamp"
        key = _key()
        entrypoint = (machine.checkout / ENTRYPOINT).read_bytes()
        wanted = f"{key} {hashlib.sha256(entrypoint).hexdigest()[:16]}"
        if stamp.exists() and stamp.read_text() == wanted:
            return
        say(f"building the image {IMAGE} and its agent once (in {machine.dev}: cache/, images/)")
        steps = Steps()
        archive = root_tree(machine, f"root-{key}", PACKAGES)
        steps.done("root tree of the base image")
        shutil.rmtree(machine.images, ignore_errors=True)
        _import(machine, archive, steps)
        stamp.write_text(wanted)


def _key() -> str:
    release = Path("/etc/os-release").read_text()
    podman = _run(["podman", "--version"], 30)
    return key_of(RECIPE, release, podman, *PACKAGES, *LEFT_OUT, str(UID), str(SUBIDS_START))


def key_of(*parts: str) -> str:
    """Name what an image depends on."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def root_tree(machine: Machine, name: str, packages: Sequence[str]) -> Path:
    """Make a root tree of the machine's own distribution, as an archive, unless it is cached.

    Args:
        machine: where the cache is.
        name: of the archive, ``<kind>-<key>``; others of the kind are removed.
        packages: what is in it beside what every Debian has.

    Raises:
        StackError: there is no source for it, or mmdebstrap failed.
    """
    cache = machine.dev / "cache"
    cache.mkdir(exist_ok=True)
    archive = cache / f"{name}.tar"
    if archive.exists():
        return archive
    for old in cache.glob(f"{name.partition('-')[0]}-*.tar*"):
        old.unlink()
    codename = os_release(Path("/etc/os-release").read_text()).get("VERSION_CODENAME", "")
    files = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*.*"))]
    lists = {
        f.name: f.read_text() for f in files if f.suffix in {".list", ".sources"} and f.exists()
    }
    sources = own_sources(lists, codename)
    if not sources:
        raise StackError(
            f"no apt source for {codename!r} in /etc/apt: a Debian or Ubuntu is needed"
        )
    proxy = _run(
        ["apt-config", "dump", '--format=%F "%v";%n', "Acquire::http", "Acquire::https"], 30
    )
    mirrors = []
    for number, source in enumerate(sources):
        suffix = "list" if source.startswith("deb ") else "sources"
        mirrors.append(machine.run_dir / f"mirror{number}.{suffix}")
        mirrors[-1].write_text(source.strip() + "\n")
    new = archive.with_suffix(".tar.new")
    command = ["mmdebstrap", "--variant=minbase", f"--include={','.join(packages)}", "--format=tar"]
    command += ["--skip=output/dev", "--aptopt=APT::Install-Recommends false"]
    command += [f"--aptopt={line}" for line in proxy.splitlines() if line.strip()]
    command += ["--dpkgopt=force-unsafe-io"]  # a tree to be packed: no fsync for each file
    command += [f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT]
    _run([*command, codename, str(new), *map(str, mirrors)], 600)
    new.rename(archive)
    return archive


def _import(machine: Machine, archive: Path, steps: Steps) -> None:
    """Import the archive, put the entrypoint on it, and warm the mapping of keep-id of both."""
    entrypoint = str(machine.checkout / ENTRYPOINT)
    builder = MiniStack(machine.images, machine, parts=(), images=False)
    with builder:

        def podman(*arguments: str) -> None:
            done = builder.run_podman(*arguments, seconds=300)
            if done.returncode:
                raise StackError(f"podman {arguments[0]}: {done.stderr.strip()[-2000:]}")

        podman("import", str(archive), IMAGE)
        steps.done("import of the base image")
        podman("create", "--name=agent", IMAGE, "/entrypoint.sh")
        podman("cp", entrypoint, "agent:/entrypoint.sh")
        podman("commit", "--quiet", "agent", AGENT_IMAGE)
        podman("rm", "agent")
        steps.done("agent image")
        for image in (IMAGE, AGENT_IMAGE):
            warm = ["--name=warm", "--userns=keep-id", "--network=none"]
            warm.append(f"--cgroup-parent={builder.cgroup_parent}/warm")
            podman("create", *warm, image, "/bin/true")
            podman("rm", "--force", "warm")
        steps.done("warming both")


def _run(command: list[str], seconds: float) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, check=False, cwd="/"
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        raise StackError(f"{command[0]}: {e}") from e
    if done.returncode:
        raise StackError(f"{command[0]} failed ({done.returncode}):\n{done.stderr.strip()[-2000:]}")
    return done.stdout
