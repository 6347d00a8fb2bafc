"""What ``flashpods top`` shows: the chosen job stays, it fits, a host that is away is told."""

from typing import Any

from rich.console import Console, ConsoleDimensions

from flashpods.cli.top_view import Picture, render
from flashpods.client.models import Capacity, JobList

SIZE = {"cpus": 8, "memory_gb": 16}
CAPACITY = Capacity.from_json(
    {
        "host": SIZE,
        "reserved": {"cpus": 2, "memory_gb": 4},
        "available": {"cpus": 6, "memory_gb": 12},
        "reserve": {"cpus": 0, "memory_gb": 0},
        "running_jobs": 1,
        "draining": True,
    }
)


def jobs(*rows: tuple[str, str]) -> JobList:
    items = [{"id": i, "status": s, "type": "worker", "command": f"make {i}"} for i, s in rows]
    return JobList.from_json({"jobs": items, "total": len(items)})


def seen(*rows: tuple[str, str], picture: Picture | None = None) -> Picture:
    picture = picture or Picture(log_lines=10)
    active = [row for row in rows if row[1] == "running"]
    picture.take(CAPACITY, jobs(*active), jobs(*rows), 0.0)
    return picture


def drawn(picture: Picture, height: int = 24, **options: Any) -> list[str]:
    console = Console(width=80, height=height, no_color=True, force_terminal=False)
    with console.capture() as capture:
        console.print(render(picture, ConsoleDimensions(80, height), **options))
    return capture.get().splitlines()


def test_active_jobs_come_first_and_each_once() -> None:
    picture = seen(("new", "completed"), ("old", "running"))
    assert [job.id for job in picture.jobs] == ["old", "new"]
    assert picture.chosen == "old"


def test_the_chosen_job_stays_chosen_while_it_is_listed() -> None:
    picture = seen(("a", "running"), ("b", "running"))
    picture.choose(1)
    assert picture.chosen == "b"
    seen(("c", "running"), ("a", "running"), ("b", "completed"), picture=picture)
    assert picture.chosen == "b"
    picture.choose(99)
    assert picture.chosen == "b"
    picture.choose(-99)
    assert picture.chosen == "c"
    assert seen(picture=picture).chosen is None
    picture.choose(1)


def test_it_fits_the_screen() -> None:
    picture = seen(*[(f"job{n:03}", "running") for n in range(50)])
    picture.log.extend(f"line {n}" for n in range(10))
    for height in (14, 24, 60):
        lines = drawn(picture, height)
        assert len(lines) <= height
        assert "line 9" in "\n".join(lines)
    picture.choose(30)
    assert "make job030" in "\n".join(drawn(picture))
    assert "draining" in drawn(picture)[0]


def test_a_host_that_is_away_leaves_the_last_picture() -> None:
    picture = seen(("a", "running"))
    picture.problem = "cannot reach it (host_unreachable)"
    lines = drawn(picture)
    assert "as it was" in lines[0]
    assert "cannot reach it" in lines[0]
    assert "make a" in "\n".join(lines)
    assert "asking the host" in drawn(Picture(log_lines=1))[0]


def test_a_jobs_output_does_not_steer_the_terminal() -> None:
    picture = seen(("a", "running"))
    picture.log.append("\x1b[2J\x1b]0;title\x07[bold]plain")
    text = "\n".join(drawn(picture))
    assert "\x1b" not in text
    assert "[bold]plain" in text
