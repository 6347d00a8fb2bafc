"""``run`` and ``agent``: their options and their help."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer

from flashpods.cli.app import Json, Timestamps, examples
from flashpods.cli.options import takes

__all__ = ["register"]

MAX_CONTEXT: Final = 100_000  # characters; the host's limit

Command = Annotated[
    list[str], typer.Argument(metavar="COMMAND", help="Runs through /bin/sh -c in /work.")
]
Directory = Annotated[
    Path, typer.Option("--dir", "-C", help="The directory to push; it is /work in the job.")
]
NoFiles = Annotated[bool, typer.Option("--no-files", help="Push nothing; /work is empty.")]
UploadId = Annotated[
    str | None,
    typer.Option("--upload", help="Push nothing; use what `flashpods uploads push` pushed."),
]
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
Gitignore = Annotated[
    bool | None,
    typer.Option(
        "--gitignore/--no-gitignore",
        help="Leave out what git ignores too. Default: as configured, else not.",
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
ClientJobId = Annotated[
    str | None,
    typer.Option("--client-job-id", help="A UUIDv4: asked for twice with it, there is one job."),
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
Context = Annotated[
    str | None, typer.Option("--context", help="What the agent should know beside its task.")
]
ContextFile = Annotated[
    typer.FileText | None, typer.Option("--context-file", help="The same, from a file; - is stdin.")
]
Branch = Annotated[
    str, typer.Option("--branch", "-b", help="The git branch for its work; made if missing.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """What ``run`` and ``agent`` both take."""

    directory: Directory = Path()
    no_files: NoFiles = False
    upload: UploadId = None
    exclude: Exclude = None
    default_exclude: DefaultExclude = True
    gitignore: Gitignore = None
    project: Project = None
    cpus: Cpus = None
    memory_gb: MemoryGb = None
    timeout_minutes: TimeoutMinutes = None
    client_job_id: ClientJobId = None
    artifacts: ArtifactsTo = None
    no_artifacts: NoArtifacts = False
    detach: Detach = False
    detach_on_interrupt: DetachOnInterrupt = False
    timestamps: Timestamps = True
    json: Json = False


@takes(JobOptions)
def run(*, command: Command, image: Image = None, options: JobOptions) -> None:
    """Push a directory, run a command on it, follow it, fetch its artifacts.

    Exits with the job's exit code. Ctrl-C cancels the job, a second one leaves at once; a closed
    terminal leaves the job running. With --json the job's output goes to stderr.
    """
    line = command[0] if len(command) == 1 else shlex.join(command)
    _execute({"type": "worker", "command": line, "image": image}, options)


@takes(JobOptions)
def agent(
    *,
    task: Annotated[str, typer.Argument(metavar="TASK", help="What the agent is to do.")],
    branch: Branch,
    context: Context = None,
    context_file: ContextFile = None,
    options: JobOptions,
) -> None:
    """Push a repository and have an agent work on it, on a branch of its own.

    The directory goes with its .git, whose origin the agent pushes its branch to. It leaves
    summary.md and changes.patch as artifacts: `flashpods diff JOB`, `flashpods apply JOB`.
    Otherwise as run.
    """
    if context is not None and context_file is not None:
        raise typer.BadParameter("give --context or --context-file, not both")
    if context_file is not None:
        context = context_file.read(MAX_CONTEXT + 1)  # one too many is the host's to refuse
    fields = {"type": "agent", "task": task, "git_branch": branch, "context": context}
    _execute(fields, options, with_git=True)


def _execute(what: dict[str, Any], options: JobOptions, *, with_git: bool = False) -> NoReturn:
    """Run the job of these fields, on the files and within the limits that the options say."""
    from flashpods.cli.run import (  # noqa: PLC0415 - loads httpx
        PushOptions,
        RunOptions,
        execute_run,
    )

    if options.no_files and options.upload:
        raise typer.BadParameter("give --no-files or --upload, not both")
    if options.artifacts is not None and options.no_artifacts:
        raise typer.BadParameter("give --artifacts or --no-artifacts, not both")
    push = None
    if not (options.no_files or options.upload):
        push = PushOptions(
            directory=options.directory,
            exclude=options.exclude or [],
            default_exclude=options.default_exclude,
            with_git=with_git,
            gitignore=options.gitignore,
            project=options.project,
        )
    limits = ("cpus", "memory_gb", "timeout_minutes", "client_job_id")
    job = RunOptions(
        fields={**what, **{name: getattr(options, name) for name in limits}},
        push=push,
        upload_id=options.upload,
        artifacts=options.artifacts,
        fetch_artifacts=not options.no_artifacts,
        detach=options.detach,
        detach_on_interrupt=options.detach_on_interrupt,
        timestamps=options.timestamps,
    )
    raise typer.Exit(execute_run(job, as_json=options.json))


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(
        epilog=examples(
            "flashpods run -- make test",
            "flashpods run 'npm ci && npm test'         one argument is a shell command line",
            "flashpods run --gitignore --exclude '*.log' --image rust:1.80 -- cargo test",
            "flashpods run --cpus 8 --memory-gb 16 --timeout-minutes 90 -- ./build-all",
            "flashpods run --artifacts out -- 'make dist && cp dist/* /artifacts/'",
            "flashpods run --json -- make test | jq .job.exit_code",
        ),
        # What stands behind the command's first word is the command's: `run make -k` needs no `--`.
        context_settings={"allow_interspersed_args": False},
    )(run)
    app.command(
        epilog=examples(
            "flashpods agent --branch fix-7 'Fix issue 7 and add a test'",
            "flashpods agent -b docs --context-file notes.md 'Write the manual' --detach",
            "flashpods agent -b x --no-files 'Update the dependencies'   a clone of the host's URL",
        )
    )(agent)
