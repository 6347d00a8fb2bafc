"""The command ``flashpods``: its subcommands, their options and their help.

Only what ``--help`` needs is imported at the top; each command loads the rest when it runs.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Final

import typer

from flashpods.cli.cmd_mcp import mcp

__all__ = ["app", "main"]

EXIT_CODES: Final = """\b
Exit codes:
  0    done; for run: the job's command exited 0
  1    the host refused, or something failed on the way
  2    the command line or the configuration is wrong (check-config: 78)
  3    the host can't be reached
  130  interrupted by ctrl-C

\b
Exit codes of run are the job's own (126 and 127: not executable, not found;
137: killed, out of memory too), and:
  124  the job ran into its timeout
  125  Flashpods failed, not the command: no upload, no container, no answer
  143  the job was cancelled by somebody else

\b
Configuration: ~/.config/flashpods/config.json, and in the environment
  FLASHPODS_API_TOKEN or FLASHPODS_API_TOKEN_FILE, FLASHPODS_HOST, FLASHPODS_PORT,
  FLASHPODS_API_URL, FLASHPODS_RSYNC_URL, FLASHPODS_CONFIG, NO_COLOR"""


def examples(*lines: str) -> str:
    """Return a help text's last paragraph."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


app = typer.Typer(
    name="flashpods",
    help="Run builds, tests and whole agents on your Flashpods host.",
    epilog=examples(
        "flashpods run -- make test            push this directory, run, follow, fetch artifacts",
        "flashpods run --detach -- make bench  print the job's id and leave",
        "flashpods ps                          what runs now",
        "flashpods logs -f JOB                 follow it from anywhere",
        "flashpods kill JOB",
    )
    + "\n\n"
    + EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help: rich would double the time it takes
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, and nothing else there.")]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.")]
Timestamps = Annotated[
    bool,
    typer.Option("--timestamps/--no-timestamps", help="Show when each line was written (UTC)."),
]

# The options of run.
Command = Annotated[
    list[str], typer.Argument(metavar="COMMAND", help="Runs through /bin/sh -c in /work.")
]
Directory = Annotated[
    Path, typer.Option("--dir", "-C", help="The directory to push; it is /work in the job.")
]
NoFiles = Annotated[bool, typer.Option("--no-files", help="Push nothing; /work is empty.")]
Exclude = Annotated[
    list[str] | None,
    typer.Option("--exclude", "-x", help="rsync pattern to leave out; repeatable."),
]
DefaultExclude = Annotated[
    bool,
    typer.Option(
        "--default-exclude/--no-default-exclude",
        help="Leave out .git, node_modules, target, __pycache__, .venv too (configurable).",
    ),
]
Image = Annotated[
    str | None, typer.Option("--image", help="Container image; the host has a default.")
]
Cpus = Annotated[int | None, typer.Option("--cpus", help="CPUs, whole ones.")]
MemoryGb = Annotated[int | None, typer.Option("--memory-gb", help="Memory in GB.")]
TimeoutMinutes = Annotated[
    int | None, typer.Option("--timeout-minutes", help="The job is ended after that.")
]
Project = Annotated[
    str | None,
    typer.Option(
        "--project",
        help="The next push under this name sends only changes. Default: the directory.",
    ),
]
ArtifactsTo = Annotated[
    Path | None,
    typer.Option(
        "--artifacts", help="Where /artifacts comes home. Default: flashpods-artifacts/JOB."
    ),
]
NoArtifacts = Annotated[
    bool, typer.Option("--no-artifacts", help="Leave the artifacts on the host.")
]
Detach = Annotated[
    bool, typer.Option("--detach", "-d", help="Print the job's id and leave it running.")
]
DetachOnInterrupt = Annotated[
    bool, typer.Option("--detach-on-interrupt", help="Ctrl-C leaves the job running.")
]


@app.command(
    epilog=examples(
        "flashpods run -- make test",
        "flashpods run 'npm ci && npm test'         one argument is a shell command line",
        "flashpods run --dir api --exclude '*.log' --image rust:1.80 -- cargo test",
        "flashpods run --cpus 8 --memory-gb 16 --timeout-minutes 90 -- ./build-all",
        "flashpods run --artifacts out -- 'make dist && cp dist/* /artifacts/'",
        "flashpods run --json -- make test | jq .job.exit_code",
    ),
    # What stands behind the command's first word is the command's: `run make -k` needs no `--`.
    context_settings={"allow_interspersed_args": False},
)
def run(
    *,
    command: Command,
    directory: Directory = Path(),
    no_files: NoFiles = False,
    exclude: Exclude = None,
    default_exclude: DefaultExclude = True,
    image: Image = None,
    cpus: Cpus = None,
    memory_gb: MemoryGb = None,
    timeout_minutes: TimeoutMinutes = None,
    project: Project = None,
    artifacts: ArtifactsTo = None,
    no_artifacts: NoArtifacts = False,
    detach: Detach = False,
    detach_on_interrupt: DetachOnInterrupt = False,
    timestamps: Timestamps = True,
    json: Json = False,
) -> None:
    """Push a directory, run a command on it, follow it, fetch its artifacts.

    Exits with the job's exit code. Ctrl-C cancels the job, a second one leaves at once; a closed
    terminal leaves the job running. With --json the job's output goes to stderr.
    """
    from flashpods.cli.run import RunOptions, execute_run  # noqa: PLC0415 - loads httpx

    options = RunOptions(
        command=command[0] if len(command) == 1 else shlex.join(command),
        directory=None if no_files else directory,
        exclude=exclude or [],
        default_exclude=default_exclude,
        image=image,
        cpus=cpus,
        memory_gb=memory_gb,
        timeout_minutes=timeout_minutes,
        project=project,
        artifacts=artifacts,
        fetch_artifacts=not no_artifacts,
        detach=detach,
        detach_on_interrupt=detach_on_interrupt,
        timestamps=timestamps,
    )
    raise typer.Exit(execute_run(options, as_json=json))


@app.command(
    epilog=examples(
        "flashpods ps",
        "flashpods ps --all --limit 100",
        "flashpods ps --status failed --status timed_out",
        "flashpods ps --json | jq -r '.jobs[].id'",
    )
)
def ps(
    status: Annotated[
        list[str] | None, typer.Option("--status", help="Only jobs in this state; repeatable.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many.")] = 20,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Ended jobs too.")] = False,
    json: Json = False,
) -> None:
    """List jobs, newest first; without options those that are active."""
    from flashpods.cli.commands import list_jobs  # noqa: PLC0415 - loads httpx
    from flashpods.cli.session import execute  # noqa: PLC0415

    wanted = status or (["all"] if everything else ["active"])
    raise typer.Exit(execute(lambda c, ui: list_jobs(c, ui, wanted, limit), as_json=json))


@app.command(epilog=examples("flashpods status JOB", "flashpods status JOB --json | jq .status"))
def status(job: JobId, json: Json = False) -> None:
    """Show all of one job: state, limits, warnings, events."""
    from flashpods.cli.commands import show_status  # noqa: PLC0415 - loads httpx
    from flashpods.cli.session import execute  # noqa: PLC0415

    raise typer.Exit(execute(lambda c, ui: show_status(c, ui, job), as_json=json))


@app.command(
    epilog=examples(
        "flashpods logs JOB                    the last 100 lines",
        "flashpods logs --tail 1000 JOB",
        "flashpods logs -f JOB                 all of it, and on until the job has ended",
        "flashpods logs -f --no-timestamps JOB > build.log",
    )
)
def logs(
    job: JobId,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="From the beginning to the job's end.")
    ] = False,
    tail: Annotated[
        int, typer.Option("--tail", "-n", min=1, max=10_000, help="How many lines.")
    ] = 100,
    timestamps: Timestamps = True,
    json: Json = False,
) -> None:
    """Show a job's output.

    With --follow and --json: one object {"text", "cursor"} a line.
    """
    from flashpods.cli.commands import show_logs  # noqa: PLC0415 - loads httpx
    from flashpods.cli.session import execute  # noqa: PLC0415

    raise typer.Exit(
        execute(
            lambda c, ui: show_logs(c, ui, job, follow=follow, tail=tail, timestamps=timestamps),
            as_json=json,
        )
    )


@app.command(epilog=examples("flashpods artifacts JOB", "flashpods artifacts JOB --json"))
def artifacts(job: JobId, json: Json = False) -> None:
    """List what a job left in /artifacts; it is kept for an hour."""
    from flashpods.cli.commands import list_artifacts  # noqa: PLC0415 - loads httpx
    from flashpods.cli.session import execute  # noqa: PLC0415

    raise typer.Exit(execute(lambda c, ui: list_artifacts(c, ui, job), as_json=json))


@app.command(
    epilog=examples(
        "flashpods download JOB app.tar.gz",
        "flashpods download JOB coverage.xml --to reports/",
        "flashpods download JOB site --extract       a directory; without it, site.tar",
    )
)
def download(
    job: JobId,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The artifact's name.")],
    to: Annotated[
        str, typer.Option("--to", help="A directory, or the file to write. Default: here.")
    ] = ".",
    extract: Annotated[bool, typer.Option("--extract", help="Unpack a directory.")] = False,
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


@app.command(epilog=examples("flashpods kill JOB", "flashpods kill JOB && flashpods status JOB"))
def kill(job: JobId, json: Json = False) -> None:
    """End a job: SIGTERM, 10 seconds of grace, SIGKILL; its output is kept."""
    from flashpods.cli.commands import kill_job  # noqa: PLC0415 - loads httpx
    from flashpods.cli.session import execute  # noqa: PLC0415

    raise typer.Exit(execute(lambda c, ui: kill_job(c, ui, job), as_json=json))


@app.command(
    "check-config",
    epilog=examples(
        "flashpods check-config /etc/flashpods/settings.json",
        "flashpods check-config settings.json --json | jq -r .message",
    )
    + "\n\n\b\nExit codes: 0 the settings are good, 78 they are not.",
)
def check_config(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The settings file (JSON).")],
    json: Json = False,
) -> None:
    """Check the host's settings file: keys, values, contradictions. Changes nothing.

    FLASHPODS_SETTINGS__* in the environment override it, as at the host's start.
    """
    from flashpods.check_config import check  # noqa: PLC0415 - the host's side, loads pydantic

    raise typer.Exit(check(file, as_json=json))


app.add_typer(mcp, name="mcp")


def main() -> None:
    """Run the command line; ends the process with its exit code."""
    app(prog_name="flashpods")


if __name__ == "__main__":
    main()
