"""The REST client and pulls, against a scripted server on a Unix socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from podman_rest_rig import Server, answer, asking, ok, serving

from flashpods.adapters.podman.images import Images, classify
from flashpods.adapters.podman.rest import ANSWER_BYTES, RestClient, one_line
from flashpods.errors import Unavailable
from flashpods.ports import ImageError


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with serving(tmp_path / "s") as found:
        yield found


@pytest.fixture
async def client(server: Server) -> AsyncIterator[RestClient]:
    async with asking(server) as rest:
        yield rest


async def test_a_call_and_its_connection_again(server: Server, client: RestClient) -> None:
    for _ in range(3):
        found = await client.call("POST", "/x", query={"a": ["1", "2"]}, body={"b": 1})
        assert (found.status, found.json()) == (200, {"ok": True})
    assert server.connections == 1
    method, target, body = server.requests[0]
    assert method == "POST"
    assert urlsplit(target).path.endswith("/libpod/x")
    assert parse_qs(urlsplit(target).query) == {"a": ["1", "2"]}
    assert json.loads(body) == {"b": 1}


async def test_chunked_and_bodiless_answers(server: Server, client: RestClient) -> None:
    async def handler(method: str, target: str, writer: asyncio.StreamWriter) -> None:
        if target.endswith("none"):
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        else:
            writer.write(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
            )

    server.handler = handler
    assert (await client.call("GET", "/none")).status == 204
    assert (await client.call("GET", "/some")).body == b"abc"
    assert server.connections == 1


@pytest.mark.parametrize("name", ["absent", "file"])
async def test_nobody_there(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    rest = RestClient(tmp_path / name, call_seconds=5, calls=1, waits=1)
    with pytest.raises(Unavailable, match=r"does not answer at .*: (No such file|Connection ref)"):
        await rest.call("GET", "/x")


async def test_a_deadline_frees_the_slot_and_drops_the_connection(
    server: Server, client: RestClient
) -> None:
    server.handler = server.silence
    for seconds in (0.05, 0.5, 5, 50):  # until the call has come so far on this machine
        with pytest.raises(Unavailable, match=rf"within {seconds:g} s"):
            await client.call("GET", "/x", deadline=seconds)
        if server.came.is_set():
            break
    before = server.connections
    server.handler = ok
    for _ in range(3):
        assert (await client.call("GET", "/x")).ok
    assert server.connections == before + 1


async def test_waits_do_not_starve_calls(server: Server, client: RestClient) -> None:
    release = asyncio.Event()

    async def handler(method: str, target: str, writer: asyncio.StreamWriter) -> None:
        if target.endswith("wait"):
            await release.wait()
        await ok(method, target, writer)

    server.handler = handler
    waits = [asyncio.create_task(client.call("POST", "/wait", long=True)) for _ in range(20)]
    await server.came.wait()
    assert (await client.call("GET", "/x")).ok
    assert sum("wait" in target for _, target, _ in server.requests) <= 2
    release.set()
    assert all(a.ok for a in await asyncio.gather(*waits))


@pytest.mark.parametrize(("method", "sent"), [("GET", 3), ("DELETE", 3), ("POST", 2)])
async def test_only_what_is_safe_is_sent_again(
    server: Server, client: RestClient, method: str, sent: int
) -> None:
    await client.call("GET", "/x")

    async def cut(method: str, target: str, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server.handler = cut
    with pytest.raises(Unavailable, match="closed the connection"):
        await client.call(method, "/y")
    assert len(server.requests) == sent


@pytest.mark.parametrize("raw", [b"SSH-2.0-OpenSSH_9\r\n\r\n", b"\x00" * 100])
async def test_what_is_not_http_is_unavailable(
    server: Server, client: RestClient, raw: bytes
) -> None:
    async def junk(method: str, target: str, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)

    server.handler = junk
    with pytest.raises(Unavailable):
        await client.call("POST", "/x")


async def test_an_answer_without_end_is_cut(server: Server, client: RestClient) -> None:
    async def flood(method: str, target: str, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {ANSWER_BYTES * 2}\r\n\r\n".encode())
        while True:
            writer.write(b"x" * 1024**2)
            await writer.drain()

    server.handler = flood
    with pytest.raises(Unavailable, match="answer is over"):
        await client.call("POST", "/x")


async def test_messages_are_one_line_and_cut(server: Server, client: RestClient) -> None:
    async def fail(method: str, target: str, writer: asyncio.StreamWriter) -> None:
        body = json.dumps({"cause": "c", "message": "a\nb " + "x" * 999}).encode()
        writer.write(answer(body, "500 Internal Server Error"))

    server.handler = fail
    found = await client.call("GET", "/x")
    assert not found.ok
    assert found.message.startswith("a b x")
    assert "\n" not in found.message
    assert len(found.message) <= 301
    assert one_line(" a\t b ") == "a b"


# ------------------------------------------------------------------ pulls


class Registry:
    """A server that lacks every image and pulls with a scripted report."""

    def __init__(self, server: Server, *report: dict[str, str]) -> None:
        self.report = report
        self.release = asyncio.Event()
        self.pulls = 0
        server.handler = self.handle

    async def handle(self, method: str, target: str, writer: asyncio.StreamWriter) -> None:
        if "/exists" in target:
            writer.write(answer(b"{}", "404 Not Found"))
            return
        self.pulls += 1
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for line in self.report:
            chunk = json.dumps(line).encode() + b"\n"
            writer.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
        await writer.drain()
        await self.release.wait()
        writer.write(b"0\r\n\r\n")


async def pull(images: Images, image: str = "docker.io/a:1") -> list[str]:
    said: list[str] = []

    async def progress(line: str) -> None:
        said.append(line)

    await images.ensure(image, progress)
    return said


async def test_many_join_one_pull_and_all_hear_it(server: Server, client: RestClient) -> None:
    registry = Registry(server, {"stream": "Trying\n"}, {"stream": "Copying\n"}, {"id": "x"})
    images = Images(client, idle_seconds=60)
    tasks = [asyncio.create_task(pull(images)) for _ in range(5)]
    while not registry.pulls or len(server.requests) < 6:
        server.came.clear()
        await server.came.wait()
    registry.release.set()
    assert await asyncio.gather(*tasks) == [["Trying", "Copying"]] * 5
    assert registry.pulls == 1


async def test_a_pull_that_nobody_wants_any_more_is_given_up(
    server: Server, client: RestClient
) -> None:
    Registry(server, {"stream": "Trying"})
    images = Images(client, idle_seconds=60)
    heard = asyncio.Event()

    async def progress(line: str) -> None:
        heard.set()

    task = asyncio.create_task(images.ensure("a", progress))
    await heard.wait()
    (under_way,) = (t for t in asyncio.all_tasks() if t.get_name() == "pull a")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait({under_way}, timeout=60)
    assert under_way.cancelled()


async def test_who_comes_while_a_pull_is_given_up_begins_anew(
    server: Server, client: RestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that joined it would be cancelled with it, its job forgotten until the next minute."""
    registry = Registry(server, {"stream": "Trying"})
    images = Images(client, idle_seconds=60)

    async def absent(_image: str) -> bool:
        return False

    monkeypatch.setattr(images, "present", absent)
    first = asyncio.create_task(pull(images))
    async with asyncio.timeout(30):
        while not registry.pulls:
            server.came.clear()
            await server.came.wait()
        first.cancel()
        second = asyncio.create_task(pull(images))  # its turn is next
        registry.release.set()
        assert await second == ["Trying"]
    assert first.cancelled()
    assert registry.pulls == 2


async def test_a_silent_pull_fails(server: Server, client: RestClient) -> None:
    Registry(server, {"stream": "Trying"})
    with pytest.raises(ImageError, match="no progress") as caught:
        await pull(Images(client, idle_seconds=0.05))
    assert caught.value.code == "image_pull_failed"


async def test_endless_progress_is_bounded(server: Server, client: RestClient) -> None:
    registry = Registry(server, *({"stream": "x" * 1000} for _ in range(1000)))
    registry.release.set()
    said = await pull(Images(client, idle_seconds=60))
    assert len(said) == 200
    assert max(map(len, said)) <= 301


async def test_a_failed_pull_says_why_and_can_be_tried_again(
    server: Server, client: RestClient
) -> None:
    registry = Registry(server, {"error": "reading manifest 1 in a: manifest unknown"})
    registry.release.set()
    images = Images(client, idle_seconds=60)
    for _ in range(2):
        with pytest.raises(ImageError, match=r"cannot pull docker.io/a:1: .*manifest unknown") as e:
            await pull(images)
        assert e.value.code == "image_not_found"
    assert registry.pulls == 2


@pytest.mark.parametrize(
    ("cause", "code"),
    [
        ("reading manifest x: manifest unknown: manifest unknown", "image_not_found"),
        ("name unknown: repository name not known to registry", "image_not_found"),
        ("requested access to the resource is denied", "image_not_found"),
        ("unable to retrieve auth token: unauthorized: bad", "image_not_found"),
        ('short-name "a" did not resolve to an alias and no …', "image_not_found"),
        ("invalid reference format", "image_not_found"),
        ("dial tcp: lookup registry-1.docker.io: no such host", "image_pull_failed"),
        ("dial tcp 127.0.0.1:1: connect: connection refused", "image_pull_failed"),
        ("2 errors: * a: manifest unknown * b: dial tcp: i/o timeout", "image_pull_failed"),
        ("toomanyrequests: you have reached your pull rate limit; denied", "image_pull_failed"),
        ("writing blob: no space left on device", "image_pull_failed"),
    ],
)
def test_causes(cause: str, code: str) -> None:
    assert classify(cause) == code
