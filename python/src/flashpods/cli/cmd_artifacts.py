"""``artifacts``, ``download``, ``cp``, ``diff`` and ``apply``: options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flashpods.cli.app import JobId, Json, examples

__all__ = ["register"]

To = Annotated[str, typer.Option("--to", help="A directory, or the file to write. Default: here.")]
Extract = Annotated[bool, typer.Option("--extract", help="Unpack a directory.")]


def _names(context: typer.Context, incomplete: str) -> list[str]:
    from flashpods.cli.complete import artifact_names  # noqa: PLC0415 - loads httpx

    return artifact_names(str(context.params.get("job") or ""), incomplete)


def artifacts(job: JobId, json: Json = False) -> None:
    """List what a job left in /artifacts; it is kept for an hour."""
    from flashpods.cli.commands import list_artifacts  # noqa: PLC0415 - loads httpx
    from flashpods.cli.session import execute  # noqa: PLC0415

    raise typer.Exit(execute(lambda c, ui: list_artifacts(c, ui, job), as_json=json))


def download(
    job: JobId,
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="The artifact's name.", autocompletion=_names),
    ],
    to: To = ".",
    extract: Extract = False,
    json: Json = False,
) -> None:
    """Bring one artifact home, verified by its sha256."""
    from flashpods.cli.commands import download_artifact  # noqa: PLC0415 - loads httpx
    from flashpods.cli.session import execute  # noqa: PLC0415

    raise typer.Exit(
        execute(
            lambda c, ui: download_artifact(c, ui, job, name, to=to, extract=extract),
            as_json=json,
        )
    )


def cp(
    source: Annotated[
        str, typer.Argument(metavar="JOB:[NAME]", help="An artifact; without NAME, all of them.")
    ],
    to: Annotated[str, typer.Argument(metavar="TO", help="A directory, or the file.")] = ".",
    extract: Extract = False,
    json: Json = False,
) -> None:
    """Copy artifacts from a job to here, verified by their sha256."""
    from flashpods.cli.commands import copy_artifacts  # noqa: PLC0415 - loads httpx
    from flashpods.cli.session import execute  # noqa: PLC0415

    job, colon, name = source.partition(":")
    if not colon or not job:
        raise typer.BadParameter(
            f"{source[:80]!r} is not JOB:NAME or JOB:", param_hint="JOB:[NAME]"
        )
    raise typer.Exit(
        execute(
            lambda c, ui: copy_artifacts(c, ui, job, name or None, to=to, extract=extract),
            as_json=json,
        )
    )


def diff(
    job: JobId,
    stat: Annotated[bool, typer.Option("--stat", help="Only which files, and how much.")] = False,
    json: Json = False,
) -> None:
    """Show what an agent changed: its changes.patch."""
    from flashpods.cli.patch import show_diff  # noqa: PLC0415 - loads httpx
    from flashpods.cli.session import execute  # noqa: PLC0415

    raise typer.Exit(execute(lambda c, ui: show_diff(c, ui, job, stat=stat), as_json=json))


def apply(
    job: JobId,
    directory: Annotated[
        Path | None,
        typer.Option("--dir", "-C", help="The tree that was pushed. Default: this repository."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only say whether it would apply.")
    ] = False,
    three_way: Annotated[
        bool, typer.Option("--3way", help="Merge where it does not apply; leaves conflict marks.")
    ] = False,
    json: Json = False,
) -> None:
    """Apply what an agent changed to your tree: all of it, or nothing.

    It is tried first (git apply --check). A path outside of the tree, into .git or through a
    symbolic link is refused, by git itself.
    """
    from flashpods.cli.patch import apply_patch  # noqa: PLC0415 - loads httpx
    from flashpods.cli.session import execute  # noqa: PLC0415

    raise typer.Exit(
        execute(
            lambda c, ui: apply_patch(c, ui, job, directory, check=check, three_way=three_way),
            as_json=json,
        )
    )


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog=examples("flashpods artifacts JOB", "flashpods artifacts JOB --json"))(
        artifacts
    )
    app.command(
        epilog=examples(
            "flashpods download JOB app.tar.gz",
            "flashpods download JOB coverage.xml --to reports/",
            "flashpods download JOB site --extract       a directory; without it, site.tar",
        )
    )(download)
    app.command(
        epilog=examples(
            "flashpods cp JOB:app.tar.gz .",
            "flashpods cp JOB:coverage.xml reports/latest.xml",
            "flashpods cp JOB: out/                     all of them",
        )
    )(cp)
    app.command(
        epilog=examples(
            "flashpods diff JOB", "flashpods diff --stat JOB", "flashpods diff JOB | less -R"
        )
    )(diff)
    app.command(
        epilog=examples(
            "flashpods apply JOB",
            "flashpods apply --check JOB",
            "flashpods apply --3way -C api JOB",
        )
    )(apply)
