"""The transactions on uploads; each function runs within one, on the writer's connection."""

# ruff: noqa: S608 - only constants of this package are put into SQL; values are bound
from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from flashpods.adapters.sqlite import rows, transfers
from flashpods.adapters.sqlite.connection import to_text
from flashpods.adapters.sqlite.refusals import (
    check_complete,
    check_finalize,
    check_quota,
    finalizing,
    upload_exists,
)
from flashpods.jobs.model import FinalTree, Upload, UploadState
from flashpods.jobs.states import ACTIVE, JobStatus

_BY_ID: Final = f"SELECT {rows.UPLOAD} FROM uploads WHERE id = ?"


def get(connection: sqlite3.Connection, upload_id: str) -> Upload | None:
    """Return the row."""
    row = connection.execute(_BY_ID, (upload_id,)).fetchone()
    return rows.upload(row) if row else None


def in_states(connection: sqlite3.Connection, states: Sequence[str]) -> list[Upload]:
    """Return the uploads in those states, oldest first."""
    sql = (
        f"SELECT {rows.UPLOAD} FROM uploads WHERE state IN (SELECT value FROM json_each(?))"
        " ORDER BY created_at, n"
    )
    return [rows.upload(row) for row in connection.execute(sql, (json.dumps(states),))]


def reserve(
    connection: sqlite3.Connection,
    upload_id: str,
    project: str | None,
    at: datetime,
    expires_at: datetime,
) -> Upload:
    """See :meth:`flashpods.ports.UploadStore.reserve`."""
    made = _insert(connection, upload_id, project, at, expires_at)
    if made is None:
        raise upload_exists(upload_id)
    return made


def adopt(
    connection: sqlite3.Connection, upload_id: str, at: datetime, expires_at: datetime
) -> Upload:
    """See :meth:`flashpods.ports.UploadStore.adopt`."""
    made = _insert(connection, upload_id, None, at, expires_at) or get(connection, upload_id)
    assert made is not None, "either the insert or the read finds the row"
    return made


def _insert(
    connection: sqlite3.Connection,
    upload_id: str,
    project: str | None,
    at: datetime,
    expires_at: datetime,
) -> Upload | None:
    row = connection.execute(
        "INSERT INTO uploads (id, project, state, created_at, expires_at)"
        f" VALUES (?, ?, 'uploading', ?, ?) ON CONFLICT (id) DO NOTHING RETURNING {rows.UPLOAD}",
        (upload_id, project, to_text(at), to_text(expires_at)),
    ).fetchone()
    return rows.upload(row) if row else None


def begin_finalize(connection: sqlite3.Connection, upload_id: str, at: datetime) -> Upload:
    """See :meth:`flashpods.ports.UploadStore.begin_finalize`."""
    check_finalize(
        get(connection, upload_id), upload_id, at, live=transfers.live(connection, upload_id)
    )
    row = connection.execute(
        f"UPDATE uploads SET finalizing_at = ? WHERE id = ? RETURNING {rows.UPLOAD}",
        (to_text(at), upload_id),
    ).fetchone()
    return rows.upload(row)


def abort_finalize(connection: sqlite3.Connection, upload_id: str) -> None:
    """See :meth:`flashpods.ports.UploadStore.abort_finalize`."""
    connection.execute(
        "UPDATE uploads SET finalizing_at = NULL WHERE id = ? AND state = 'uploading'",
        (upload_id,),
    )


def complete_finalize(connection: sqlite3.Connection, upload_id: str, tree: FinalTree) -> Upload:
    """See :meth:`flashpods.ports.UploadStore.complete_finalize`."""
    found = get(connection, upload_id)
    if not check_complete(found, upload_id):
        assert found is not None, "check_complete refuses an unknown upload"
        return found
    (stored,) = connection.execute(
        "SELECT coalesce(sum(size_bytes), 0) FROM uploads WHERE state = 'finalized'"
    ).fetchone()
    check_quota(stored, tree.size_bytes, tree.total_quota_bytes)
    connection.execute("DELETE FROM transfers WHERE upload_id = ?", (upload_id,))
    row = connection.execute(
        "UPDATE uploads SET state = 'finalized', finalizing_at = NULL, finalized_at = ?,"
        f" expires_at = ?, size_bytes = ?, file_count = ? WHERE id = ? RETURNING {rows.UPLOAD}",
        (to_text(tree.at), to_text(tree.expires_at), tree.size_bytes, tree.file_count, upload_id),
    ).fetchone()
    return rows.upload(row)


def expire(connection: sqlite3.Connection, upload_id: str, at: datetime) -> Upload | None:
    """See :meth:`flashpods.ports.UploadStore.expire`; a repeated call returns the row."""
    upload = get(connection, upload_id)
    if upload is None or upload.state is UploadState.EXPIRED:
        return upload
    if upload.state is UploadState.CONSUMED or _held(connection, upload):
        return None
    if finalizing(upload, at) or transfers.live(connection, upload_id):
        return None
    connection.execute("DELETE FROM transfers WHERE upload_id = ?", (upload_id,))
    row = connection.execute(
        "UPDATE uploads SET state = 'expired', expired_at = ?, expires_at = NULL,"
        f" finalizing_at = NULL WHERE id = ? RETURNING {rows.UPLOAD}",
        (to_text(at), upload_id),
    ).fetchone()
    return rows.upload(row)


def _held(connection: sqlite3.Connection, upload: Upload) -> bool:
    """Whether an active job has claimed it."""
    if upload.job_id is None:
        return False
    row = connection.execute("SELECT status FROM jobs WHERE id = ?", (upload.job_id,)).fetchone()
    return row is not None and JobStatus(row[0]) in ACTIVE


def drop_expired(connection: sqlite3.Connection, before: datetime) -> int:
    """See :meth:`flashpods.ports.UploadStore.drop_expired`."""
    text = to_text(before)
    return connection.execute(
        "DELETE FROM uploads WHERE (state = 'expired' AND expired_at < ?)"
        " OR (state = 'consumed' AND consumed_at < ?)",
        (text, text),
    ).rowcount
