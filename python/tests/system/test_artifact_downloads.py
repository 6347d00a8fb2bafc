"""Artifacts come home: ranges, validators, cut connections, no way to other files."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import random
from pathlib import Path

import pytest
import support
from artifact_rig import fetched, left, unpacked, url
from support import Connected, assert_refused

from flashpods.client import ClientConfig, ClientError, FlashpodsClient
from flashpods_dev.stack import MiniStack


@pytest.fixture(scope="module")
def numbers(shared: MiniStack) -> tuple[str, bytes]:
    """The id of a job whose artifact ``n`` has this content: 100 000 bytes."""

    async def make() -> str:
        async with support.connect(shared) as host:
            row = await support.run(host.client, "seq 1000000 | head -c 100000 > /artifacts/n")
            return str(row["id"])

    content = "".join(f"{n}\n" for n in range(1, 20_000)).encode()[:100_000]
    return asyncio.run(make()), content


@pytest.mark.parametrize(
    ("wanted", "first", "last"),
    [
        ("bytes=0-0", 0, 0), ("bytes=0-", 0, 99_999), ("bytes=5-10", 5, 10),
        ("bytes=-1", 99_999, 99_999), ("bytes=-500", 99_500, 99_999),
        ("bytes=99999-", 99_999, 99_999), ("bytes=50-999999", 50, 99_999),
        ("bytes=-100001", 0, 99_999), ("BYTES = 1-2", 1, 2), ("bytes=70000-70001", 70_000, 70_001),
    ],
)  # fmt: skip
async def test_a_range(
    host: Connected, numbers: tuple[str, bytes], wanted: str, first: int, last: int
) -> None:
    job_id, content = numbers
    answer = await host.client.get(url(job_id, "n"), headers={"Range": wanted})
    assert answer.status_code == 206, answer.text
    assert answer.headers["content-range"] == f"bytes {first}-{last}/100000"
    assert answer.headers["content-length"] == str(last - first + 1)
    assert answer.content == content[first : last + 1]


@pytest.mark.parametrize(
    "wanted",
    ["bytes=100000-", "bytes=-0", "bytes=10-5", "bytes=x-1", "bytes=-", "bytes=", "bytes=1-2-3"],
)
async def test_no_such_range(host: Connected, numbers: tuple[str, bytes], wanted: str) -> None:
    answer = await host.client.get(url(numbers[0], "n"), headers={"Range": wanted})
    assert_refused(answer, 416, "range_not_satisfiable")
    assert answer.headers["content-range"] == "bytes */100000"


@pytest.mark.parametrize("wanted", ["bytes=0-1,5-6", "items=0-1", "nonsense"])
async def test_the_whole_instead(host: Connected, numbers: tuple[str, bytes], wanted: str) -> None:
    answer = await host.client.get(url(numbers[0], "n"), headers={"Range": wanted})
    assert (answer.status_code, answer.content) == (200, numbers[1])


async def test_validators(host: Connected, numbers: tuple[str, bytes]) -> None:
    job_id, content = numbers
    path = url(job_id, "n")
    answer = await host.client.get(path)
    tag = answer.headers["etag"]
    assert tag == f'"{hashlib.sha256(content).hexdigest()}"'
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["x-content-type-options"] == "nosniff"
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        answer = await host.client.get(path, headers={"If-None-Match": known})
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == tag
    answer = await host.client.get(path, headers={"If-None-Match": '"other"'})
    assert answer.status_code == 200
    some = {"Range": "bytes=1-2"}
    answer = await host.client.get(path, headers={**some, "If-Range": tag})
    assert (answer.status_code, answer.content) == (206, content[1:3])
    for other in ('"other"', f"W/{tag}", "Wed, 21 Oct 2015 07:28:00 GMT"):
        answer = await host.client.get(path, headers={**some, "If-Range": other})
        assert (answer.status_code, answer.content) == (200, content)
    head = await host.client.head(path, headers=some)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == "100000"


async def test_pieces_of_cut_downloads_make_the_whole(
    host: Connected, numbers: tuple[str, bytes]
) -> None:
    job_id, content = numbers
    chaos, got = random.Random(5), b""
    while len(got) < len(content):
        headers = {"Range": f"bytes={len(got)}-"}
        async with host.client.stream("GET", url(job_id, "n"), headers=headers) as answer:
            async for chunk in answer.aiter_raw(chaos.randint(1, 30_000)):
                got += chunk
                break  # and the connection goes
    assert got == content


@pytest.mark.parametrize(
    "path",
    [
        "..%2f..%2fetc%2fpasswd", "%2e%2e", "%2e%2e%2f%2e%2e", "../../../etc/passwd", "..", ".",
        "%2e", "..%5c..", "a%00", "%00", "%2fetc%2fpasswd", "//etc/passwd",
        "....//....//etc/passwd",
        "%252e%252e%252f", "%c0%ae%c0%ae%c0%af", "n%2f..%2fn", "n/../n", "n/", "n%0a", "%20n",
        "n%20", "\\..\\n", "%ff", "x" * 256, "%ed%a0%80", ".staging", "../" * 20 + "etc/passwd",
    ],
)  # fmt: skip
async def test_no_way_out(host: Connected, numbers: tuple[str, bytes], path: str) -> None:
    """Sent as it is: clients tidy such paths up before they send them."""

    def get() -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(
            "127.0.0.1", host.stack.port, timeout=support.SECONDS
        )
        try:
            connection.putrequest("GET", f"/jobs/{numbers[0]}/artifacts/{path}")
            connection.putheader("Authorization", host.client.headers["Authorization"])
            connection.endheaders()
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    status, body = await asyncio.to_thread(get)
    assert status in {400, 404}, body
    assert b"root:" not in body
    assert numbers[1][:100] not in body


def entries(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir()}


async def test_the_client_brings_them_home(
    host: Connected, numbers: tuple[str, bytes], tmp_path: Path
) -> None:
    row = await support.run(
        host.client, "cd /artifacts; mkdir d; seq 9 > d/n; echo '#!' > d/x; chmod 755 d/x"
    )
    config = ClientConfig(
        token=host.client.headers["Authorization"].removeprefix("Bearer "),
        api_url=host.stack.api_url,
    )
    async with FlashpodsClient(config) as client:
        saved = await client.download(numbers[0], "n", tmp_path)
        assert saved == tmp_path / "n"
        assert saved.read_bytes() == numbers[1]
        saved = await client.download(row["id"], "d", tmp_path, extract=True)
        assert (saved / "n").read_text().split() == [str(n) for n in range(1, 10)]
        assert (saved / "x").stat().st_mode & 0o777 == 0o755
        saved = await client.download(row["id"], "d", tmp_path)
        assert set(unpacked(saved.read_bytes())) == {"d/n", "d/x"}
        with pytest.raises(ClientError) as caught:
            await client.download(row["id"], "missing", tmp_path)
        assert caught.value.code == "artifact_not_found"
    assert entries(tmp_path) == {"n", "d", "d.tar"}


async def test_downloads_while_logs_flood_in(host: Connected) -> None:
    row, found = await left(host.client, "head -c 20000000 /dev/urandom > big")
    flood = await support.submit(host.client, "yes flood | head -c 60000000; echo over")
    await support.until(host.client, flood, "running")
    async with asyncio.timeout(support.SECONDS):
        await asyncio.gather(*(fetched(host.client, row["id"], found["big"]) for _ in range(4)))
    row = await support.ended(host.client, flood, 3 * support.SECONDS)
    assert row["status"] == "completed"
    assert (await host.client.get(f"/jobs/{flood}/output")).json()["truncated"]
