import os
import subprocess
from pathlib import Path

import pytest

from flashpods.adapters.files.disk import StatvfsGauge


def test_it_counts_as_df_does(tmp_path: Path) -> None:
    for _ in range(20):  # others write and delete between the two looks
        used = StatvfsGauge([tmp_path]).usage()[str(tmp_path)]
        told = subprocess.run(
            ["df", "--output=pcent", tmp_path], capture_output=True, text=True, check=True
        ).stdout.split()[-1]
        if used * 100 <= int(told.rstrip("%")) <= used * 100 + 1.01:  # df rounds up
            return
    pytest.fail(f"df says {told}, we say {used:.2%}")


def test_blocks_reserved_for_root_are_not_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: object) -> os.statvfs_result:
        return os.statvfs_result((4096, 4096, 100, 5, 0, 10, 10, 10, 0, 255))

    monkeypatch.setattr(os, "statvfs", full)
    assert StatvfsGauge([tmp_path]).usage() == {str(tmp_path): 1.0}


def test_a_tree_that_is_not_there_yet_counts_as_its_parent(tmp_path: Path) -> None:
    missing = tmp_path / "a" / "b"
    assert StatvfsGauge([missing]).usage()[str(missing)] == pytest.approx(
        StatvfsGauge([tmp_path]).usage()[str(tmp_path)], abs=0.01
    )
