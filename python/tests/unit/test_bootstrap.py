"""What the settings reach: limits that are configured are the ones that hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from flashpods import bootstrap
from flashpods.bootstrap import Adapters
from flashpods.config import Settings
from flashpods.ports import TreeTooLarge

UPLOAD = "upload_abcdefghijkl"


def settings(root: Path, max_files: int) -> Settings:
    names = ("transfers", "finalized", "work", "artifacts", "capture", "logs")
    places = {name: root / name for name in names}
    for place in places.values():
        place.mkdir()
    return Settings(
        paths={**places, "database": root / "flashpods.db"},
        uploads={"max_files": max_files},
        podman={"socket": root / "nobody.sock"},
    )


@pytest.mark.parametrize(("files", "fits"), [(4, True), (5, False)])
async def test_the_limit_of_files_reaches_uploads_and_trees(
    tmp_path: Path, files: int, fits: bool
) -> None:
    configured = settings(tmp_path, 5)  # a directory counts as well
    adapters = await Adapters.open(configured)
    try:
        uploads = bootstrap._uploads(configured, adapters)
        assert uploads.max_files == 5
        tree = configured.paths.transfers / UPLOAD / "sub"
        tree.mkdir(parents=True)
        for number in range(files):
            (tree / str(number)).write_text("x")
        if fits:
            size = await adapters.workspaces.finalize(UPLOAD, max_bytes=100)
            assert (size.file_count, size.size_bytes) == (files, files)
        else:
            with pytest.raises(TreeTooLarge):
                await adapters.workspaces.finalize(UPLOAD, max_bytes=100)
            assert tree.is_dir()
    finally:
        await adapters.close()
