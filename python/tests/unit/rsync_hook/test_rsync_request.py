"""The rsync hook's checks of a request: its path and its options."""

from __future__ import annotations

import pytest
from rsync_hook_rig import ID, A, request

from flashpods.rsync_request import Refused, check_options, cut, requested_upload, upload_of


@pytest.mark.parametrize("path", [f"{ID}/", f"{ID}/sub/dir/", f"{ID}/f"])
def test_paths_within_an_upload(path: str) -> None:
    assert upload_of(path) == ID


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        ".bases/p/",
        "upload_short/",
        f"upload_{'a' * 65}/",
        ID,
        f"{ID}/..",
        f"{ID}/../upload_mnopqrstuvwx/",
        f"../{ID}/",
        f"/{ID}/",
        f"x/{ID}/",
        f"{ID}é/",
        f"{ID}\n/",
    ],
)
def test_other_paths_are_refused(path: str) -> None:
    with pytest.raises(Refused):
        upload_of(path)


@pytest.mark.parametrize(
    "options",
    [
        ["--server", A],
        ["--server", "-s"],
        ["--server", A, "--delete-during", "--numeric-ids", "--partial", "--stats"],
        ["--server", A, "--copy-dest", "/.bases/proj.1_x-y"],
        ["--server", A, "--copy-dest=/.bases/p/", "--log-format=%i", "-B700", "--timeout=60"],
        [
            "--server",
            "-logDtpre.LsfxC",
            "--delay-updates",
            "--max-size=5M",
            "--bwlimit=100",
            "-@-1",
        ],
    ],
)
def test_options_that_stay_within_are_fine(options: list[str]) -> None:
    check_options(options)


@pytest.mark.parametrize(
    "options",
    [
        ["--link-dest", "/.bases/p"],
        ["--link-dest=/.bases/p"],
        ["--compare-dest=/.bases/p"],
        ["--copy-dest=/upload_mnopqrstuvwx"],
        ["--copy-dest", "/.bases/../upload_mnopqrstuvwx"],
        ["--copy-dest", "/.bases/p/../../x"],
        ["--copy-dest", "/.bases/.hidden"],
        ["--copy-dest", "/.bases/" + "p" * 65],
        ["--copy-dest", "../.bases/p"],
        ["--copy-dest"],
        ["--temp-dir=/x"],
        ["--temp-dir", "/x"],
        ["-T/x"],
        ["-vT", "/x"],
        ["-vTe.x"],
        ["--backup-dir=x"],
        ["--partial-dir=x"],
        ["--files-from=/x"],
        ["--log-file=/x"],
        ["--write-devices"],
        ["--super"],
        ["--fake-super"],
        ["--sender"],
        ["--daemon"],
        ["--config=/x"],
        ["--keep-dirlinks"],
        ["-K"],
        ["-vk"],
        ["-L"],
        ["-M--log-file=/x"],
        ["-f", "merge /x"],
        ["-e/bin/sh"],
        ["-B/x"],
        ["--suffix=/../x"],
        ["/x"],
        ["-"],
        [""],
        ["--unheard-of"],
    ],
)
def test_options_that_reach_out_are_refused(options: list[str]) -> None:
    with pytest.raises(Refused, match=r"not allowed|not expected"):
        check_options(["--server", A, *options])


def test_a_request_names_one_upload() -> None:
    path = f"/{ID}/"
    assert requested_upload(request("--server", A, ".", path)) == ID
    assert requested_upload(request("--server", A, ".", f"{ID}/")) == ID  # without chroot
    for bad in (
        request("--server", A, ".", path, path, RSYNC_REQUEST=f"uploads{path} uploads{path}"),
        request("--server", A, "."),
        request("--server", A, path),
        request("--server", A, ".", path, RSYNC_REQUEST="uploads/upload_mnopqrstuvwx/"),
        request("--server", A, ".", path, RSYNC_REQUEST=f"uploads/x/..{path}"),
        request("--server", A, ".", path, RSYNC_REQUEST=f"uploads//{path}"),
        request("--server", A, ".", path, RSYNC_REQUEST=f"other{path}"),
        request("--server", A, ".", path, "--temp-dir=/x"),
        {},
    ):
        with pytest.raises(Refused):
            requested_upload(bad)


def test_a_refused_value_is_cut_and_harmless_on_a_terminal() -> None:
    assert cut("\x1b[31m\n€") == "?[31m?\\u20ac"
    assert len(cut("x" * 1000)) == 80
