"""The command line's frame: the application, its exit codes, and the options that commands share.

Only what ``--help`` needs is imported here; each command loads the rest when it runs.
"""

from __future__ import annotations

from typing import Annotated, Final

import typer

from flashpods import __version__

__all__ = ["EXIT_CODES", "JobId", "Json", "Timestamps", "app", "examples"]

EXIT_CODES: Final = """\b
Exit codes:
  0    done; for run, agent, attach and wait: the job's command exited 0
  1    the host refused, or something failed on the way; doctor: a check failed
  2    the command line or the configuration is wrong (check-config: 78)
  3    the host can't be reached
  4    wait: its own --timeout is over, the job goes on
  130  interrupted by ctrl-C

\b
Exit codes of run, agent, attach and wait are the job's own (126 and 127: not
executable, not found; 137: killed, out of memory too), and:
  124  the job ran into its timeout
  125  Flashpods failed, not the command: no upload, no container, no answer
  143  the job was cancelled by somebody else

\b
Configuration: ~/.config/flashpods/config.json, and in the environment
  FLASHPODS_API_TOKEN or FLASHPODS_API_TOKEN_FILE, FLASHPODS_HOST, FLASHPODS_PORT,
  FLASHPODS_API_URL, FLASHPODS_RSYNC_URL, FLASHPODS_CONFIG, NO_COLOR
  `flashpods config init` writes it, `flashpods doctor` tries it."""


def examples(*lines: str) -> str:
    """Return a help text's last paragraph."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


app = typer.Typer(
    name="flashpods",
    help="Run builds, tests and whole agents on your Flashpods host.",
    epilog=examples(
        "flashpods run -- make test            push this directory, run, follow, fetch artifacts",
        "flashpods run --detach -- make bench  print the job's id and leave",
        "flashpods agent -b fix 'Fix issue 7'  a whole agent, on a branch of its own",
        "flashpods ps                          what runs now",
        "flashpods attach JOB                  follow it from anywhere, end as it ends",
        "flashpods apply JOB                   an agent's changes into this directory",
        "flashpods top                         jobs, capacity and logs, live",
        "flashpods doctor                      what is wrong, and what to do",
    )
    + "\n\n"
    + EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help: rich would double the time it takes
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"flashpods {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show it and leave."),
    ] = False,
) -> None:
    """Run builds, tests and whole agents on your Flashpods host."""


def _job_ids(incomplete: str) -> list[str]:
    from flashpods.cli.complete import job_ids  # noqa: PLC0415 - loads httpx

    return job_ids(incomplete)


Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, and nothing else there.")]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.", autocompletion=_job_ids)]
Timestamps = Annotated[
    bool,
    typer.Option("--timestamps/--no-timestamps", help="Show when each line was written (UTC)."),
]
