"""The helper: its own tests in Go, its size, and that it needs nothing of an image."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from flashpods_dev import helper_build
from flashpods_dev.fake_identity import fake_identity
from flashpods_dev.helper_build import Programs
from flashpods_dev.identity import go

CHECKOUT = Path(__file__).resolve().parents[3]
MOST_BYTES = 15 * 1000**2


# The first one builds them; on a busy machine that takes longer than any test.
pytestmark = pytest.mark.timeout(helper_build.BUILD_SECONDS + 300)


@pytest.fixture(scope="module")
def programs() -> Programs:
    return helper_build.ensure(CHECKOUT)


@pytest.mark.timeout(900)  # the first time it compiles its modules
def test_its_tests_in_go_pass() -> None:
    toolchain = go.find(CHECKOUT / ".dev")
    toolchain.run("test", "./...", cwd=CHECKOUT / helper_build.PLACE, seconds=900)


@pytest.mark.timeout(300)
def test_the_nix_package_names_the_modules_hash(tmp_path: Path) -> None:
    """nixpkgs' vendorHash is the hash of what ``go mod vendor`` leaves, in Nix's own archive."""
    source = tmp_path / "source"
    shutil.copytree(CHECKOUT / helper_build.PLACE, source)
    go.find(CHECKOUT / ".dev").run("mod", "vendor", cwd=source, seconds=240)
    done = subprocess.run(
        [*("nix", "--extra-experimental-features", "nix-command"), "hash", "path", "vendor"],
        cwd=source,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert f'vendorHash = "{done.stdout.strip()}";' in (source / "package.nix").read_text()


def test_it_is_small_and_static(programs: Programs) -> None:
    assert programs.helper.stat().st_size < MOST_BYTES
    # A program that the dynamic loader starts names it (elf(5), PT_INTERP).
    assert b"/ld-linux" not in programs.helper.read_bytes()[:4096]


def test_it_works_alone_in_an_empty_root_as_any_uid(programs: Programs) -> None:
    """No shell, no HOME, no /tmp, no /etc/passwd, no certificates, no /proc."""
    with fake_identity(programs, {"GITHUB_TOKEN": "token"}) as root:
        (root / "flashpods-token").write_bytes(programs.helper.read_bytes())
        (root / "flashpods-token").chmod(0o755)
        done = subprocess.run(
            ["chroot", "--userspec=4711:4712", root, "/flashpods-token", "env"],
            env={
                "PATH": os.environ["PATH"],
                "SPIFFE_ENDPOINT_SOCKET": "unix:///agent.sock",
                "FLASHPODS_TOKEN_SOCKET": "/token.sock",
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "export GITHUB_TOKEN='token'\n", "")
