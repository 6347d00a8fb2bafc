"""A finalized tree is final, a hostile tree is harmless, and no other place can be written."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Awaitable, Sequence
from pathlib import Path

import pytest
import support
from support import Connected, Rsync
from upload_rig import digest, finalized, small_tree, transfers

from flashpods.client.rsync import Ending, build_command, judge, run_rsync
from flashpods_dev.machine import RSYNC_UID, SUBIDS_START, UID


@pytest.fixture
def tree(reachable_path: Path) -> Path:
    return small_tree(reachable_path / "tree")


async def test_nobody_changes_a_finalized_tree(host: Connected, tree: Path) -> None:
    client = host.client
    upload_id = await support.pushed(host, tree)
    before = digest(finalized(host, upload_id))
    (tree / "a").write_text("AAAA")
    (tree / "new").write_text("new")
    url = f"{host.rsync_url}/{upload_id}/"
    for options in ([], ["--inplace"], ["--delete"], ["--ignore-times"]):
        done = await support.rsync(f"{tree}/", url, *options)
        assert done.code != 0
        assert f"{upload_id} is finalized; push under a new id" in done.stderr
    done = await support.rsync(f"{tree}/", f"{url}sub/")
    assert f"{upload_id} is finalized" in done.stderr
    assert digest(finalized(host, upload_id)) == before
    assert not transfers(host, upload_id).exists()

    row = await support.run(
        client,
        "cat a; ls; for f in a sub/c new; do echo X > $f && echo WROTE; done;"
        " rm -f a; mkdir d; chmod 777 a; mount -o remount,rw /work; cat a",
        files_id=upload_id,
    )
    lines = support.texts(await support.output(client, row["id"]))
    assert row["exit_code"] == 0
    assert "WROTE" not in lines
    assert sum("Read-only file system" in line for line in lines) == 6
    assert lines[0] == "aaaaa"  # without a newline, before the list
    assert lines[-1] == "aaaa"
    done = await support.rsync(f"{tree}/", url)
    assert f"{upload_id} is consumed; push under a new id" in done.stderr


async def test_a_process_that_was_in_the_tree_is_shut_out(host: Connected, tree: Path) -> None:
    """As the user of rsync, from within: the door that finalize closes is not the hook's alone."""
    upload_id = await support.push(host, tree)
    script = """
        cd sub && echo inside && read -r go
        echo X > c && echo write; echo X > new && echo create; rm -f c && echo remove
        mv c d && echo rename; chmod 777 . && echo open; cd -P ..; echo X > a && echo write above
        rm -rf sub && echo remove above; ln -s /etc link && echo link; mkdir dir && echo make
        echo over
    """
    process = await asyncio.create_subprocess_exec(
        *("setpriv", f"--reuid={RSYNC_UID}", f"--regid={RSYNC_UID}", "--clear-groups"),
        *("/bin/sh", "-c", script),
        cwd=transfers(host, upload_id),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    async with asyncio.timeout(support.SECONDS):
        assert await process.stdout.readline() == b"inside\n"
        answer = await support.finalize(host.client, upload_id)
        assert answer.status_code == 200, answer.text
        before = digest(finalized(host, upload_id))
        said, _ = await process.communicate(b"go\n")
    assert said.decode().splitlines() == ["over"]
    assert digest(finalized(host, upload_id)) == before


async def test_the_client_says_why_the_host_refused(host: Connected, tree: Path) -> None:
    upload_id = await support.pushed(host, tree)
    url = f"{host.rsync_url}/{upload_id}/"
    result = await run_rsync(build_command("rsync", tree, url, exclude=(), base=None))
    assert judge(result) is Ending.FAILED
    assert result.reason == f"{upload_id} is finalized; push under a new id"


async def test_links_stay_links(host: Connected, tree: Path) -> None:
    links = {
        "absolute": "/etc/passwd",
        "upwards": "../../../../../../etc/passwd",
        "inside": "sub/c",
        "dangling": "nothing",
        "directory": "/etc",
        "odd": "/rsyncd-munged/etc/passwd",
        "sub/up": "../a",
    }
    for name, target in links.items():
        (tree / name).symlink_to(target)
    upload_id = await support.push(host, tree)
    answer = await support.finalize(host.client, upload_id)
    assert answer.status_code == 200, answer.text
    assert answer.json()["file_count"] == 3 + len(links)
    assert answer.json()["size_bytes"] == 12  # of what they point to, nothing is counted
    root = finalized(host, upload_id)
    assert {name: str((root / name).readlink()) for name in links} == links
    quoted = " ".join(links)
    row = await support.run(
        host.client,
        f"for l in {quoted}; do readlink $l; done; cat inside; cat sub/up; test -d directory/apt"
        " && echo of-the-image",
        files_id=upload_id,
    )
    lines = support.texts(await support.output(host.client, row["id"]))
    assert lines == [*links.values(), "ccccaaaaof-the-image"]
    assert row["exit_code"] == 0


async def test_no_way_out_through_a_link_that_was_pushed(host: Connected, tree: Path) -> None:
    victim = await support.push(host, tree)
    outside = host.settings.paths.work
    (tree / "out").symlink_to("..")
    (tree / "work").symlink_to(outside)
    (tree / "victim").symlink_to(f"../{victim}")
    upload_id = await support.push(host, tree)
    before = digest(transfers(host, victim))
    evil = tree.parent / "evil"
    evil.mkdir()
    (evil / "a").write_text("evil")
    for name in ("out/", "work/", "victim/", "victim", f"out/{victim}/"):
        for options in (["--inplace"], ["--delete"]):  # one at a time: each may be the one
            await support.rsync(f"{evil}/", f"{host.rsync_url}/{upload_id}/{name}", *options)
    assert digest(transfers(host, victim)) == before
    assert not (outside / "a").exists()
    assert not (transfers(host, upload_id).parent / "a").exists()
    answer = await support.finalize(host.client, upload_id)
    assert answer.status_code == 200, answer.text


async def test_devices_pipes_sockets_setuid_and_owners_do_not_survive(
    host: Connected, tree: Path
) -> None:
    (tree / "setuid").write_text("#!/bin/sh\n")
    (tree / "setuid").chmod(0o6755)
    (tree / "sticky").mkdir()
    (tree / "sticky").chmod(0o1777)
    (tree / "closed").mkdir()
    (tree / "closed" / "secret").write_text("read me")
    (tree / "closed" / "secret").chmod(0)
    (tree / "run").write_text("#!/bin/sh\necho ran\n")
    (tree / "run").chmod(0o755)
    os.mkfifo(tree / "pipe")
    upload_id = await support.push(host, tree, None, "-a")  # -D with it, as people do
    # What an rsync that got out of hand could have left.
    root = transfers(host, upload_id)
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "sub" / "disk", stat.S_IFBLK | 0o666, os.makedev(8, 0))
    os.mkfifo(root / "fifo", 0o666)
    (root / "owned").write_text("x")
    for name in ("null", "fifo"):
        os.chown(root / name, RSYNC_UID, RSYNC_UID)
    os.chown(root / "owned", SUBIDS_START + 1000, SUBIDS_START + 1000)
    os.chown(root / "sub" / "disk", RSYNC_UID, RSYNC_UID)
    os.mknod(root / "socket", stat.S_IFSOCK | 0o666)  # bind() takes 107 bytes of path at most
    os.chown(root / "socket", RSYNC_UID, RSYNC_UID)
    (root / "closed").chmod(0)
    answer = await support.finalize(host.client, upload_id)
    assert answer.status_code == 200, answer.text
    tree_of = finalized(host, upload_id)
    left = {p.relative_to(tree_of).as_posix(): p.lstat() for p in tree_of.rglob("*")}
    assert set(left) == {
        "a", "b", "sub", "sub/c", "setuid", "sticky", "closed", "closed/secret", "run", "owned",
    }  # fmt: skip
    assert {(info.st_uid, info.st_gid) for info in left.values()} == {(UID, UID)}
    assert all(not info.st_mode & 0o7000 for info in left.values())
    row = await support.run(
        host.client,
        "./run; cat closed/secret; echo; stat -c '%a %U' run setuid a; id -un;"
        ' find . ! -user "$(id -un)" | wc -l; find . -perm /7000 | wc -l',
        files_id=upload_id,
    )
    lines = support.texts(await support.output(host.client, row["id"]))
    user = lines[5]
    assert lines[:5] == ["ran", "read me", f"755 {user}", f"755 {user}", f"644 {user}"]
    assert lines[6:] == ["0", "0"]


REFUSED = [
    ["--link-dest=/.bases/x"], ["--link-dest=../{victim}"], ["--temp-dir=/{victim}"],
    ["--backup", "--backup-dir=/{victim}"], ["--compare-dest=/{victim}"],
    ["--partial-dir=/{victim}"], ["--copy-dest=/{victim}"], ["--copy-dest=../{victim}"],
    ["--copy-dest=/.bases/../{victim}"], ["--copy-dest=/.bases/"], ["--copy-dest=/"],
    ["-M--log-file=/{victim}/log"], ["-M--fake-super"], ["-M--super"], ["--specials"],
    ["--devices"], ["--write-devices"], ["--copy-links", "-M--copy-links"],
    ["-M--copy-unsafe-links"], ["-M--keep-dirlinks"], ["--keep-dirlinks"], ["--xattrs"],
    ["--acls"], ["--hard-links"], ["-M--files-from=/etc/passwd"],
    ["-M--munge-links"], ["-M--no-munge-links"], ["-M--config=/etc/x"], ["-M--daemon"],
    ["--chown=0:0"], ["--usermap=*:root"], ["--relative"], ["-M--rsync-path=/bin/sh"],
    ["-M--sender"], ["-M--remote-option=x"], ["--atimes"], ["--append-verify"],
    ["-M--password-file=/etc/x"], ["-M--only-write-batch=/{victim}/x"], ["-M--suffix=/x"],
]  # fmt: skip


async def test_dangerous_options_are_refused(host: Connected, tree: Path) -> None:
    victim = await support.push(host, tree)
    before = digest(transfers(host, victim))
    names = {p.name for p in transfers(host, "").iterdir()}
    chosen = [[option.format(victim=victim) for option in options] for options in REFUSED]
    pushes = [
        support.rsync(f"{tree}/", f"{host.rsync_url}/upload_refused-{number:03}/", *options)
        for number, options in enumerate(chosen)
    ]
    for options, done in zip(chosen, await at_once(pushes), strict=True):
        assert done.code != 0, options
        if not options[0].startswith("-M"):  # others break the protocol
            assert "refuse" in done.stderr or "not allowed" in done.stderr, (options, done.stderr)
    assert {p.name for p in transfers(host, "").iterdir()} == names
    assert digest(transfers(host, victim)) == before


async def at_once(pushes: Sequence[Awaitable[Rsync]]) -> list[Rsync]:
    """Run pushes five at a time: a daemon that refuses waits half a second before it hangs up."""
    ends: list[Rsync] = []
    for first in range(0, len(pushes), 5):
        ends += await asyncio.gather(*pushes[first : first + 5])
    return ends


async def test_other_places_are_refused(host: Connected, tree: Path) -> None:
    victim = await support.push(host, tree)
    mine = (await support.reserve(host.client))["upload_id"]
    module = transfers(host, mine).parent
    names = {p.name for p in module.iterdir()}
    before = digest(transfers(host, victim))
    (tree / "a").write_text("evil")
    paths = [
        "", "/", ".bases/p/", ".bases/", f"{mine}", "upload_short/", "other/", "../x/", "..",
        f"{mine}/../{victim}/", f"{mine}/sub/../../x/", f"./{mine}/../{victim}/",
        f"{mine}/./../{victim}/", "/etc/", f"//{victim}", f"{mine}/..", f"{victim[:-1]}?/", "*/",
        "upload_abcdefghijk\u00e9/", "-e/", "upload_abcdefghijkl;x/", "upload_abcdefghijkl$(x)/",
    ]  # fmt: skip
    pushes = [support.rsync(f"{tree}/", f"{host.rsync_url}/{p}", "--delete") for p in paths]
    for path, done in zip(paths, await at_once(pushes), strict=True):
        assert done.code != 0, path
        assert "pre-xfer exec returned failure" in done.stderr, (path, done.stderr)
    assert {p.name for p in module.iterdir()} == names
    assert digest(transfers(host, victim)) == before
    assert list((module / ".bases").iterdir()) == []
    # And nothing is ever read from it.
    for path in ("", f"{victim}/", f"{victim}/a"):
        done = await support.rsync(f"{host.rsync_url}/{path}", str(tree.parent / "back"))
        assert done.code != 0
        assert not (tree.parent / "back").exists()
