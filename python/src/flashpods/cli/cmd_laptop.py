"""``doctor``, ``config …``, ``schema`` and ``completion``: options and help."""

from __future__ import annotations

import os
from enum import Enum
from typing import Annotated

import typer

from flashpods.cli.app import Json, app, examples

__all__ = ["register"]

config = typer.Typer(
    help="This machine's configuration: where the host is, and the token's file.",
    epilog=examples("flashpods config init --host 10.0.0.1", "flashpods config show"),
    no_args_is_help=True,
    rich_markup_mode=None,
)


class Shell(Enum):
    """The shells that there is completion for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def doctor(json: Json = False) -> None:
    """Try all that a job needs, from configuration to clocks; say what is wrong and what to do."""
    from flashpods.cli.doctor import execute_doctor  # noqa: PLC0415 - loads httpx

    raise typer.Exit(execute_doctor(as_json=json))


def init(
    *,
    host: Annotated[str | None, typer.Option("--host", help="The host's name or address.")] = None,
    port: Annotated[int | None, typer.Option("--port", help="Its API's port.")] = None,
    gitignore: Annotated[
        bool | None,
        typer.Option(
            "--gitignore/--no-gitignore", help="Whether pushes leave out what git ignores."
        ),
    ] = None,
    token_stdin: Annotated[
        bool, typer.Option("--token-stdin", help="Read the API token from standard input.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Change what is configured already.")
    ] = False,
    json: Json = False,
) -> None:
    """Write the configuration, and the token to a file beside it that only you can read.

    At a terminal it asks for what is missing. The token is never an argument: every process on
    this machine could read it.
    """
    from flashpods.cli.configure import InitOptions, init_config  # noqa: PLC0415

    options = InitOptions(
        host=host, port=port, gitignore=gitignore, token_stdin=token_stdin, force=force
    )
    raise typer.Exit(init_config(options, as_json=json))


def show(json: Json = False) -> None:
    """Show the configuration that holds, file and environment together; never the token."""
    from flashpods.cli.configure import show_config  # noqa: PLC0415

    raise typer.Exit(show_config(as_json=json))


def schema(
    command: Annotated[
        str | None,
        typer.Argument(metavar="[COMMAND]", help="Such as: ps, or 'uploads show'."),
    ] = None,
) -> None:
    """Print the JSON Schema (2020-12) of what a command prints with --json; without it, all.

    Fields may be added; what is there keeps its name and meaning.
    """
    from flashpods.cli.schemas import print_schema  # noqa: PLC0415

    raise typer.Exit(print_schema(command))


def completion(
    shell: Annotated[Shell, typer.Argument(help="Your shell.")],
) -> None:
    """Print the shell's completion script: commands, options, ids of jobs, names of artifacts."""
    # As click documents it: the variable has the program print its script.
    os.environ["_FLASHPODS_COMPLETE"] = f"source_{shell.value}"
    app(prog_name="flashpods", args=[])


def register(to: typer.Typer) -> None:
    """Add the commands."""
    to.command(epilog=examples("flashpods doctor", "flashpods doctor --json | jq .checks"))(doctor)
    config.command(
        epilog=examples(
            "flashpods config init --host 10.0.0.1",
            "ssh host sudo cat /etc/flashpods/api-token | flashpods config init --token-stdin",
        )
    )(init)
    config.command(epilog=examples("flashpods config show --json"))(show)
    to.add_typer(config, name="config")
    to.command(
        epilog=examples(
            "flashpods schema ps", "flashpods schema 'uploads show'", "flashpods schema"
        )
    )(schema)
    to.command(
        epilog=examples(
            'eval "$(flashpods completion bash)"            in ~/.bashrc',
            'eval "$(flashpods completion zsh)"             in ~/.zshrc, behind compinit',
            "flashpods completion fish | source             in ~/.config/fish/config.fish",
        )
    )(completion)
