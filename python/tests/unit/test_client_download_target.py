"""An artifact comes to nowhere but where the caller said."""

from pathlib import Path

import pytest
from download_rig import DATA, Host, fetch, names

from flashpods.client.errors import DownloadError


async def test_to_a_file_and_to_a_new_directory(tmp_path: Path) -> None:
    assert await fetch(Host(), tmp_path / "b") == tmp_path / "b"
    assert await fetch(Host(), f"{tmp_path}/new/er/") == tmp_path / "new/er/a.bin"
    assert (tmp_path / "new/er/a.bin").read_bytes() == DATA


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "/etc/passwd", "a/b", "a\\b", "a\0b", " a", "a ", "a\n", "x" * 256],
)
async def test_hostile_names_are_refused_before_anything(tmp_path: Path, name: str) -> None:
    host = Host(name=name)
    with pytest.raises(DownloadError) as caught:
        await fetch(host, tmp_path, name)
    assert caught.value.code == "invalid_artifact_name"
    assert host.paths == []
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "name", [".hidden", "a..b", "%2e%2e%2fx", "ü 😀", "-rf", "a?b#c", "x" * 251]
)
async def test_odd_names_are_one_file(tmp_path: Path, name: str) -> None:
    host = Host(name=name)
    path = await fetch(host, tmp_path, name)
    assert names(tmp_path) == [name]
    assert path.parent == tmp_path
    assert host.paths[1].startswith(b"/jobs/j/artifacts/")
    assert host.paths[1].count(b"/") == 4
    assert b"?" not in host.paths[1]


async def test_a_symlink_at_the_target_is_replaced_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("keep")
    inside = tmp_path / "in"
    inside.mkdir()
    (inside / "a.bin").symlink_to(outside)
    await fetch(Host(), inside)
    assert outside.read_text() == "keep"
    assert not (inside / "a.bin").is_symlink()
    assert (inside / "a.bin").read_bytes() == DATA


async def test_a_directory_at_the_target_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a.bin").mkdir()
    with pytest.raises(DownloadError) as caught:
        await fetch(Host(), tmp_path)
    assert caught.value.code == "invalid_target"
    assert names(tmp_path) == ["a.bin"]


async def test_a_place_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DownloadError) as caught:
        await fetch(Host(), tmp_path / "no" / "file")
    assert caught.value.code == "invalid_target"


@pytest.mark.parametrize("dest", ["link", "file-link"])
async def test_a_symlink_where_the_file_is_to_go_leads_nowhere(tmp_path: Path, dest: str) -> None:
    """Also one to a directory, which would otherwise take the file in."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "inner").write_text("untouched")
    (tmp_path / "link").symlink_to(victim)
    (tmp_path / "file-link").symlink_to(victim / "inner")
    if dest == "link":
        with pytest.raises(DownloadError) as caught:
            await fetch(Host(), tmp_path / dest)
        assert caught.value.code == "invalid_target"
        assert "slash" in caught.value.message
        assert await fetch(Host(), f"{tmp_path}/link/") == tmp_path / "link" / "a.bin"  # as said
        (victim / "a.bin").unlink()
    else:
        await fetch(Host(), tmp_path / dest)
        assert not (tmp_path / dest).is_symlink()
    assert [path.name for path in victim.iterdir()] == ["inner"]
    assert (victim / "inner").read_text() == "untouched"


@pytest.mark.parametrize("dest", ["f", "sub", "sub/f", "sub/", "new/deep/", "", "{}/sub/f", "{}"])
async def test_within_a_directory(tmp_path: Path, dest: str) -> None:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    path = await fetch(Host(), dest.format(root) or f"{root}/", within=root)
    assert path.read_bytes() == DATA
    assert path.resolve().is_relative_to(root.resolve())
    assert path.name == ("f" if dest.endswith("f") else "a.bin")


@pytest.mark.parametrize(
    "dest", ["out", "out/", "out/f", "sub/out/", "../f", "sub/../../f", "/tmp/f", "file/f", "no/f"]
)
async def test_nothing_leaves_the_directory(tmp_path: Path, dest: str) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "sub").mkdir(parents=True)
    outside.mkdir()
    (root / "out").symlink_to(outside)
    (root / "sub/out").symlink_to(outside)
    (root / "file").write_text("x")
    if dest == "out":  # the link itself is replaced
        assert (await fetch(Host(), dest, within=root)).read_bytes() == DATA
        assert not (root / "out").is_symlink()
    else:
        with pytest.raises(DownloadError) as caught:
            await fetch(Host(), dest, within=root)
        assert caught.value.code == "invalid_target"
    assert list(outside.iterdir()) == []
    assert not (tmp_path / "f").exists()
    assert not list(root.rglob("*.part"))
