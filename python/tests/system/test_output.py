"""The log on the real stack: what is in it, the ways to read it, before the job and after."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
import support
from output_rig import GATE, LINE, log_file, numbered_lines, open_gate, page
from running_api import ApiFactory
from support import Connected, assert_refused

from flashpods_dev.machine import UID
from flashpods_dev.stack import MiniStack


async def logged(host: Connected, command: str) -> tuple[dict[str, Any], list[str]]:
    """Run a job and return its row and the texts of its log."""
    row = await support.run(host.client, command)
    return row, support.texts(await support.output(host.client, row["id"]))


async def test_both_streams_in_the_order_they_were_written(host: Connected) -> None:
    code = (
        "import os\nfor n in range(2000):\n    os.write(1 + (n * 7 % 3 == 0), b'line %d\\n' % n)\n"
    )
    row, lines = await logged(host, f'python3 -c "{code}"; echo end >&2')
    assert row["status"] == "completed"
    assert lines == [*(f"line {n}" for n in range(2000)), "end"]
    whole = await support.output(host.client, row["id"])
    assert all(LINE.match(line) for line in whole.splitlines())
    stamps = [line[:14] for line in whole.splitlines()]
    assert stamps == sorted(stamps) or stamps[0] > stamps[-1]  # over midnight


async def test_a_line_in_pieces_is_one_line(host: Connected) -> None:
    command = "for i in 1 2 3; do printf %s $i; sleep 0.02; done; printf 'end\\nnext\\n'"
    _, lines = await logged(host, command)
    assert lines == ["123end", "next"]


async def test_no_newline_at_the_end(host: Connected) -> None:
    row, lines = await logged(host, "printf 'a\\nno newline'")
    assert lines == ["a", "no newline"]
    text, end = await support.follow_to_end(host.client, row["id"])
    assert support.texts(text) == lines
    assert (await page(host.client, row["id"]))["total_bytes"] == end.id


async def test_an_unended_line_shows_when_it_ends(host: Connected) -> None:
    command = GATE.format("echo ready; printf 'half '; gate go; echo whole; gate end")
    job_id = await support.submit(host.client, command)
    await support.until(host.client, job_id, "running")
    async with asyncio.timeout(support.SECONDS), support.follow(host.client, job_id) as stream:
        first = await anext(stream)
        assert support.texts(first.data) == ["ready"]
        assert support.texts(await support.output(host.client, job_id)) == ["ready"]
        open_gate(host, job_id, "go")
        second = await anext(stream)
        assert support.texts(second.data) == ["half whole"]
        open_gate(host, job_id, "end")
    await support.until(host.client, job_id, "completed")


async def test_bytes_that_are_no_text(host: Connected) -> None:
    command = (
        "printf '\\377\\376 ok\\n\\303\\n'; printf 'a\\rb\\n\\033[31mred\\n'; "
        "printf 'nul\\000.\\n'; "
        "printf '\\342\\200\\250 \\302\\205 \\014 odd\\n'; printf '\\n'; "
        "printf '\\360\\237\\230\\200\\n'; printf 'cut \\342\\202'"
    )
    row = await support.run(host.client, command)
    output = await support.output(host.client, row["id"])
    lines = [line.split("] ", 1)[1] for line in output.removesuffix("\n").split("\n")]
    expected = [
        "\ufffd\ufffd ok", "\ufffd", "a\rb", "\x1b[31mred", "nul\0.", "\u2028 \x85 \x0c odd", "",
        "\U0001f600", "cut \ufffd",
    ]  # fmt: skip
    assert lines == expected
    text, _ = await support.follow_to_end(host.client, row["id"])
    assert text == output
    # A cursor counts the log's bytes, not the answer's, so it resumes behind what was replaced.
    first = await page(host.client, row["id"], offset=0, limit=1)
    second = await page(host.client, row["id"], offset=first["next_offset"], limit=1)
    assert support.texts(second["output"]) == ["\ufffd"]


async def test_a_line_without_end_is_cut_not_lost(host: Connected) -> None:
    row, lines = await logged(host, "head -c 600000 /dev/zero | tr '\\0' x; echo; echo end")
    assert row["status"] == "completed"
    assert "".join(lines[:-1]) == "x" * 600_000
    assert lines[-1] == "end"
    assert len(lines) == 4  # 256 KiB each


async def test_an_empty_log(host: Connected) -> None:
    row = await support.run(host.client, "true")
    found = await page(host.client, row["id"])
    assert found == {
        "output": "", "lines": 0, "truncated": False, "total_bytes": 0, "offset": 0,
        "next_offset": 0,
    }  # fmt: skip
    text, end = await support.follow_to_end(host.client, row["id"])
    assert (text, end.id) == ("", 0)


@pytest.fixture(scope="module")
def numbered(shared: MiniStack) -> str:
    return asyncio.run(numbered_lines(shared))


async def test_tail(host: Connected, numbered: str) -> None:
    whole = log_file(host, numbered).read_text()
    for tail in (1, 2, 100, 999, 10_000):
        found = await page(host.client, numbered, tail=tail)
        assert found["lines"] == tail
        assert found["output"] == "".join(whole.splitlines(keepends=True)[-tail:])
        assert found["total_bytes"] == len(whole) == found["next_offset"]
        assert not found["truncated"]
    assert (await page(host.client, numbered))["lines"] == 100


@pytest.mark.parametrize(
    "query",
    [
        "tail=0", "tail=10001", "tail=-1", "tail=", "tail=x", "tail=1.5", "tail=1e3", "tail=+1",
        "tail=%D9%A1", "tail=1&tail=2", "tail=99999999999999999999", "offset=-1", "limit=0",
        "limit=1048577", "offset=9007199254740992", "tail=1&offset=1", "tail=5&follow=true",
        "follow=maybe", "follow=1", "follow=true&limit=5", "lines=5", "Tail=5", "tail=%ff",
    ],
)  # fmt: skip
async def test_refused_queries(host: Connected, numbered: str, query: str) -> None:
    answer = await host.client.get(f"/jobs/{numbered}/output?{query}")
    assert_refused(answer, 400, "invalid_request")
    name = query.partition("=")[0]
    assert name in answer.json()["message"] or "%ff" in query


@pytest.mark.parametrize("cursor", ["-1", "x", "", "1.5", "99999999999999999", "1, 2"])
async def test_refused_cursors(host: Connected, numbered: str, cursor: str) -> None:
    headers = {"Last-Event-ID": cursor}
    path = f"/jobs/{numbered}/output?follow=true"
    answer = await host.client.get(path, headers=headers)
    assert_refused(answer, 400, "invalid_request")
    assert "Last-Event-ID" in answer.json()["message"]


async def test_pages_make_the_whole(host: Connected, numbered: str) -> None:
    whole = log_file(host, numbered).read_text()
    chaos = random.Random(3)
    for limits in ([1024 * 1024], [65536], [chaos.randint(5000, 30_000) for _ in range(50)], []):
        offset, parts, calls = 0, [], 0
        while True:
            query = {"limit": limits[calls % len(limits)]} if limits else {}
            found = await page(host.client, numbered, offset=offset, **query)
            assert found["offset"] == offset
            if found["next_offset"] == offset:
                break
            assert found["output"].endswith("\n")
            assert found["lines"] == found["output"].count("\n")
            assert len(found["output"]) <= query.get("limit", 65536)
            parts.append(found["output"])
            offset, calls = found["next_offset"], calls + 1
        assert "".join(parts) == whole
    found = await page(host.client, numbered, offset=0, limit=1)  # never less than a line
    assert found["output"] == whole[: whole.index("\n") + 1]
    beyond = await page(host.client, numbered, offset=len(whole) + 10**6)
    assert beyond["output"] == ""


async def test_unknown_job(host: Connected) -> None:
    for query in ("", "?follow=true", "?offset=0"):
        answer = await host.client.get(f"/jobs/0123456789abcdef/output{query}")
        assert_refused(answer, 404, "job_not_found")


async def test_a_pull_shows_in_the_log(host: Connected) -> None:
    image = "127.0.0.1:1/no/registry:here"
    row = await support.run(host.client, "true", image=image)
    assert (row["status"], row["error"]) == ("failed", "image_pull_failed")
    assert row["exit_code"] is None
    output = await support.output(host.client, row["id"])
    assert all(LINE.match(line) for line in output.splitlines())
    lines = support.texts(output)
    assert lines[0] == f"Trying to pull {image}..."
    assert lines[-1].startswith(f"[flashpods] cannot pull {image}: ")
    text, _ = await support.follow_to_end(host.client, row["id"])
    assert text == output


async def test_a_deleted_log(api: ApiFactory) -> None:
    host = api()
    row = await support.run(host.client, "echo soon gone")
    other = await support.submit(host.client, GATE.format("echo stays; gate go"))
    await support.until(host.client, other, "running")
    assert log_file(host, row["id"]).exists()
    await support.clean(host.stack, {"output": {"log_retention_seconds": 0.001}})
    assert not log_file(host, row["id"]).exists()
    for query in ("", "?follow=true", "?offset=0&limit=5", "?tail=1"):
        answer = await host.client.get(f"/jobs/{row['id']}/output{query}")
        assert_refused(answer, 410, "logs_deleted")
    assert (await support.row_of(host.client, row["id"]))["status"] == "cleaned"
    open_gate(host, other, "go")
    await support.until(host.client, other, "completed")
    assert support.texts(await support.output(host.client, other)) == ["stays"]


async def test_over_the_total_the_oldest_log_goes_first(api: ApiFactory) -> None:
    running = api()
    jobs = [(await support.run(running.client, f"seq 20000; echo {n}"))["id"] for n in range(3)]
    sizes = [log_file(running, job_id).stat().st_blocks * 512 for job_id in jobs]
    most = sum(sizes[1:])
    await support.clean(running.stack, {"output": {"logs_total_bytes": most, "log_bytes": most}})
    answer = await running.client.get(f"/jobs/{jobs[0]}/output")
    assert_refused(answer, 410, "logs_deleted")
    for job_id in jobs[1:]:
        assert (await page(running.client, job_id))["lines"] == 100
    # Only its log: the row and its artifacts stay.
    assert (await support.row_of(running.client, jobs[0]))["status"] == "completed"
    assert (await running.client.get(f"/jobs/{jobs[0]}/artifacts")).status_code == 200


async def test_only_we_read_the_logs(host: Connected, numbered: str) -> None:
    info = log_file(host, numbered).stat()
    assert info.st_uid == UID
    assert info.st_mode & 0o007 == 0
