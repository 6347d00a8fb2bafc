"""The guest's disk, made once, and the payload of a run: a copy of the checkout.

The disk is a Debian root in which ``./dev bootstrap`` itself has run, natively in a chroot, so
that the guest needs no network and installs nothing under emulation.
"""

from __future__ import annotations

import hashlib
import lzma
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from flashpods_dev import chroot
from flashpods_dev.machine import StackError
from flashpods_dev.report import Steps
from flashpods_dev.vm import archives, guest

RECIPE = "1"  # raise it when the way of building changes
SUITE = "trixie"
MIRROR = "http://deb.debian.org/debian"
KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
PACKAGES = (
    # a machine that boots
    *("systemd", "systemd-sysv", "udev", "dbus", "kmod", "linux-image-cloud-amd64"),
    *("busybox-static", "procps"),
    # what ./dev would install, except what only a host with a network uses
    *("podman", "crun", "conmon", "slirp4netns", "uidmap", "catatonit", "rsync", "mmdebstrap"),
    *("iproute2", "util-linux", "mount", "git", "sqlite3", "nginx-light", "shellcheck"),
    *("ca-certificates", "python3", "python3-venv", "nftables", "passt"),
    "wireguard-tools",
)
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
BOOT_MODULES = ("virtio_blk",)  # the others of the disk's path are built into the kernel
DISK_BYTES = 6 * 1024**3
COPIED = (
    *("dev", "python/pyproject.toml", "python/requirements.lock"),
    *("python/src", "python/tests", "pkgs/agent-image", "modules/network"),
)


@dataclass(frozen=True, slots=True)
class Image:
    """What QEMU boots, in one directory; ``tree`` is the root again, to prepare payloads in."""

    directory: Path

    @property
    def kernel(self) -> Path:
        """The kernel."""
        return self.directory / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """The initial RAM disk."""
        return self.directory / "initrd"

    @property
    def disk(self) -> Path:
        """A sparse raw disk with one ext4 file system, never written after it was made."""
        return self.directory / "disk.raw"

    @property
    def tree(self) -> Path:
        """The root as a directory."""
        return self.directory / "tree"


def ensure(checkout: Path) -> Image:
    """Have the image that fits the lock file and ``dev``; the caller keeps others out.

    Raises:
        StackError: a tool failed; the message has the end of what it said.
    """
    cache = checkout / ".dev" / "vm"
    cache.mkdir(parents=True, exist_ok=True)
    base_key, key = _keys(checkout)
    image = Image(cache / f"image-{key}")
    if image.directory.exists():
        return image
    steps = Steps()
    base = _base(cache, base_key, steps)
    for old in cache.glob("image-*"):
        shutil.rmtree(old)
    new = Image(cache / f"image-{key}.new")
    new.tree.mkdir(parents=True)
    _build(new, base, checkout, steps)
    new.directory.rename(image.directory)
    return image


def _keys(checkout: Path) -> tuple[str, str]:
    """Name what the Debian root, and the disk made of it, depend on."""
    base = _hash(RECIPE, SUITE, *PACKAGES, *LEFT_OUT)
    files = (f"{path} {text}" for path, text in sorted(guest.files().items()))
    bootstrap = ((checkout / name).read_text() for name in ("dev", "python/requirements.lock"))
    return base, _hash(base, *files, *bootstrap)


def payload(image: Image, checkout: Path, command: str, target: Path) -> None:
    """Write the tar archive that the guest unpacks over its checkout, with the bytecode in it.

    Raises:
        StackError: a tool failed.
    """
    inside = image.tree / guest.CHECKOUT.lstrip("/")
    _copy(checkout, inside)
    if image.directory.name != f"image-{_keys(inside)[1]}":
        raise StackError("dev or requirements.lock has just changed: run ./dev vm again")
    # Compiled here, with the guest's interpreter, because there it would take half a minute.
    python = f"{guest.CHECKOUT}/.dev/venv/bin/python"
    compiled = (f"{guest.CHECKOUT}/python/{name}" for name in ("src", "tests"))
    chroot.run_in(image.tree, [python, "-m", "compileall", "-q", *compiled])
    (inside / guest.COMMAND).write_text(command)
    cache = inside / ".dev" / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir()
    # Under the name that ./dev gives to the root of its base image, so that it imports ours.
    code = "from flashpods_dev import image; print(image._key())"
    key = chroot.run_in(image.tree, [python, "-c", code]).strip()
    archives.busybox_root(image.tree / "bin/busybox", cache / f"root-{key}.tar")
    taken = [*COPIED, guest.COMMAND, ".dev/cache"]
    chroot.run(["tar", "--create", f"--file={target}", f"--directory={inside}", *taken])


def _base(cache: Path, key: str, steps: Steps) -> Path:
    """Make the Debian root as an archive, unless it is cached."""
    base = cache / f"base-{key}.tar"
    if base.exists():
        return base
    for old in cache.glob("base-*.tar*"):
        old.unlink()
    new = base.with_suffix(".tar.new")
    entry = f"[signed-by={KEYS}] {MIRROR}"
    sources = "".join(f"deb {entry} {suite} main\n" for suite in (SUITE, f"{SUITE}-updates"))
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="flashpods-vm-") as scratch:
        listed = Path(scratch, "sources.list")
        listed.write_text(sources)
        command = ["mmdebstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
        command += ["--format=tar", "--skip=output/dev", "--aptopt=APT::Install-Recommends false"]
        command += [f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT]
        chroot.run([*command, SUITE, str(new), str(listed)])
    new.rename(base)
    steps.done(f"Debian {SUITE} with systemd, a kernel and Podman")
    return base


def _build(image: Image, base: Path, checkout: Path, steps: Steps) -> None:
    tree = image.tree
    chroot.run(["tar", "--extract", f"--file={base}", f"--directory={tree}", "--numeric-owner"])
    (tree / "dev").mkdir(exist_ok=True)
    guest.furnish(tree)
    inside = tree / guest.CHECKOUT.lstrip("/")
    inside.mkdir(parents=True)
    _copy(checkout, inside)
    steps.done("root tree")
    chroot.run_in(tree, [f"{guest.CHECKOUT}/dev", "bootstrap"])
    steps.done("./dev bootstrap in it")
    (modules,) = (tree / "usr/lib/modules").iterdir()
    _unpack_modules(modules)
    chroot.run_in(tree, ["depmod", modules.name])
    needed = [next(modules.rglob(f"{name}.ko")) for name in BOOT_MODULES]
    initrd = archives.initrd(tree / "bin/busybox", needed, guest.INIT)
    image.initrd.write_bytes(initrd)
    shutil.copy(tree / f"boot/vmlinuz-{modules.name}", image.kernel)
    with image.disk.open("wb") as disk:
        disk.truncate(DISK_BYTES)
    lazy = "lazy_itable_init=1,lazy_journal_init=1"
    chroot.run(["mkfs.ext4", "-q", "-F", "-E", lazy, "-d", str(tree), str(image.disk)])
    steps.done("disk, kernel, initial RAM disk")


def _unpack_modules(modules: Path) -> None:
    """Unpack the kernel's modules: to do so at boot is slow under emulation."""
    for packed in [*modules.rglob("*.ko.xz")]:
        packed.with_suffix("").write_bytes(lzma.decompress(packed.read_bytes()))
        packed.unlink()


def _copy(checkout: Path, target: Path) -> None:
    """Copy what runs in the guest; the bytecode that is there already stays."""
    sources = [f"./{name}" for name in COPIED if (checkout / name).exists()]
    chroot.run(
        ["rsync", "-a", "--relative", "--delete", "--exclude=__pycache__", *sources, f"{target}/"],
        cwd=checkout,
    )


def _hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
