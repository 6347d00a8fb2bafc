# ruff: noqa: E501 - the attacks are data
"""Attack 5: a job that fights the collection of its own artifacts."""

from __future__ import annotations

import asyncio
import time
from urllib.parse import quote

import pytest
import support
from attacker import bystander
from scoring import FULL, PATIENCE, Score
from support import Connected

NAMES = """cd /artifacts; python3 -c "
import os
for n in range({count}): os.mknod(f'f{{n:06}}')
" """
ODD = r"""cd /artifacts; python3 -c "
import os
for b in range(1, 256):
    if b != 47:
        open(b'x' + bytes([b]) + b'y', 'w').close(); os.mkdir(b'd' + bytes([b]))
for name in (b'n' * 255, b'\xc3\xa9' * 127, b'-rf', b'--', b'..a', b'a..', b'...', b' a', b'a ', b'.hid', b'\xff\xfe'):
    open(name, 'w').close()
" """
FILES = """cd /artifacts; mkfifo fifo d.fifo; truncate -s 1T sparse; ln -s /etc/passwd out; ln -s ../../../../ up
ln -s loop loop; ln -s /proc/self/environ environ; echo x > f; ln f hard; ln -s /dev/zero zero
ln -s /proc/self/fd/1 fd; mkdir -p d/d; ln -s ../../../.. d/d/up; ln -s d/d/up/etc/passwd chain
python3 -c "import socket; socket.socket(socket.AF_UNIX).bind('sock')"; echo ok > good"""
# Goes on while the container is stopped: SIGTERM is ignored, so it has the whole grace.
SWAP = r'''cd /artifacts; trap '' TERM; echo secret > s; mkdir real; echo in > real/f; python3 -c "
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
end = time.time() + {seconds}
n = 0
while time.time() < end:
    n += 1
    for target in ('/etc/passwd', '/proc/self/environ', 's', '/', '../../..', '/dev/zero'):
        os.symlink(target, 't'); os.replace('t', 'swap')
        os.symlink(target, 't'); os.replace('t', 'real/swap')
    os.rename('real', 'moved'); os.symlink('/etc', 'real'); os.unlink('real'); os.rename('moved', 'real')
"'''


async def got(host: Connected, row: dict[str, object]) -> dict[str, bytes]:
    """Download every artifact of a job."""
    url = f"/jobs/{row['id']}/artifacts"
    listed = (await host.client.get(url)).json()["artifacts"]
    found = {}
    for artifact in listed:
        answer = await host.client.get(f"{url}/{escaped(artifact['name'])}")
        assert answer.status_code == 200, (artifact, answer.text)
        found[artifact["name"]] = answer.content
    return found


def escaped(name: str) -> str:
    return quote(name, safe="")


def harmless(content: bytes) -> bool:
    return b"root:x:" not in content and b"FLASHPODS_JOB_ID" not in content


@pytest.mark.attack(5, "100 000 names")
async def test_many_names(host: Connected, score: Score) -> None:
    async with bystander(host) as seen:
        began = time.monotonic()
        job_id = await support.submit(host.client, NAMES.format(count=100_000))
        row = await support.ended(host.client, job_id, 70 * PATIENCE)
        took = time.monotonic() - began
    with score.attempt():
        assert row["error"] == "artifact_limit_exceeded", row
        assert sum(map(len, row["warnings"])) < 20_000
        score.figure("job to its end", took, 60)
        score.figure("others' p99", seen.p99, 1.0)
        assert seen.errors == 0


@pytest.mark.attack(5, "names of every odd byte and of 255 bytes")
async def test_odd_names(host: Connected, score: Score) -> None:
    row = await support.run(host.client, ODD)
    with score.attempt():
        assert row["error"] in {"artifact_limit_exceeded", None}, row
        found = await got(host, row)
        assert 100 < len(found) <= 200
        for name in found:
            assert name == name.strip()
            assert not any(c in name for c in "/\\\0\n\r\x1b")
            assert len(name.encode()) <= 255


@pytest.mark.attack(5, "links out, pipes, sockets, loops, a sparse terabyte")
async def test_odd_files(host: Connected, score: Score) -> None:
    began = time.monotonic()
    row = await support.run(host.client, FILES)
    with score.attempt():
        score.figure("job to its end", time.monotonic() - began, 20)
        found = await got(host, row)
        assert {"good", "f", "hard"} <= set(found) <= {"good", "f", "hard", "d"}, set(found)
        assert all(harmless(content) for content in found.values())
        assert row["error"] == "artifact_limit_exceeded"


@pytest.mark.attack(5, "links swapped until the last moment")
async def test_swap(host: Connected, score: Score) -> None:
    for round_ in range(20 if FULL else 4):
        with score.attempt():
            job_id = await support.submit(host.client, SWAP.format(seconds=600))
            await support.until(host.client, job_id, "running")
            await host.client.get(f"/jobs/{job_id}?wait={0.2 + 0.1 * round_:.1f}")
            done = await asyncio.to_thread(
                host.stack.run_podman, "kill", "--signal=KILL", f"job_{job_id}"
            )
            assert done.returncode == 0, done.stderr
            row = await support.ended(host.client, job_id)
            found = await got(host, row)
            assert all(harmless(content) for content in found.values()), row
            assert found.get("swap", b"secret\n") == b"secret\n"


@pytest.mark.attack(5, "artifacts and a staging directory that nobody may read")
async def test_unreadable(host: Connected, score: Score) -> None:
    command = "cd /artifacts; mkdir -p a/b; echo x > a/b/c; chmod 0 a/b/c a/b a; echo y > z; chmod 0 z; chmod 0 ."
    with score.attempt():
        row = await support.run(host.client, command)
        assert row["status"] in {"completed", "failed"}, row
        staging = host.settings.paths.artifacts / ".staging" / row["id"]
        await support.true_soon(lambda: not staging.exists(), "the staging directory goes")
