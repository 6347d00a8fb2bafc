"""``flashpods-admin validate``: whether a live host does what it is for."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from flashpods.admin.command import AdminError, Command, Json, SettingsFile, execute

__all__ = ["COMMAND", "host_and_port"]

Only = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="CHECK", help="Run this check only; repeatable."),
]
Image = Annotated[
    str | None,
    typer.Option("--image", help="Image of the checks' containers. Default: the workers'."),
]
Internet = Annotated[
    str | None,
    typer.Option(
        "--internet",
        metavar="HOST:PORT",
        help="What a job must reach. Default: the first of identity.git_hosts.",
    ),
]
LaptopAway = Annotated[
    bool,
    typer.Option("--laptop-away", help="A laptop that has not shaken hands of late is fine."),
]


def host_and_port(text: str | None) -> tuple[str, int] | None:
    """Read ``--internet``.

    Raises:
        AdminError: ``invalid_internet``.
    """
    if text is None:
        return None
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise AdminError(
            f"--internet is {text!r:.80}; give HOST:PORT, such as example.org:443",
            code="invalid_internet",
            exit_code=2,
        )
    return host.strip("[]"), int(port)


def validate(  # noqa: PLR0917 - typer's way to say options
    only: Only = None,
    image: Image = None,
    internet: Internet = None,
    laptop_away: LaptopAway = False,
    json: Json = False,
    settings: SettingsFile = None,
) -> None:
    """Ask this host the twelve questions that say whether it works and is safe.

    Identity and secrets of both types of job; API and rsync closed to jobs, the internet open; API
    and rsync open to the laptop; a job from end to end; rootless; sockets closed. Takes well under
    a minute. Leaves nothing: containers, uploads and output of its own are removed, also when it is
    interrupted; the one job stays in the history.
    """
    from flashpods.admin.validation.host import Choices  # noqa: PLC0415 - the host's side
    from flashpods.admin.validation.suite import run  # noqa: PLC0415

    raise typer.Exit(
        execute(
            lambda ui, read: run(
                ui,
                read,
                Choices(
                    image=image,
                    internet=host_and_port(internet),
                    laptop_away=laptop_away,
                    settings_file=settings,
                ),
                only or (),
            ),
            as_json=json,
            settings=settings,
        )
    )


COMMAND: Final = Command(
    "validate",
    validate,
    (
        "flashpods-admin validate",
        "flashpods-admin validate --only api-blocked --only rsync-blocked",
        "flashpods-admin validate --json | jq -r '.checks[] | select(.passed | not).name'",
    ),
)
