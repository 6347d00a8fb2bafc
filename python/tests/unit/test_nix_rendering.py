"""From NixOS's paths to Debian's, and how stale files are found; all of it without Nix."""

from __future__ import annotations

from pathlib import Path

import pytest

from flashpods_dev import rsyncd
from flashpods_dev.nix import manifest, mapping
from flashpods_dev.nix.mapping import Places, UnmappedPath

FILES = {
    "/nix/store/flashpods-settings.json": "{}",
    "/nix/store/fetch-images": "#!/nix/store/bash-5.2/bin/bash\n",
    "/nix/store/config-wg0/wg0.conf": "[Interface]\n",
    "/nix/store/X-Restart-Triggers-api": "/nix/store/flashpods-settings.json",
    "/nix/store/prometheus.yml": "{}\n",
}
ETC = {"flashpods/settings.json": "{}"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("/nix/store/podman-5.8.4/bin/podman info", "/usr/bin/podman info"),
        ("/nix/store/nftables-stub/bin/nft -f x", "/usr/sbin/nft -f x"),
        ("/nix/store/flashpods-0.1.0/bin/flashpods-api", "/opt/flashpods/bin/flashpods-api"),
        (
            "/nix/store/flashpods-next-0.1.0/bin/flashpods-api",
            "/opt/flashpods-next/bin/flashpods-api",
        ),
        ("/nix/store/spire-stub/bin/spire-agent", "/opt/spire/bin/spire-agent"),
        ("--config /nix/store/flashpods-settings.json", "--config /etc/flashpods/settings.json"),
        ("/nix/store/fetch-images", "/usr/local/libexec/flashpods/fetch-images"),
        ("/nix/store/config-wg0/wg0.conf", "/etc/wireguard/wg0.conf"),
        ("/nix/store/prometheus.yml", "/etc/prometheus/prometheus.yml"),
    ],
)
def test_a_store_path_gets_a_place(given: str, expected: str) -> None:
    assert Places(FILES, ETC).text(given) == expected


@pytest.mark.parametrize("path", ["/nix/store/abc-lib/lib/x.so", "/nix/store/something"])
def test_a_store_path_without_a_place_is_an_error(path: str) -> None:
    with pytest.raises(UnmappedPath, match=path):
        Places(FILES, ETC).text(f"ExecStart={path}")


def test_scripts_are_those_that_a_text_named_and_etc_has_not() -> None:
    places = Places(FILES, ETC)
    places.text("/nix/store/flashpods-settings.json /nix/store/fetch-images")
    assert places.scripts() == {
        "/nix/store/fetch-images": "/usr/local/libexec/flashpods/fetch-images"
    }


def test_a_unit_gets_debians_path_and_loses_what_is_nixs() -> None:
    unit = (
        '[Service]\nEnvironment="LOCALE_ARCHIVE=/nix/store/glibc-locales/lib/a"\n'
        'Environment="PATH=/nix/store/a/bin"\nUser=flashpods\n'
    )
    said = Places(FILES, ETC).unit(unit)
    assert said == f'[Service]\nEnvironment="PATH={mapping.PATH}"\nUser=flashpods\n'


def test_a_unit_keeps_what_a_switch_does_with_it_and_names_what_it_is_restarted_for() -> None:
    unit = (
        "[Unit]\nX-Restart-Triggers=/nix/store/X-Restart-Triggers-api\n"
        "[Service]\nX-StopIfChanged=false\n"
    )
    said = Places(FILES, ETC).unit(unit)
    assert said == (
        "[Unit]\nX-Restart-Triggers=/etc/flashpods/settings.json\n"
        "[Service]\nX-StopIfChanged=false\n"
    )


def _checkout(top: Path) -> Path:
    for name in ("modules/api.nix", "lab/host.nix", "docs/options.md", "lab/rendered/host/etc/a"):
        file = top / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    manifest.write(top)
    return top


def test_what_was_just_rendered_is_fresh(tmp_path: Path) -> None:
    assert list(manifest.faults(_checkout(tmp_path))) == []


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        ("modules/api.nix", "changed", "modules/api.nix has changed"),
        ("modules/new.nix", "new", "modules/new.nix is new"),
        ("lab/host.nix", None, "lab/host.nix is gone"),
        ("lab/rendered/host/etc/a", "by hand", "host/etc/a has changed"),
        ("docs/options.md", "by hand", "docs/options.md has changed"),
    ],
)
def test_a_change_since_is_named(tmp_path: Path, path: str, text: str | None, said: str) -> None:
    top = _checkout(tmp_path)
    if text is None:
        (top / path).unlink()
    else:
        (top / path).write_text(text)
    (fault,) = manifest.faults(top)
    assert fault.startswith(said)
    assert fault.endswith("./dev nix render")


def test_a_manifest_that_is_missing_is_a_fault(tmp_path: Path) -> None:
    (fault,) = manifest.faults(tmp_path)
    assert "manifest.json" in fault


def options_of(text: str) -> dict[str, str]:
    return dict(line.split(" = ", 1) for line in text.splitlines() if " = " in line)


def test_both_rsync_daemons_take_the_same() -> None:
    """What our clients send is tried against the stack's; the host's must not refuse it."""
    checkout = Path(__file__).parents[3]
    theirs = options_of(
        (checkout / manifest.RENDERED / "host/etc/flashpods-rsyncd.conf").read_text()
    )
    text = rsyncd.render(transfers=Path("/t"), port=1, pid_file=Path("/p"), hooks={})
    ours = options_of(text)
    places = {"port", "address", "path", "pid file", "lock file"}
    of_the_host = {"pre-xfer exec", "post-xfer exec", "incoming chmod"}
    assert theirs.keys() - ours.keys() == of_the_host
    assert {k: v for k, v in ours.items() if k not in places} == {
        k: v for k, v in theirs.items() if k not in places | of_the_host
    }


def test_both_rsync_daemons_have_the_same_capabilities() -> None:
    unit = (
        Path(__file__).parents[3]
        / manifest.RENDERED
        / ("host/etc/systemd/system/flashpods-rsyncd@.service")
    )
    key = "CapabilityBoundingSet="
    theirs = [line.removeprefix(key) for line in unit.read_text().splitlines() if key in line]
    assert sorted(theirs) == sorted(f"CAP_{name.upper()}" for name in rsyncd.CAPABILITIES)
