"""``flashpods-admin pull-images``: images here before the first job needs them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from flashpods.admin.command import (
    EXIT_FAILED,
    EXIT_OK,
    EXIT_USAGE,
    AdminError,
    Command,
    Json,
    SettingsFile,
    execute,
)

if TYPE_CHECKING:
    from flashpods.bootstrap import Adapters
    from flashpods.cli.session import Ui
    from flashpods.config import Settings

__all__ = ["COMMAND"]


def pull_images(
    image: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[IMAGE]...",
            help="Default: those of both types of job, and podman.prepull of the settings.",
        ),
    ] = None,
    json: Json = False,
    settings: SettingsFile = None,
) -> None:
    """Pull images that are not here yet, one after the other.

    Repeated: what is here is not pulled again. Exit code 1: some are not to be had.
    """
    raise typer.Exit(
        execute(lambda ui, s: _pull(ui, s, image or []), as_json=json, settings=settings)
    )


def _pull(ui: Ui, settings: Settings, given: list[str]) -> int:
    from flashpods.admin.opened import with_adapters  # noqa: PLC0415 - the host's side
    from flashpods.errors import Unavailable  # noqa: PLC0415
    from flashpods.jobs.names import valid_image  # noqa: PLC0415
    from flashpods.ports import ImageError  # noqa: PLC0415

    jobs = settings.jobs
    wanted = given or [jobs.worker.image, jobs.agent.image, *settings.podman.prepull]
    for image in wanted:
        if not valid_image(image):
            raise AdminError(
                f"{image!r:.80} is no image; give a reference like python:3.12",
                code="invalid_image",
                exit_code=EXIT_USAGE,
            )
    failed: dict[str, str] = {}

    async def work(adapters: Adapters) -> None:
        async def progress(line: str) -> None:
            ui.note(f"  {line}")

        for image in dict.fromkeys(wanted):
            ui.note(f"{image}:")
            try:
                await adapters.runtime.ensure_image(image, progress)
            except ImageError as e:
                failed[image] = e.code
                ui.note(f"  {e}")
            except Unavailable as e:
                failed[image] = e.code
                ui.note(f"  {e.message}")
            else:
                ui.note("  is here")

    with_adapters(settings, work)
    if ui.as_json:
        here = [image for image in dict.fromkeys(wanted) if image not in failed]
        ui.emit({"present": here, "failed": failed})
    return EXIT_FAILED if failed else EXIT_OK


COMMAND: Final = Command(
    "pull-images",
    pull_images,
    (
        "flashpods-admin pull-images",
        "flashpods-admin pull-images rust:latest node:20 python:3.12 ubuntu:22.04",
    ),
)
