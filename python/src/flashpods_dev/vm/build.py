"""The guest's disk, made once, and the payload of a run: what is deployed, and the checkout.

The disk is a Debian root like the lab's, with a kernel and SPIRE. ``./dev bootstrap`` itself has
run in it, natively in a chroot, so that the guest needs no network and installs nothing under
emulation.
"""

from __future__ import annotations

import fcntl
import hashlib
import lzma
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flashpods_dev import chroot
from flashpods_dev.identity import build as spire_build
from flashpods_dev.lab import base
from flashpods_dev.machine import StackError
from flashpods_dev.report import Steps
from flashpods_dev.vm import archives, guest

RECIPE = "2"  # raise it when the way of building changes
PACKAGES = (
    *base.PACKAGES,
    # a machine that boots
    *("udev", "kmod", "linux-image-cloud-amd64"),
    # what ./dev would install, except what only a host with a network uses
    *("conmon", "mmdebstrap", "mount", "git", "sqlite3", "nginx-light", "shellcheck"),
)
LEFT_OUT = (*base.LEFT_OUT, "/usr/share/info/*")
BOOT_MODULES = ("virtio_blk",)  # the others of the disk's path are built into the kernel
SPIRE = "opt/spire/bin"  # as the lab's product layer has it; most of a payload, if it were in it
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
    """Have the image that fits the lock file and ``dev``; one builder at a time.

    Raises:
        StackError: a tool failed; the message has the end of what it said.
    """
    cache = checkout / ".dev" / "vm"
    cache.mkdir(parents=True, exist_ok=True)
    spire = spire_build.ensure(checkout / ".dev").server.parent
    base_key, key = _keys(checkout)
    image = Image(cache / f"image-{key}")
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if image.directory.exists():
            return image
        steps = Steps()
        archive = _archive(cache, base_key, steps)
        for old in cache.glob("image-*"):
            shutil.rmtree(old)
        new = Image(cache / f"image-{key}.new")
        new.tree.mkdir(parents=True)
        _build(new, archive, checkout, steps)
        _pack(new, spire, steps)
        new.directory.rename(image.directory)
    return image


def _keys(checkout: Path) -> tuple[str, str]:
    """Name what the Debian root, and the disk made of it, depend on."""
    debian = _hash(RECIPE, base.RECIPE, base.SUITE, *PACKAGES, *LEFT_OUT)
    files = (f"{path} {text}" for path, text in sorted(guest.files().items()))
    bootstrap = ((checkout / name).read_text() for name in ("dev", "python/requirements.lock"))
    parts = (guest.INIT, *guest.MASKED, spire_build.VERSION, *files, *bootstrap)
    return debian, _hash(debian, *parts)


def payload(image: Image, checkout: Path, layers: Sequence[Path], target: Path) -> None:
    """Write the archive that the guest unpacks over its root: layers, and the checkout.

    Args:
        image: what the guest boots.
        checkout: what runs in the guest of it goes there, with the bytecode in it.
        layers: directories of files of the root, the topmost first.
        target: the archive.

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
    cache = inside / ".dev" / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir()
    # Under the name that ./dev gives to the root of its base image, so that it imports ours.
    code = "from flashpods_dev import image; print(image._key())"
    key = chroot.run_in(image.tree, [python, "-c", code]).strip()
    archives.busybox_root(image.tree / "bin/busybox", cache / f"root-{key}.tar")
    words = ["--owner=0", "--group=0"]
    for layer in reversed(layers):  # the later wins
        words += [f"--directory={layer}", f"--exclude=./{SPIRE}", "."]
    taken = [f"{guest.CHECKOUT.lstrip('/')}/{name}" for name in (*COPIED, ".dev/cache")]
    words += [f"--directory={image.tree}", *taken]
    chroot.run(["tar", "--create", f"--file={target}", *words])


def _archive(cache: Path, key: str, steps: Steps) -> Path:
    """Make the Debian root as an archive, unless it is cached."""
    archive = cache / f"base-{key}.tar"
    if archive.exists():
        return archive
    for old in cache.glob("base-*.tar*"):
        old.unlink()
    new = archive.with_suffix(".tar.new")
    base.bootstrap(new, PACKAGES, LEFT_OUT)
    new.rename(archive)
    steps.done(f"Debian {base.SUITE} with systemd, a kernel and Podman")
    return archive


def _build(image: Image, archive: Path, checkout: Path, steps: Steps) -> None:
    tree = image.tree
    chroot.run(["tar", "--extract", f"--file={archive}", f"--directory={tree}", "--numeric-owner"])
    base.furnish(tree)
    base.install(tree, checkout / "python" / "requirements.lock")
    guest.furnish(tree)
    inside = tree / guest.CHECKOUT.lstrip("/")
    inside.mkdir(parents=True)
    _copy(checkout, inside)
    steps.done("root tree")
    chroot.run_in(tree, [f"{guest.CHECKOUT}/dev", "bootstrap"])
    steps.done("./dev bootstrap in it")


def _pack(image: Image, spire: Path, steps: Steps) -> None:
    """Make of the tree what QEMU boots."""
    tree = image.tree
    shutil.copytree(spire, tree / SPIRE)
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
