"""The command line on the real stack: each command, its ``--json`` by its schema, its code."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from command_line import SECONDS, Done, Laptop, fits

from flashpods_dev.stack import MiniStack

SMALL = ("--cpus", "1", "--memory-gb", "1")
PATCH = """diff --git a/README b/README
--- a/README
+++ b/README
@@ -1 +1 @@
-one
+two
diff --git a/new/file b/new/file
new file mode 100644
--- /dev/null
+++ b/new/file
@@ -0,0 +1 @@
+new
"""


@pytest.fixture
def laptop(shared: MiniStack, tmp_path: Path) -> Laptop:
    return Laptop.of(shared, tmp_path)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A git repository with an ignored file."""
    top = tmp_path / "project"
    top.mkdir()
    (top / "README").write_text("one\n")
    (top / ".gitignore").write_text("*.o\n")
    (top / "big.o").write_text("x" * 100_000)
    git(top, "init", "-q")
    git(top, "add", ".")
    git(top, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "one")
    return top


def git(place: Path, *arguments: str) -> str:
    env = {"PATH": os.environ["PATH"], "HOME": str(place.parent)}
    return subprocess.run(
        ["git", "-C", place, *arguments],
        check=True, capture_output=True, text=True, timeout=SECONDS, env=env,
    ).stdout  # fmt: skip


async def detached(laptop: Laptop, command: str, *words: str) -> str:
    done = await laptop.run("run", "-d", "--no-files", *SMALL, *words, "--", command)
    assert done.code == 0, done
    return done.out.strip()


async def test_run_pushes_follows_fetches_and_ends_as_the_job(
    laptop: Laptop, project: Path
) -> None:
    command = "ls -A; cp README /artifacts/; mkdir /artifacts/d; echo y > /artifacts/d/y; exit 3"
    words = ("--gitignore", *SMALL, "--artifacts", "out", "--json", "--", command)
    done = await laptop.run("run", *words, cwd=project)
    assert done.code == 3, done
    answer = json.loads(done.out)
    fits("run", answer)
    assert answer["exit_code"] == 3
    assert answer["upload"]["file_count"] == 2
    assert (project / "out/README").read_text() == "one\n"
    assert (project / "out/d.tar").stat().st_size > 1024
    left = await laptop.run("run", "-d", "--no-files", *SMALL, "--json", "--", "true")
    assert left.code == 0, left
    fits("run", json.loads(left.out))


async def test_status_logs_and_lists(laptop: Laptop) -> None:
    job = await detached(laptop, "echo first; echo second; touch /artifacts/a")
    waited = await laptop.json("wait", "wait", job)
    assert [row["id"] for row in waited["jobs"]] == [job]
    row = await laptop.json("status", "status", job)
    assert (row["status"], row["exit_code"]) == ("completed", 0)
    assert row["revision"] == "completed"
    listed = await laptop.json("ps", "ps", "--all", "--limit", "5")
    assert job in [row["id"] for row in listed["jobs"]]
    tail = await laptop.json("logs", "logs", "--tail", "1", job)
    assert tail["output"].endswith("second\n")
    for words in (("-f",), ("--since", "1h"), ("-f", "--since", "1h"), ("--since", "@0")):
        piece = await laptop.json("logs", "logs", *words, job)
        assert [line.split("] ")[1] for line in piece["text"].splitlines()] == ["first", "second"]
    later = await laptop.run("logs", "--since", f"@{tail['offset']}", "--no-timestamps", job)
    assert (later.code, later.out) == (0, "second\n")
    assert (await laptop.run("logs", "--since", "2099-01-01T00:00:00Z", job)).out == ""
    assert (await laptop.run("logs", "--since", "noon", job)).code == 2
    await laptop.json("artifacts", "artifacts", job)


async def test_attach_wait_and_kill_have_the_jobs_exit_code(laptop: Laptop) -> None:
    job = await detached(laptop, "echo ready; sleep 600")
    over = await laptop.json("wait", "wait", "--timeout", "0", job, code=4)
    assert over["jobs"][0]["status"] in {"pending", "starting", "running"}
    attached = await laptop.start("attach", "--no-timestamps", job)
    assert attached.stdout is not None
    async with asyncio.timeout(SECONDS):
        assert await attached.stdout.readline() == b"ready\n"
    assert (await laptop.json("kill", "kill", job))["status"] == "cancelled"
    async with asyncio.timeout(SECONDS):
        _, err = await attached.communicate()
    assert attached.returncode in {137, 143}
    assert f"job {job} cancelled" in err.decode()
    assert (await laptop.json("attach", "attach", job, code=attached.returncode))["id"] == job
    good = await detached(laptop, "exit 0")
    both = await laptop.json("wait", "wait", good, job, code=attached.returncode)
    assert [row["id"] for row in both["jobs"]] == [good, job]
    unknown = await laptop.json("error", "wait", good, "0123456789abcdef", code=125)
    assert unknown["error"] == "job_not_found"


async def test_the_first_of_several(laptop: Laptop) -> None:
    long = await detached(laptop, "sleep 600")
    short = await detached(laptop, "exit 5")
    first = await laptop.json("wait", "wait", "--any", long, short, code=5)
    assert [row["id"] for row in first["jobs"]] == [short]
    assert (await laptop.run("kill", long)).code == 0


async def test_artifacts_come_home_and_nowhere_else(laptop: Laptop, tmp_path: Path) -> None:
    job = await detached(
        laptop, "echo data > /artifacts/a; mkdir /artifacts/d; echo y >/artifacts/d/y"
    )
    await laptop.run("wait", job)
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (tmp_path / "a").symlink_to(victim)  # planted where the artifact is to go
    brought = await laptop.json("cp", "cp", f"{job}:a", str(tmp_path / "a"))
    assert brought["path"] == str(tmp_path / "a")
    assert victim.read_text() == "untouched"
    assert not (tmp_path / "a").is_symlink()
    assert (tmp_path / "a").read_text() == "data\n"
    every = await laptop.json("cp", "cp", f"{job}:", "out", "--extract")
    assert [row["name"] for row in every["artifacts"]] == ["a", "d"]
    assert (tmp_path / "out/d/y").read_text() == "y\n"
    got = await laptop.json("download", "download", job, "d", "--to", "x/")
    assert got["path"].endswith("x/d.tar")
    for name in ("../../evil", "/etc/passwd", "..", "a\\b"):
        refused = await laptop.json("error", "download", job, name, code=1)
        assert refused["error"] == "invalid_artifact_name"
    assert (await laptop.json("error", "cp", f"{job}:nope", code=1))[
        "error"
    ] == "artifact_not_found"
    assert (await laptop.run("cp", "no-colon")).code == 2
    assert not [name for _, _, names in os.walk(tmp_path) for name in names if "part" in name]


async def test_an_agents_patch_is_shown_and_applied(laptop: Laptop, project: Path) -> None:
    job = await patch_job(laptop, PATCH)
    shown = await laptop.json("diff", "diff", job)
    assert shown["patch"] == PATCH
    assert [f["path"] for f in shown["files"]] == ["README", "new/file"]
    assert (await laptop.run("diff", job)).out == PATCH
    assert "README" in (await laptop.run("diff", "--stat", job)).out
    checked = await laptop.json("apply", "apply", "--check", job, cwd=project)
    assert checked["applied"] is False
    assert git(project, "status", "--porcelain") == ""
    (project / "deep").mkdir()
    applied = await laptop.json("apply", "apply", job, cwd=project / "deep")  # from within
    assert applied["directory"] == str(project)
    assert (project / "README").read_text() == "two\n"
    assert (project / "new/file").read_text() == "new\n"
    again = await laptop.json("error", "apply", job, code=1, cwd=project)
    assert again["error"] == "patch_does_not_apply"
    assert "README" in again["message"]
    assert "nothing was changed" in again["message"]


async def test_apply_into_a_directory_of_a_repository(laptop: Laptop, project: Path) -> None:
    (project / "sub").mkdir()
    (project / "sub/README").write_text("one\n")
    job = await patch_job(laptop, PATCH)
    await laptop.json("apply", "apply", "-C", "sub", job, cwd=project)
    assert (project / "sub/README").read_text() == "two\n"
    assert (project / "README").read_text() == "one\n"


async def test_what_does_not_apply_is_merged_if_asked(laptop: Laptop, project: Path) -> None:
    (project / "README").write_text("mine\n")
    git(project, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qam", "mine")
    job = await patch_job(laptop, patch_with_blobs(project))
    refused = await laptop.json("error", "apply", job, code=1, cwd=project)
    assert refused["error"] == "patch_does_not_apply"
    assert "--3way" in refused["message"]
    assert (project / "README").read_text() == "mine\n"
    merged = await laptop.json("error", "apply", "--3way", job, code=1, cwd=project)
    assert merged["error"] == "patch_conflicts"
    assert "look for conflict marks" in merged["message"]
    assert "<<<<<<< ours\nmine\n=======\ntwo\n>>>>>>> theirs" in (project / "README").read_text()


def patch_with_blobs(project: Path) -> str:
    """Return the agent's change of the first commit as git writes it: a merge needs its blobs."""
    git(project, "checkout", "-q", "HEAD~", "--", "README")
    (project / "README").write_text("two\n")
    patch = git(project, "diff", "--", "README")
    git(project, "checkout", "-q", "HEAD", "--", "README")
    return patch


async def test_what_is_no_patch_is_told(laptop: Laptop, project: Path, tmp_path: Path) -> None:
    job = await patch_job(laptop, "no patch\n")
    for words in (("diff", "--stat", job), ("apply", job)):
        refused = await laptop.json("error", *words, code=1, cwd=project)
        assert refused["error"] == "git_failed"
        assert "No valid patches" in refused["message"]
    (tmp_path / "empty").mkdir()
    env = {"PATH": str(tmp_path / "empty")}
    refused = await laptop.json("error", "apply", job, code=1, cwd=project, env=env)
    assert refused["error"] == "git_missing"


@pytest.mark.parametrize("name", ["../outside", ".git/hooks/post-checkout", "link/file"])
async def test_a_hostile_patch_changes_nothing(laptop: Laptop, project: Path, name: str) -> None:
    (project / "link").symlink_to("..")
    hostile = PATCH.replace("new/file", name)
    refused = await laptop.json(
        "error", "apply", await patch_job(laptop, hostile), code=1, cwd=project
    )
    assert refused["error"] == "patch_does_not_apply"
    assert (project / "README").read_text() == "one\n"
    assert not (project.parent / "outside").exists()
    assert not (project.parent / "file").exists()
    assert not (project / ".git/hooks/post-checkout").exists()


async def test_a_job_without_a_patch(laptop: Laptop) -> None:
    job = await detached(laptop, "true")
    await laptop.run("wait", job)
    for command in ("diff", "apply"):
        refused = await laptop.json("error", command, job, code=1)
        assert refused["error"] == "artifact_not_found"
    empty = await patch_job(laptop, "")
    assert (await laptop.json("apply", "apply", empty))["files"] == []
    assert "changed nothing" in (await laptop.run("diff", empty)).err


async def patch_job(laptop: Laptop, patch: str) -> str:
    job = await detached(laptop, f"cat > /artifacts/changes.patch <<'E'\n{patch}E\n")
    done = await laptop.run("wait", job)
    assert done.code == 0, done
    return job


async def test_uploads_of_their_own(laptop: Laptop, project: Path) -> None:
    pushed = await laptop.json("uploads push", "uploads", "push", cwd=project)
    upload = pushed["upload_id"]
    shown = await laptop.json("uploads show", "uploads", "show", upload)
    assert shown["state"] == "finalized"
    again = await laptop.json("uploads finalize", "uploads", "finalize", upload)
    assert again["state"] == "finalized"
    done = await laptop.run("run", "--upload", upload, *SMALL, "--no-timestamps", "cat README")
    assert (done.code, done.out) == (0, "one\n")
    used = await laptop.json("error", "uploads", "rm", upload, code=1)
    assert used["error"] == "upload_already_consumed"
    mine = await laptop.json("uploads reserve", "uploads", "reserve", "--project", "p")
    removed = await laptop.json("uploads rm", "uploads", "rm", mine["upload_id"])
    assert removed["deleted"] is True
    unknown = await laptop.json("error", "uploads", "show", "../jobs", code=1)
    assert unknown["error"] == "upload_not_found"


async def well(laptop: Laptop, command: str, field: str) -> Any:
    """Return what ``command --json`` says, asked until all is well.

    On a loaded machine Podman may miss a check's two seconds, and then the host says so.
    """
    end = time.monotonic() + SECONDS
    while True:
        done = await laptop.run(command, "--json")
        answer = json.loads(done.out)
        if answer.get(field) in {True, "healthy"} or time.monotonic() > end:
            assert done.code == 0, done
            fits(command, answer)
            return answer


async def test_the_host(laptop: Laptop) -> None:
    assert (await laptop.json("capacity", "capacity"))["host"]["cpus"] == 32
    assert (await well(laptop, "health", "status"))["status"] == "healthy"
    assert "available" in (await laptop.run("capacity")).out
    await laptop.json("health", "health")
    assert "database" in (await laptop.run("health")).out
    top = await laptop.json("top", "top", "--count", "1")
    assert top["capacity"]["host"]["cpus"] == 32
    assert "flashpods top" in (await laptop.run("top", "--count", "1")).out
    watch = await laptop.start("ps", "--watch", "--all", "--json", "--interval", "0.2")
    assert watch.stdout is not None
    async with asyncio.timeout(SECONDS):
        fits("ps", json.loads(await watch.stdout.readline()))
    watch.kill()
    await watch.communicate()


async def test_the_same_key_makes_one_job(laptop: Laptop) -> None:
    key = ("--client-job-id", "6f0d8b1e-4a0b-4f0e-9d3e-0c1d2e3f4a5b")
    assert await detached(laptop, "sleep 1", *key) == await detached(laptop, "sleep 1", *key)
    other = await laptop.run("run", "-d", "--no-files", *SMALL, *key, "--", "sleep 2")
    assert (other.code, "idempotency_conflict" in other.err) == (125, True)


async def test_doctor(laptop: Laptop) -> None:
    answer = await well(laptop, "doctor", "ok")
    assert answer["ok"] is True
    assert {c["name"]: c["status"] for c in answer["checks"] if c["status"] != "ok"} == {}
    bad = {"FLASHPODS_API_TOKEN": "wrong-token"}
    answer = await laptop.json("doctor", "doctor", code=1, env=bad)
    found = {c["name"]: c for c in answer["checks"]}
    assert found["token"]["status"] == "failed"
    assert "FLASHPODS_API_TOKEN" in found["token"]["message"]
    assert found["rsync daemon"]["status"] == "skipped"
    shown = await laptop.run("doctor", env={"FLASHPODS_API_URL": "http://127.0.0.1:1"})
    assert shown.code == 1
    assert "refuses connections" in shown.out
    assert "systemctl status flashpods-api" in shown.out
    (laptop.home / ".config/flashpods/token").chmod(0o644)
    answer = await laptop.json("doctor", "doctor")
    found = {c["name"]: c for c in answer["checks"]}
    assert found["configuration"]["status"] == "warning"
    assert found["configuration"]["remedy"].startswith("chmod 600 ")


async def test_completion_knows_jobs(laptop: Laptop) -> None:
    job = await detached(laptop, "touch /artifacts/report.xml")
    await laptop.run("wait", job)

    async def offered(words: str, count: int) -> Done:
        variables = {
            "_FLASHPODS_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(count),
        }
        # It has two seconds in which to ask the host, and offers nothing after that.
        end = time.monotonic() + SECONDS
        while not (done := await laptop.run(env=variables)).out and time.monotonic() < end:
            pass
        return done

    assert (await offered("flashpods status ", 2)).out.split()[0] == job
    assert (await offered(f"flashpods download {job} re", 3)).out.split() == ["report.xml"]
    away = Laptop(laptop.home, {**laptop.env, "FLASHPODS_API_URL": "http://127.0.0.1:1"})
    variables = {
        "_FLASHPODS_COMPLETE": "complete_bash",
        "COMP_WORDS": "flashpods kill ",
        "COMP_CWORD": "2",
    }
    silent = await away.run(env=variables)
    assert (silent.out.strip(), silent.err) == ("", "")
