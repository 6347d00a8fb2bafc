"""What the tests of uploads share: a tree, where it lies on the host, and what its row says."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import support
from running_api import RunningApi
from support import Connected

from flashpods_dev.stack import MiniStack


def small_tree(path: Path) -> Path:
    """Make a tree: 3 files, 12 bytes."""
    (path / "sub").mkdir(parents=True)
    (path / "a").write_text("aaaa")
    (path / "b").write_text("bbbb")
    (path / "sub" / "c").write_text("cccc")
    return path


def transfers(host: Connected | RunningApi, upload_id: str) -> Path:
    return host.settings.paths.transfers / upload_id


def finalized(host: Connected | RunningApi, upload_id: str) -> Path:
    return host.settings.paths.finalized / upload_id


def change_row(stack: MiniStack, sql: str, *values: object) -> None:
    """Change the database behind the API's back: to have time pass, or a hook be lost."""
    with closing(sqlite3.connect(stack.layout.database, timeout=60)) as connection, connection:
        connection.execute(sql, values)


def let_expire(stack: MiniStack, upload_id: str) -> None:
    sql = "UPDATE uploads SET expires_at = '2020-01-01T00:00:00.000Z' WHERE id = ?"
    change_row(stack, sql, upload_id)


async def counted(stack: MiniStack, upload_id: str, column: str, least: int) -> None:
    """Wait until an upload's row has at least that, which the hook counts after the transfer."""
    sql = f"SELECT 1 FROM uploads WHERE id = ? AND {column} >= ?"

    def known() -> bool:
        with closing(sqlite3.connect(stack.layout.database, timeout=60)) as connection:
            return connection.execute(sql, (upload_id, least)).fetchall() != []

    await support.true_soon(known, f"{upload_id} has its {column}")


async def upload_of(client: httpx.AsyncClient, upload_id: str) -> dict[str, Any]:
    answer = await client.get(f"/uploads/{upload_id}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def job_count(client: httpx.AsyncClient) -> int:
    return int((await client.get("/jobs", params={"limit": 1})).json()["total"])


def at(text: str) -> datetime:
    assert text.endswith("Z")
    return datetime.fromisoformat(text)


def lasts(upload: dict[str, Any]) -> timedelta:
    """Return how long an upload may stay unfinished, in whole seconds."""
    seconds = (at(upload["expires_at"]) - at(upload["created_at"])).total_seconds()
    return timedelta(seconds=round(seconds))


def digest(root: Path) -> dict[str, tuple[int, bytes]]:
    """Return what a tree is: mode and content of everything in it."""
    return {
        str(path.relative_to(root)): (
            path.lstat().st_mode,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted(root.rglob("*"))
    }
