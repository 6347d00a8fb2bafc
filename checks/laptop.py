ready()
SMALL = "--cpus 1 --memory-gb 1"
TINY = {"cpus": 1, "memory_gb": 1}
PROJECT = "/root/project"
TUNNEL = "wg-quick-wg0.service"


def flashpods(words: str, *, code: int = 0, settings: str = "") -> str:
    """Run the command on the laptop, hold it to its exit code, return what it printed."""
    line = f'cd {PROJECT}; c=0; {settings} flashpods {words} || c=$?; echo "exit $c"'
    said, _, found = laptop.succeed(line, timeout=180).rstrip().rpartition("exit ")
    assert int(found) == code, (words, found, said)
    return said


def as_json(verb: str, words: str = "", **options: Any) -> Any:
    """Likewise with --json; what it says beside is in /tmp/said."""
    return json.loads(flashpods(f"{verb} --json {words} 2>/tmp/said", **options))


def mcp(*steps: Any, settings: str = "") -> list[Any]:
    """Take the steps in one session of the official client; return the answers, tools first."""
    line = f"cd /root && printf %s {shlex.quote(json.dumps(steps))} | {settings} mcp-session"
    return json.loads(laptop.succeed(line, timeout=280))


def answered(made: Any) -> Any:
    assert not made["failed"], made
    return made["answer"]


def was_refused(made: Any, code: str, *words: str) -> None:
    assert made["failed"] and made["answer"]["error"] == code, made
    assert all(word in made["answer"]["message"] for word in words), made


def checked(answer: Any) -> dict[str, Any]:
    return {check["name"]: check for check in answer["checks"]}


def go(job: str, name: str) -> None:
    """Tell a job that waits for a file in its /artifacts to go on."""
    host.succeed(f"touch /var/lib/flashpods/artifacts/.staging/{job}/{name}")


AGENT = """#!/bin/sh
cat >/dev/null
echo 'thinking about it'
echo 'Good evening, pods' >note
echo 'The greeting is polite now.' >/artifacts/summary.md
"""
git = "git -c user.name=me -c user.email=me@example.org"
laptop.succeed(
    f"rm -rf {PROJECT} /root/out /root/flashpods-artifacts && mkdir -p {PROJECT}/sub",
    f"cd {PROJECT} && echo 'Hello, pods' >note && echo deep >sub/file && echo '*.o' >.gitignore",
    f"cd {PROJECT} && head -c 300000 /dev/urandom >data && head -c 100000 /dev/zero >big.o",
    f"printf %s {shlex.quote(AGENT)} >{PROJECT}/.agent.sh",
    f"cd {PROJECT} && git init -q -b main && git init -q --bare .git/origin.git",
    # Where a job sees it: the tree goes with its .git.
    f"cd {PROJECT} && git remote add origin /work/.git/origin.git && git add .",
    f"cd {PROJECT} && {git} commit -qm Begin && git push -q .git/origin.git main",
)

with subtest("the module's configuration holds, and the token is the user's own"):
    shown = as_json("config show")
    assert shown["file"] == "/etc/flashpods/client.json" and shown["file_exists"], shown
    assert shown["base_url"] == API and shown["token_source"] == TOKEN_FILE, shown
    assert laptop.succeed("stat -Lc %a /etc/flashpods/client.json").strip() in {"444", "644"}
    token = laptop.succeed(f"cat {TOKEN_FILE}").strip()
    laptop.fail(f"grep -q {shlex.quote(token)} /etc/flashpods/client.json")

with subtest("doctor finds nothing wrong"):
    answer = as_json("doctor")
    assert answer["ok"] and not {c["status"] for c in answer["checks"]} & {"failed", "skipped"}, (
        answer
    )
    assert checked(answer)["rsync daemon"]["message"] == "10.0.0.1:873", answer

with subtest("run pushes, follows, brings the artifacts home and ends as its command"):
    command = "cat note sub/file && test ! -e big.o && cp note /artifacts/ && exit 3"
    words = f"--gitignore {SMALL} --artifacts /root/out -- {shlex.quote(command)}"
    answer = as_json("run", words, code=3)
    assert answer["exit_code"] == 3 and answer["job"]["status"] == "failed", answer
    assert laptop.succeed("cat /root/out/note") == "Hello, pods\n"
    said = laptop.succeed("cat /tmp/said")
    assert "] Hello, pods\n" in said and "] deep\n" in said, said
    assert answer["upload"]["file_count"] == 5, answer

with subtest("a second push sends only what changed"):
    first = as_json("uploads push", "--gitignore")
    laptop.succeed(f"echo changed >{PROJECT}/sub/file")
    second = as_json("uploads push", "--gitignore")
    assert second["base"] and second["size_bytes"] > 300_000, second
    assert second["sent_bytes"] < 20_000, second
    said = flashpods(f"run --upload {second['upload_id']} {SMALL} --no-timestamps 'cat sub/file'")
    assert said == "changed\n", said
    flashpods(f"uploads rm {first['upload_id']}")

with subtest("detached jobs are listed, followed, waited for, copied from and ended"):
    command = "echo one; echo two; echo kept >/artifacts/kept"
    job = flashpods(f"run --detach --no-files {SMALL} -- {shlex.quote(command)}").strip()
    assert flashpods(f"logs -f --no-timestamps {job}") == "one\ntwo\n"
    assert as_json("wait", job)["jobs"][0]["status"] == "completed"
    flashpods(f"cp {job}:kept /root/out/copy")
    assert laptop.succeed("cat /root/out/copy") == "kept\n"
    assert [row["name"] for row in as_json("artifacts", job)["artifacts"]] == ["kept"]
    long = flashpods(f"run --detach --no-files {SMALL} -- 'echo began; sleep 600'").strip()
    assert long in {row["id"] for row in as_json("ps")["jobs"]}
    flashpods(f"wait --timeout 1 {long}", code=4)
    printed(long, "began")
    flashpods(f"kill {long}")
    ended(long)
    flashpods(f"attach --no-timestamps {long}", code=get(f"/jobs/{long}")["exit_code"])
    assert as_json("status", long)["status"] == "cancelled"

with subtest("a host whose API is away is told apart, and a follow goes on where it was"):
    command = "; ".join(
        f"echo line {n}; while [ ! -e /artifacts/go{n} ]; do sleep 0.1; done" for n in range(1, 4)
    )
    job = flashpods(f"run --detach --no-files {SMALL} -- {shlex.quote(command)}").strip()
    follow = f"flashpods logs -f --no-timestamps {job} >/tmp/follow 2>/tmp/follow.said"
    laptop.succeed(
        "rm -f /tmp/follow*",
        f"(c=0; {follow} || c=$?; echo $c >/tmp/follow.code) </dev/null >/dev/null 2>&1 &",
    )
    laptop.wait_until_succeeds("grep -q '^line 1$' /tmp/follow")
    host.succeed("systemctl stop flashpods-api.service")
    go(job, "go1")
    answer = as_json("doctor", code=1)
    check = checked(answer)["host"]
    assert "10.0.0.1:8080 refuses connections" in check["message"], answer
    assert "systemctl status flashpods-api" in check["remedy"], answer
    laptop.wait_until_succeeds("grep -q 'trying again' /tmp/follow.said")
    host.succeed("systemctl start flashpods-api.service")
    laptop.wait_until_succeeds("grep -q '^line 2$' /tmp/follow", timeout=90)
    go(job, "go2")
    go(job, "go3")
    laptop.wait_until_succeeds("test -e /tmp/follow.code", timeout=90)
    assert laptop.succeed("cat /tmp/follow.code /tmp/follow") == "0\nline 1\nline 2\nline 3\n"

with subtest("an agent's work comes home as a patch"):
    said = flashpods(f"agent --branch polite {SMALL} --no-timestamps 'Make it polite'")
    assert "thinking about it\n" in said, said
    job = as_json("ps", "--all --limit 1")["jobs"][0]["id"]
    files = as_json("diff", job)["files"]
    assert {file["path"] for file in files} == {"note", "sub/file"}, files
    laptop.succeed(f"cd {PROJECT} && git checkout -q sub/file")
    assert as_json("apply", job)["applied"] is True
    assert laptop.succeed(f"cat {PROJECT}/note") == "Good evening, pods\n"
    assert "patch_does_not_apply" in flashpods(f"apply {job} 2>&1", code=1)

with subtest("a model's session: every tool, over stdio"):
    fail = {"command": "cat note; cp note /artifacts/; echo 'error: on purpose'; exit 4", **TINY}
    files = {"local_path": PROJECT}
    listed, spawned, waited, found, tail, left, here, there, log, *rest = mcp(
        ("spawn_worker", {**fail, "files": files}),
        ("wait_for_job", {"job_id": "$job_id"}),
        ("search_output", {"job_id": "$job_id"}),
        ("get_job_output", {"job_id": "$job_id", "tail": 1}),
        ("get_job_artifacts", {"job_id": "$job_id"}),
        ("download_artifact", {"job_id": "$job_id", "artifact_name": "note"}),
        ("download_artifact", {"job_id": "$job_id", "artifact_name": "note", "save_to": "got/"}),
        ("read", {"uri": "flashpods://jobs/$job_id/log"}),
        ("get_job_status", {"job_id": "$job_id"}),
        ("spawn_many", {"commands": ["echo a", "echo b"], "files": files, **TINY}),
        ("wait_for_many", {"batch_id": "$batch_id"}),
        ("spawn_worker", {"command": "sleep 600", **TINY}),
        ("kill_job", {"job_id": "$job_id"}),
        ("wait_for_job", {"job_id": "$job_id"}),
        ("spawn_sub_agent", {"task": "Go", "git_branch": "mine", "files": files, **TINY}),
        ("wait_for_job", {"job_id": "$job_id"}),
        ("list_jobs", {"limit": 10}),
    )
    status, many, again, _, killed, cancelled, _, agent, jobs = rest
    assert len(listed["answer"]) == 12, listed
    assert answered(spawned)["sent_bytes"] > 0, spawned
    assert (answered(waited)["status"], waited["answer"]["exit_code"]) == ("failed", 4), waited
    assert waited["answer"]["artifacts"] == ["note"], waited
    assert "error: on purpose" in answered(found)["excerpts"][0]["text"], found
    assert "error: on purpose" in answered(tail)["output"], tail
    assert answered(left)["artifacts"][0]["name"] == "note", left
    job = answered(spawned)["job_id"]
    assert answered(here)["path"] == f"/root/flashpods-artifacts/{job}/note", here
    assert answered(there)["path"] == "/root/got/note", there
    assert laptop.succeed("cat /root/got/note") == "Good evening, pods\n"
    assert "Good evening, pods" in answered(log)[0], log
    assert answered(status)["events"][-1]["status"] == "failed", status
    assert answered(again)["counts"] == {"completed": 2} and answered(again)["finished"], (
        many,
        again,
    )
    assert answered(killed)["status"] == "cancelled", killed
    assert answered(cancelled)["status"] == "cancelled", cancelled
    assert answered(agent)["status"] == "completed", agent
    assert "changes.patch" in agent["answer"]["artifacts"], agent
    assert job in {row["job_id"] for row in answered(jobs)["jobs"]}, jobs

with subtest("a model is refused with words that it can act on"):
    _, name, place, unknown, argument = mcp(
        ("download_artifact", {"job_id": job, "artifact_name": "../../etc/passwd"}),
        ("download_artifact", {"job_id": job, "artifact_name": "note", "save_to": "/proc/none/"}),
        ("wait_for_job", {"job_id": "0000000000000000"}),
        ("spawn_worker", {"commando": "true"}),
    )
    was_refused(name, "invalid_artifact_name", "no slash")
    was_refused(place, "invalid_target", "save_to")
    was_refused(unknown, "job_not_found", "list_jobs")
    was_refused(argument, "invalid_arguments", "command")

with subtest("a wrong token is told, with where it came from"):
    wrong = "FLASHPODS_API_TOKEN=of-another-host"
    said = flashpods("ps 2>&1", code=1, settings=wrong)
    assert "FLASHPODS_API_TOKEN" in said and "(invalid_token)" in said, said
    check = checked(as_json("doctor", code=1, settings=wrong))["token"]
    assert check["status"] == "failed" and "/etc/flashpods/api-token" in check["remedy"], check
    was_refused(mcp(("list_jobs", {}), settings=wrong)[1], "invalid_token", "for the user")

with subtest("without the tunnel everybody says so, and what to do"):
    laptop.succeed(f"systemctl stop {TUNNEL}")
    answer = as_json("doctor", code=1)
    found = checked(answer)
    assert found["host"]["status"] == "failed" and "wg-quick up wg0" in found["host"]["remedy"], (
        answer
    )
    assert found["token"]["status"] == found["rsync daemon"]["status"] == "skipped", answer
    said = flashpods("run --no-files true 2>&1", code=125)
    assert "(host_unreachable)" in said and "wg show" in said, said
    was_refused(mcp(("list_jobs", {}))[1], "host_unreachable", "tunnel")
    laptop.succeed(f"systemctl start {TUNNEL}")
    laptop.wait_until_succeeds("flashpods health >/dev/null", timeout=90)
