"""``flashpods uploads …``: trees on the host, apart from any job."""

from __future__ import annotations

from flashpods.cli import run
from flashpods.cli.bars import upload_bar
from flashpods.cli.session import Ui
from flashpods.cli.terminal import plain
from flashpods.cli.units import human_bytes
from flashpods.client.client import FlashpodsClient
from flashpods.client.models import Upload

__all__ = ["finalize_upload", "push_tree", "remove_upload", "reserve_upload", "show_upload"]


async def push_tree(client: FlashpodsClient, ui: Ui, options: run.PushOptions) -> int:
    """Push a directory; print the upload's id."""
    with upload_bar(ui) as on_progress:
        upload = await run.push_tree(client, ui, options, on_progress)
    if ui.as_json:
        ui.emit({**upload.raw, "base": upload.base, "sent_bytes": upload.sent_bytes})
    else:
        print(upload.upload_id)
    return 0


async def reserve_upload(client: FlashpodsClient, ui: Ui, project: str | None) -> int:
    """Reserve an id; print where to push to."""
    upload = await client.create_upload(project)
    if ui.as_json:
        ui.emit(upload.raw)
    else:
        print(plain(upload.rsync_url or upload.upload_id))
    return 0


async def finalize_upload(client: FlashpodsClient, ui: Ui, upload_id: str) -> int:
    """Finalize a reserved upload."""
    return _tell(ui, await client.finalize(upload_id))


async def show_upload(client: FlashpodsClient, ui: Ui, upload_id: str) -> int:
    """Print an upload."""
    return _tell(ui, await client.get_upload(upload_id))


async def remove_upload(client: FlashpodsClient, ui: Ui, upload_id: str) -> int:
    """Delete an upload."""
    await client.discard_upload(upload_id)
    if ui.as_json:
        ui.emit({"upload_id": upload_id, "deleted": True})
    else:
        ui.note(f"deleted {upload_id}")
    return 0


def _tell(ui: Ui, upload: Upload) -> int:
    if ui.as_json:
        ui.emit(upload.raw)
        return 0
    from flashpods.cli.tables import show_pairs  # noqa: PLC0415 - rich only where it shows

    size = None if upload.size_bytes is None else human_bytes(upload.size_bytes)
    show_pairs(
        ui.console(),
        [
            ("upload", upload.upload_id),
            ("state", upload.state),
            ("project", upload.raw.get("project")),
            ("size", size),
            ("files", upload.file_count),
            ("expires", upload.raw.get("expires_at")),
            ("job", upload.raw.get("job_id")),
        ],
    )
    return 0
