"""``ps``, ``status``, ``logs``, ``attach``, ``wait``, ``kill`` and ``top``: options and help."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from flashpods.cli.app import JobId, Json, Timestamps, examples

__all__ = ["register"]

MOST_WAITED: Final = 50  # each holds a connection to the host
Interval = Annotated[
    float, typer.Option("--interval", min=0.2, max=3600, help="Seconds between two looks.")
]
Since = Annotated[
    str | None,
    typer.Option(
        "--since",
        metavar="WHEN",
        help="Only what is younger: 90s, 10m, 2h (ago), a time (UTC: 12:30, 2026-01-31T12:30:00Z), "
        "or @CURSOR of an earlier --json.",
    ),
]


def ps(
    *,
    status: Annotated[
        list[str] | None, typer.Option("--status", help="Only jobs in this state; repeatable.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many.")] = 20,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Ended jobs too.")] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Again and again.")] = False,
    interval: Interval = 2.0,
    json: Json = False,
) -> None:
    """List jobs, newest first; without options those that are active.

    With --watch until ctrl-C; with --json then one list a line, whenever it has changed.
    """
    from flashpods.cli.commands import list_jobs  # noqa: PLC0415 - loads httpx
    from flashpods.cli.session import execute  # noqa: PLC0415
    from flashpods.cli.watch import watch_jobs  # noqa: PLC0415

    wanted = status or (["all"] if everything else ["active"])
    if watch:
        raise typer.Exit(
            execute(lambda c, ui: watch_jobs(c, ui, wanted, limit, interval), as_json=json)
        )
    raise typer.Exit(execute(lambda c, ui: list_jobs(c, ui, wanted, limit), as_json=json))


def status(job: JobId, json: Json = False) -> None:
    """Show all of one job: state, limits, warnings, events."""
    from flashpods.cli.commands import show_status  # noqa: PLC0415 - loads httpx
    from flashpods.cli.session import execute  # noqa: PLC0415

    raise typer.Exit(execute(lambda c, ui: show_status(c, ui, job), as_json=json))


def logs(
    job: JobId,
    *,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="From the beginning to the job's end.")
    ] = False,
    since: Since = None,
    tail: Annotated[
        int, typer.Option("--tail", "-n", min=1, max=10_000, help="How many lines.")
    ] = 100,
    timestamps: Timestamps = True,
    json: Json = False,
) -> None:
    """Show a job's output.

    With --follow or --since, and --json: one object {"text", "cursor"} a line.
    """
    from flashpods.cli.logs import LogOptions, show_logs  # noqa: PLC0415 - loads httpx
    from flashpods.cli.session import execute  # noqa: PLC0415
    from flashpods.cli.since import parse_since  # noqa: PLC0415

    options = LogOptions(
        follow=follow,
        since=None if since is None else parse_since(since),
        tail=tail,
        timestamps=timestamps,
    )
    raise typer.Exit(execute(lambda c, ui: show_logs(c, ui, job, options), as_json=json))


def attach(
    job: JobId, *, since: Since = None, timestamps: Timestamps = True, json: Json = False
) -> None:
    """Follow a job and end as it ends, with its exit code.

    Ctrl-C leaves the job running. With --json its output goes to stderr, the ended job to stdout.
    """
    from flashpods.cli.logs import attach_job  # noqa: PLC0415 - loads httpx
    from flashpods.cli.run import execute_job  # noqa: PLC0415
    from flashpods.cli.since import parse_since  # noqa: PLC0415

    when = None if since is None else parse_since(since)
    raise typer.Exit(
        execute_job(lambda c, ui: attach_job(c, ui, job, when, timestamps=timestamps), as_json=json)
    )


def wait(
    jobs: Annotated[list[str], typer.Argument(metavar="JOB...", help="The jobs' ids.")],
    *,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", min=0, help="Seconds to wait; then exit 4, the jobs go on."),
    ] = None,
    any_job: Annotated[bool, typer.Option("--any", help="Until one of them has ended.")] = False,
    json: Json = False,
) -> None:
    """Wait until jobs have ended; show how.

    Exits with the job's exit code; of several, with the first in their order that is not 0.
    """
    if len(set(jobs)) > MOST_WAITED:
        raise typer.BadParameter(f"{len(set(jobs))} jobs; {MOST_WAITED} at once are the most")
    from flashpods.cli.run import execute_job  # noqa: PLC0415 - loads httpx
    from flashpods.cli.wait import wait_for_jobs  # noqa: PLC0415

    raise typer.Exit(
        execute_job(
            lambda c, ui: wait_for_jobs(c, ui, jobs, timeout=timeout, any_job=any_job),
            as_json=json,
        )
    )


def kill(job: JobId, json: Json = False) -> None:
    """End a job: SIGTERM, 10 seconds of grace, SIGKILL; its output is kept."""
    from flashpods.cli.commands import kill_job  # noqa: PLC0415 - loads httpx
    from flashpods.cli.session import execute  # noqa: PLC0415

    raise typer.Exit(execute(lambda c, ui: kill_job(c, ui, job), as_json=json))


def top(
    interval: Interval = 1.0,
    count: Annotated[
        int | None, typer.Option("--count", min=1, help="So many pictures, then end.")
    ] = None,
    json: Json = False,
) -> None:
    """Show jobs, capacity and the log of a chosen job, live.

    Keys: up and down (or k and j) choose the job, q leaves. Without a terminal, or with --json,
    a picture is printed each time.
    """
    from flashpods.cli.session import execute  # noqa: PLC0415 - loads httpx
    from flashpods.cli.top import show_top  # noqa: PLC0415

    raise typer.Exit(execute(lambda c, ui: show_top(c, ui, interval, count), as_json=json))


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(
        epilog=examples(
            "flashpods ps",
            "flashpods ps --watch",
            "flashpods ps --all --limit 100",
            "flashpods ps --status failed --status timed_out",
            "flashpods ps --json | jq -r '.jobs[].id'",
        )
    )(ps)
    app.command(
        epilog=examples("flashpods status JOB", "flashpods status JOB --json | jq .status")
    )(status)
    app.command(
        epilog=examples(
            "flashpods logs JOB                    the last 100 lines",
            "flashpods logs --tail 1000 JOB",
            "flashpods logs -f JOB                 all of it, and on until the job has ended",
            "flashpods logs -f --since 5m JOB      from five minutes ago on",
            "flashpods logs --since 12:30 JOB      what came after 12:30 UTC until now",
            "flashpods logs -f --no-timestamps JOB > build.log",
        )
    )(logs)
    app.command(
        epilog=examples(
            "flashpods attach JOB", "flashpods attach --since 1m JOB; echo it ended with $?"
        )
    )(attach)
    app.command(
        epilog=examples(
            "flashpods wait JOB && echo good",
            "flashpods wait --timeout 60 JOB1 JOB2",
            "flashpods wait --any JOB1 JOB2 --json | jq -r '.jobs[].status'",
        )
    )(wait)
    app.command(
        epilog=examples("flashpods kill JOB", "flashpods kill JOB && flashpods status JOB")
    )(kill)
    app.command(
        epilog=examples("flashpods top", "flashpods top --json --count 1 | jq .capacity.available")
    )(top)
