"""``capacity``, ``health``, ``uploads …`` and the host's own ``check-config``: options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flashpods.cli.app import Json, examples
from flashpods.cli.cmd_run import DefaultExclude, Exclude, Gitignore, Project

__all__ = ["register"]

UploadId = Annotated[str, typer.Argument(metavar="UPLOAD", help="The upload's id.")]

uploads = typer.Typer(
    help="Trees on the host: push one now, use it later with run --upload.",
    epilog=examples(
        "id=$(flashpods uploads push)",
        'flashpods run --upload "$id" -- make test      one upload is for one job',
        "flashpods uploads show UPLOAD",
    ),
    no_args_is_help=True,
    rich_markup_mode=None,
)


def capacity(json: Json = False) -> None:
    """Show the host's size, what jobs hold of it, and what is free."""
    from flashpods.cli.commands import show_capacity  # noqa: PLC0415 - loads httpx
    from flashpods.cli.session import execute  # noqa: PLC0415

    raise typer.Exit(execute(show_capacity, as_json=json))


def health(json: Json = False) -> None:
    """Show whether the host can take and run jobs; a degraded one exits with 1."""
    from flashpods.cli.commands import show_health  # noqa: PLC0415 - loads httpx
    from flashpods.cli.session import execute  # noqa: PLC0415

    raise typer.Exit(execute(show_health, as_json=json))


def push(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="What to push.")] = Path(),
    *,
    exclude: Exclude = None,
    default_exclude: DefaultExclude = True,
    gitignore: Gitignore = None,
    project: Project = None,
    json: Json = False,
) -> None:
    """Push a directory and finalize it; prints the upload's id.

    A job must use it within the hour; a second push of the same project sends only changes.
    """
    from flashpods.cli.run import PushOptions  # noqa: PLC0415 - loads httpx
    from flashpods.cli.session import execute  # noqa: PLC0415
    from flashpods.cli.uploads import push_tree  # noqa: PLC0415

    options = PushOptions(
        directory=directory,
        exclude=exclude or [],
        default_exclude=default_exclude,
        gitignore=gitignore,
        project=project,
    )
    raise typer.Exit(execute(lambda c, ui: push_tree(c, ui, options), as_json=json))


def reserve(project: Project = None, json: Json = False) -> None:
    """Reserve an upload, to push to with an rsync of your own; prints where."""
    from flashpods.cli.session import execute  # noqa: PLC0415 - loads httpx
    from flashpods.cli.uploads import reserve_upload  # noqa: PLC0415

    raise typer.Exit(execute(lambda c, ui: reserve_upload(c, ui, project), as_json=json))


def finalize(upload: UploadId, json: Json = False) -> None:
    """Close a reserved upload to further writing, so that a job can use it."""
    from flashpods.cli.session import execute  # noqa: PLC0415 - loads httpx
    from flashpods.cli.uploads import finalize_upload  # noqa: PLC0415

    raise typer.Exit(execute(lambda c, ui: finalize_upload(c, ui, upload), as_json=json))


def show(upload: UploadId, json: Json = False) -> None:
    """Show an upload: its state, its size, when it expires, the job that has it."""
    from flashpods.cli.session import execute  # noqa: PLC0415 - loads httpx
    from flashpods.cli.uploads import show_upload  # noqa: PLC0415

    raise typer.Exit(execute(lambda c, ui: show_upload(c, ui, upload), as_json=json))


def remove(upload: UploadId, json: Json = False) -> None:
    """Delete an upload that no job uses."""
    from flashpods.cli.session import execute  # noqa: PLC0415 - loads httpx
    from flashpods.cli.uploads import remove_upload  # noqa: PLC0415

    raise typer.Exit(execute(lambda c, ui: remove_upload(c, ui, upload), as_json=json))


def check_config(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The settings file (JSON).")],
    json: Json = False,
) -> None:
    """Check the host's settings file: keys, values, contradictions. Changes nothing.

    FLASHPODS_SETTINGS__* in the environment override it, as at the host's start.
    """
    from flashpods.check_config import check  # noqa: PLC0415 - the host's side, loads pydantic

    raise typer.Exit(check(file, as_json=json))


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(
        epilog=examples("flashpods capacity", "flashpods capacity --json | jq .available.cpus")
    )(capacity)
    app.command(epilog=examples("flashpods health", "flashpods health --json | jq .checks"))(health)
    uploads.command(
        epilog=examples(
            "flashpods uploads push",
            "flashpods uploads push --gitignore --project api services/api",
        )
    )(push)
    uploads.command(
        epilog=examples("flashpods uploads reserve", "flashpods uploads reserve --json | jq .base")
    )(reserve)
    uploads.command(epilog=examples("flashpods uploads finalize UPLOAD"))(finalize)
    uploads.command(epilog=examples("flashpods uploads show UPLOAD"))(show)
    uploads.command("rm", epilog=examples("flashpods uploads rm UPLOAD"))(remove)
    app.add_typer(uploads, name="uploads")
    app.command(
        "check-config",
        epilog=examples(
            "flashpods check-config /etc/flashpods/settings.json",
            "flashpods check-config settings.json --json | jq -r .message",
        )
        + "\n\n\b\nExit codes: 0 the settings are good, 78 they are not.",
    )(check_config)
