"""The root that all lab machines share, read-only: Debian with systemd, made once."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from flashpods_dev import chroot
from flashpods_dev.machine import Machine
from flashpods_dev.report import Steps, say

RECIPE: Final = "2"  # raise it when the way of building changes
SUITE: Final = "trixie"
MIRROR: Final = "http://deb.debian.org/debian"
KEYS: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
PACKAGES: Final = (
    *("systemd", "systemd-sysv", "dbus", "dbus-user-session", "libpam-systemd", "polkitd"),
    *("podman", "crun", "netavark", "aardvark-dns", "slirp4netns", "passt", "uidmap", "catatonit"),
    *("nftables", "wireguard-tools", "wireguard-go", "iproute2", "iputils-ping", "curl", "rsync"),
    "git",
    *("python3", "python3-venv", "busybox-static", "procps", "jq", "ca-certificates", "util-linux"),
    # Not their services: NixOS's are on HOST, and LAPTOP has an sshd by a unit of its own.
    *("prometheus", "restic", "openssh-client", "openssh-server"),
)
DEBIANS_OWN: Final = tuple(
    f"etc/systemd/system/multi-user.target.wants/{name}.service" for name in ("prometheus", "ssh")
)
LEFT_OUT: Final = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*")
VENV: Final = "/opt/flashpods/venv"  # in the root, with what the lock file names
# As the NixOS module will have it; the numbers are what the rules of the tests name.
USER, UID, SUBIDS_START, SUBIDS_COUNT = "flashpods", 900, 2_000_000_000, 65536


def ensure(machine: Machine) -> Path:
    """Have the root, and return its directory; one builder at a time.

    Raises:
        StackError: a tool failed; the message has the end of what it said.
    """
    lab = machine.dev / "lab"
    lab.mkdir(parents=True, exist_ok=True)
    lock_file = machine.checkout / "python" / "requirements.lock"
    debian = _hash(RECIPE, SUITE, *PACKAGES, *LEFT_OUT)
    key = _hash(debian, lock_file.read_text())
    with (lab / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        root = lab / f"base-{key}"
        if root.exists():
            return root
        steps = Steps()
        archive = _archive(machine.dev / "cache", debian, steps)
        for old in lab.glob("base-*"):
            shutil.rmtree(old)
        new = root.with_suffix(".new")
        new.mkdir()
        chroot.run(
            ["tar", "--extract", f"--file={archive}", f"--directory={new}", "--numeric-owner"]
        )
        furnish(new)
        install(new, lock_file)
        new.rename(root)
        steps.done("root of the lab's machines")
        return root


def _archive(cache: Path, key: str, steps: Steps) -> Path:
    archive = cache / f"lab-{key}.tar"
    if archive.exists():
        return archive
    say(f"building Debian {SUITE} with systemd and Podman once (in {cache})")
    cache.mkdir(exist_ok=True)
    for old in cache.glob("lab-*.tar*"):
        old.unlink()
    new = archive.with_suffix(".tar.new")
    bootstrap(new, PACKAGES, LEFT_OUT)
    new.rename(archive)
    steps.done(f"Debian {SUITE} with systemd and Podman")
    return archive


def bootstrap(archive: Path, packages: Sequence[str], left_out: Sequence[str]) -> None:
    """Make a Debian root of the packages and what they depend on, less some paths.

    Raises:
        StackError: mmdebstrap failed; the message has the end of what it said.
    """
    entry = f"[signed-by={KEYS}] {MIRROR}"
    with tempfile.TemporaryDirectory(prefix="flashpods-lab-") as scratch:
        listed = Path(scratch, "sources.list")
        listed.write_text(f"deb {entry} {SUITE} main\n")
        command = ["mmdebstrap", "--variant=minbase", f"--include={','.join(packages)}"]
        command += ["--format=tar", "--skip=output/dev", "--aptopt=APT::Install-Recommends false"]
        command += ["--dpkgopt=force-unsafe-io"]  # a tree to be packed: no fsync for each file
        command += [f"--dpkgopt=path-exclude={pattern}" for pattern in left_out]
        chroot.run([*command, SUITE, str(archive), str(listed)])


def furnish(root: Path) -> None:
    """Add the engine's user, as a host has it before it is deployed to."""
    home = "/var/lib/flashpods"
    add = ["useradd", "--system", "--uid", str(UID), "--user-group", "--create-home"]
    chroot.run(
        ["chroot", str(root), *add, "--home-dir", home, "--shell", "/usr/sbin/nologin", USER]
    )
    for name in ("subuid", "subgid"):
        (root / "etc" / name).write_text(f"{USER}:{SUBIDS_START}:{SUBIDS_COUNT}\n")
    for name in DEBIANS_OWN:
        (root / name).unlink()
    linger = root / "var/lib/systemd/linger"
    linger.mkdir(parents=True, exist_ok=True)
    (linger / USER).touch()
    (root / "dev").mkdir(exist_ok=True)


def install(root: Path, lock_file: Path) -> None:
    """Install what our programs need, at the lock file's versions; they themselves come later."""
    copy = root / "opt" / "requirements.lock"
    copy.parent.mkdir(exist_ok=True)
    copy.write_text(lock_file.read_text())
    chroot.run_in(root, ["python3", "-m", "venv", VENV])
    install = ["-m", "pip", "install", "--disable-pip-version-check", "--no-cache-dir", "--quiet"]
    install += ["--require-hashes", "--no-deps", "--requirement", "/opt/requirements.lock"]
    chroot.run_in(root, [f"{VENV}/bin/python", *install])


def _hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
