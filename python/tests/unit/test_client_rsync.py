"""The command line for rsync(1) and what its end means."""

from pathlib import Path

import pytest

from flashpods.client.errors import UploadError
from flashpods.client.push import check_source
from flashpods.client.rsync import (
    Ending,
    Rsync,
    RsyncResult,
    build_command,
    judge,
    parse_progress,
    probe_rsync,
)


def test_the_command_names_no_owner_and_no_shell() -> None:
    command = build_command(
        "/usr/bin/rsync",
        Path("/a:b/-x"),
        "rsync://h/uploads/upload_1/",
        exclude=["--daemon", "*.log"],
        base="/.bases/p",
    )
    assert command[-3:] == ["--", "/a:b/-x/", "rsync://h/uploads/upload_1/"]
    assert "--exclude=--daemon" in command
    assert "--copy-dest=/.bases/p" in command
    assert not {"-a", "-o", "-g", "-D", "--delete"} & set(command)


def test_the_root_directory_has_one_slash() -> None:
    assert build_command("r", Path("/"), "u", exclude=[], base=None)[-2] == "/"


NO_SPACE = 'rsync: [receiver] write failed on "/u/x" (in uploads): No space left on device (28)'


@pytest.mark.parametrize(
    ("code", "error", "ending"),
    [
        (0, "", Ending.DONE),
        (24, "file has vanished", Ending.DONE),
        (10, "", Ending.NETWORK),
        (12, "", Ending.NETWORK),
        (30, "", Ending.NETWORK),
        (35, "", Ending.NETWORK),
        (12, NO_SPACE, Ending.DISK_FULL),
        (11, NO_SPACE, Ending.DISK_FULL),
        (5, "@ERROR: max connections (8) reached -- try again later", Ending.BUSY),
        (5, "rsync: did not see server greeting", Ending.NETWORK),
        (5, "rsync: didn't get server startup line", Ending.NETWORK),
        (5, "@ERROR: Unknown module 'uploads'", Ending.FAILED),
        (23, "rsync: [sender] send_files failed", Ending.FAILED),
        (1, "", Ending.FAILED),
        (-15, "", Ending.FAILED),
    ],
)
def test_judge(code: int, error: str, ending: Ending) -> None:
    result = RsyncResult(code=code, disk_full=error == NO_SPACE)
    result.errors.append(error)
    assert judge(result) is ending


def test_the_reason_is_the_first_complaint() -> None:
    result = RsyncResult(code=23)
    result.errors += ["note", "rsync: [sender] a", "rsync: [sender] b", "rsync error: some files"]
    assert result.reason == "[sender] a"
    assert RsyncResult(code=7).reason == "rsync ended with code 7"


@pytest.mark.parametrize(
    ("line", "ending"),
    [
        ("upload_abcdefghijkl is finalized; push under a new id", Ending.FAILED),
        ("another transfer writes to upload_abcdefghijkl; wait for it to end", Ending.BUSY),
        ("the host can't record the transfer now; try again", Ending.BUSY),
    ],
)
@pytest.mark.parametrize("prefix", ["", "@ERROR: "])  # rsync 3.5, and before
@pytest.mark.parametrize("code", [4, 5, 10, 12])
def test_what_the_host_refuses_is_said(line: str, ending: Ending, prefix: str, code: int) -> None:
    result = RsyncResult(code=code)
    result.errors += [
        f"{prefix}pre-xfer exec returned failure (256):",
        line,
        "rsync error: requested action not supported (code 4) at clientserver.c(1267)",
        "rsync: [sender] read error: Connection reset by peer (104)",
    ]
    assert result.reason == line
    assert judge(result) is ending


@pytest.mark.parametrize(
    ("line", "bytes_", "fraction"),
    [
        (b"   60000000  99%  595.72MB/s    0:00:00 (xfr#300, to-chk=0/302)", 60000000, 1.0),
        (b"     200002   0%  190.07MB/s    0:00:00 (xfr#1, to-chk=151/302)", 200002, 0.5),
        (b"         50  25%    1.00kB/s    0:00:09", 50, 0.25),
    ],
)
def test_parse_progress(line: bytes, bytes_: int, fraction: float) -> None:
    progress = parse_progress(line)
    assert progress is not None
    assert (progress.bytes, progress.fraction) == (bytes_, fraction)


@pytest.mark.parametrize(
    "line", [b"", b"sent 5 bytes  received 5 bytes", b"total size is 3", b"x%"]
)
def test_other_lines_are_no_progress(line: bytes) -> None:
    assert parse_progress(line) is None


async def test_a_missing_rsync_names_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UploadError) as caught:
        await probe_rsync()
    assert caught.value.code == "rsync_missing"
    assert "apt install rsync" in caught.value.message


async def test_an_rsync_that_can_not_be_started_names_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "rsync").write_bytes(b"\x7fELF of another machine")
    (tmp_path / "rsync").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UploadError) as caught:
        await probe_rsync()
    assert caught.value.code == "rsync_missing"
    assert "Exec format error; install it" in caught.value.message


async def test_openrsync_is_not_rsync(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "rsync"
    fake.write_text("#!/bin/sh\necho 'openrsync: protocol version 29'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(UploadError) as caught:
        await probe_rsync()
    assert caught.value.code == "rsync_too_old"


def test_what_is_no_directory_can_not_be_pushed(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    for path in (tmp_path / "f", tmp_path / "none"):
        with pytest.raises(UploadError) as caught:
            check_source(path)
        assert caught.value.code == "invalid_local_path"


def test_a_base_is_compared_by_the_nanosecond_where_rsync_can() -> None:
    def command(version: tuple[int, ...], base: str | None) -> list[str]:
        program = Rsync("rsync", version)
        return build_command(program, Path("/s"), "rsync://h/u/", exclude=(), base=base)

    assert "--modify-window=-1" in command((3, 2, 7), "/.bases/p")
    assert "--modify-window=-1" not in command((3, 1, 2), "/.bases/p")
    assert "--modify-window=-1" not in command((3, 2, 7), None)
