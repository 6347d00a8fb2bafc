"""What the stack renders: settings, engine configuration, rsync daemon, sources, the lock check."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from flashpods.config import Settings
from flashpods_dev import check, image, rsyncd
from flashpods_dev.layout import Layout, free_port, merge, port_is_free
from flashpods_dev.stack import Info

LAYOUT = Layout(Path("/c/.dev/state/up-1"), Path("/media"))
PORTS = {"port": 1, "metrics_port": 2, "rsync_port": 3}


@pytest.mark.parametrize("enforced", [True, False])
def test_the_settings_are_the_products_and_allow_no_more_than_needed(enforced: bool) -> None:
    rendered = LAYOUT.render_settings(**PORTS, cgroup_parent="/x/ctrs", limits_enforced=enforced)
    settings = Settings(**rendered)
    assert settings.development.allow_unenforced_limits is not enforced
    assert str(settings.http.host) == "127.0.0.1"
    assert settings.uploads.rsync_url == "rsync://127.0.0.1:3/uploads"
    assert settings.podman.cgroup_parent == "/x/ctrs"
    trees = {settings.paths.transfers, settings.paths.finalized, settings.paths.work}
    assert {path.parent for path in trees} == {LAYOUT.trees}


def test_podmans_run_root_is_short_and_the_same_for_the_same_state() -> None:
    deep = Layout(Path("/home/someone/with/a/long/path/to/flashpods/.dev/state/x"), Path("/media"))
    assert len(f"{deep.run}/containers") <= 50
    assert deep.run == Layout(deep.root, Path("/media")).run != LAYOUT.run


def test_the_shared_images_are_read_only_to_a_stack() -> None:
    storage = LAYOUT.engine_config(Path("/c/.dev/images/engine"))["storage.conf"]
    assert 'additionalimagestores = ["/c/.dev/images/engine/store"]' in storage
    assert 'driver = "overlay"' in storage
    assert "additionalimagestores" not in LAYOUT.engine_config(None)["storage.conf"]


def test_a_socket_has_a_short_path_whatever_the_checkouts() -> None:
    assert LAYOUT.socket == Path("/c/.dev/state/up-1/engine/podman.sock")
    assert not LAYOUT.socket_is_hidden
    deep = Layout(Path("/c") / ("d" * 100), Path("/media"))
    assert deep.socket_is_hidden
    assert deep.socket == deep.run / "podman.sock"


def test_merge_goes_section_by_section() -> None:
    base = {"http": {"port": 1, "host": "h"}, "a": 1}
    assert merge(base, {"http": {"port": 2}, "b": {"c": 3}}) == {
        "http": {"port": 2, "host": "h"},
        "a": 1,
        "b": {"c": 3},
    }
    assert base["http"] == {"port": 1, "host": "h"}


def test_free_ports_differ_and_are_free() -> None:
    ports = {free_port() for _ in range(20)}
    assert len(ports) == 20
    assert all(20000 <= port < 32000 and port_is_free(port) for port in ports)


def test_the_line_of_up_has_the_contracts_keys() -> None:
    keys = ("api_url", "token_file", "rsync_url", "state_dir", "podman_socket", "database", "image")
    info = Info(**dict.fromkeys(keys, "x"))
    assert info.line() == "{" + ", ".join(f'"{key}": "x"' for key in keys) + "}"


def test_the_hook_is_one_quoted_command_with_the_settings_limits() -> None:
    settings = {"paths": {"database": "/s t/db"}, "uploads": {"max_bytes": 7}}
    line = rsyncd.hook("pre", settings)
    words = shlex.split(line)
    assert words[0] == "exec"
    assert words[2:6] == ["-P", "-m", "flashpods.rsync_hook", "pre"]
    assert words[words.index("--database") + 1] == "/s t/db"
    assert words[words.index("--max-bytes") + 1] == "7"


def test_the_daemon_is_confined() -> None:
    text = rsyncd.render(
        transfers=Path("/t"), port=3, pid_file=Path("/p"), hooks={"pre": "exec a", "post": "exec b"}
    )
    lines = text.splitlines()
    for line in (
        "address = 127.0.0.1",
        "use chroot = yes",
        "munge symlinks = yes",
        "write only = yes",
        "list = no",
        "uid = 2000065535",
        "gid = 2000065535",
        "pre-xfer exec = exec a",
        "post-xfer exec = exec b",
    ):
        assert line in lines
    refused = next(line for line in lines if line.startswith("refuse options = * ")).split()
    assert "!link-dest" not in refused
    assert refused[-2:] == ["devices", "specials"]


DEBIAN = """\
Types: deb
# a comment: with a colon
URIs: http://deb.debian.org/debian
Suites: bookworm bookworm-updates
Components: main
"""


def test_only_the_distributions_own_sources_are_taken() -> None:
    lists = {
        "debian.sources": f"{DEBIAN}\n{DEBIAN.replace('bookworm', 'sid')}",
        "disabled.sources": f"{DEBIAN}Enabled: no\n",
        "source-only.sources": DEBIAN.replace("deb\n", "deb-src\n", 1),
        "docker.list": "deb https://download.docker.com/linux/debian bookworm stable\n",
        "google.list": "deb https://packages.example/apt cloud-sdk-bookworm main\n",
        "sources.list": "# deb http://x bookworm main\ndeb http://x/debian bookworm main contrib\n",
    }
    assert [s.strip() for s in image.own_sources(lists, "bookworm")] == [
        DEBIAN.strip(),
        "deb http://x/debian bookworm main contrib",
    ]


def test_os_release_quotes_are_dropped() -> None:
    assert image.os_release('ID=debian\nPRETTY_NAME="Debian 12"\n\n') == {
        "ID": "debian",
        "PRETTY_NAME": "Debian 12",
    }


PROJECT = '[project]\ndependencies = ["Some.Thing>=2"]\noptional-dependencies.dev = ["tool"]\n'
LOCK = """\
# made by uv pip compile, see https://docs.astral.sh
some-thing==2.1 ; python_version >= "3.11" \\
    --hash=sha256:aa
    # via flashpods
tool==1.0 \\
    --hash=sha256:bb
"""


def test_a_good_lock_has_no_faults() -> None:
    assert check.lock_faults(LOCK, PROJECT) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("# made", "--index-url https://pypi.example\n# made", "names an index or a host"),
        ("tool==1.0", "tool @ https://x/tool.whl", "names an index or a host"),
        ("    --hash=sha256:bb\n", "", "tool has no hash"),
        ("some-thing==2.1", "some-thing==1.9", "Some.Thing>=2 is locked as 1.9"),
        ("tool==1.0", "toolbox==1.0", "tool is locked as None"),
    ],
)
def test_a_bad_lock_names_its_fault(old: str, new: str, fault: str) -> None:
    assert any(fault in found for found in check.lock_faults(LOCK.replace(old, new), PROJECT))
