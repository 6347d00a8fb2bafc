import uuid

ready()

with subtest("a job runs and says what it printed, exit code 0"):
    job = submit("echo hello; id -u; ls -d /work /artifacts")
    row = ended(job)
    assert (row["status"], row["exit_code"], row["error"]) == ("completed", 0, None), row
    assert output(job)[-4:] == ["hello", "900", "/artifacts", "/work"], output(job)

with subtest("every change of its state is an event"):
    states = [event["to"] for event in row["events"]]
    assert states == ["pending", "starting", "running", "completed"], row["events"]

with subtest("exit codes are the shell's"):
    for command, code in (("exit 3", 3), ("/no/such/program", 127), ("kill -9 $$", 137)):
        row = ended(submit(command))
        assert (row["status"], row["exit_code"]) == ("failed", code), row

with subtest("one key makes one job, another body with it is refused"):
    body = {"type": "worker", "command": "true", "client_job_id": str(uuid.uuid4())}
    first, again = ask("POST", "/jobs", body), ask("POST", "/jobs", body)
    assert (first[0], again[0]) == (201, 200)
    assert first[1]["job_id"] == again[1]["job_id"]
    refused("POST", "/jobs", {**body, "command": "false"}, 409, "idempotency_conflict")
    ended(first[1]["job_id"])

with subtest("bad requests are refused with their kind"):
    refused("POST", "/jobs", {"type": "root"}, 400, "invalid_job_type")
    refused("POST", "/jobs", {"type": "worker"}, 400, "missing_command")
    refused("POST", "/jobs", {"type": "worker", "command": "true", "x": 1}, 400, "invalid_request")
    refused("GET", "/jobs/0000000000000000", None, 404, "job_not_found")
    status = laptop.succeed(f"curl -s -o /dev/null -w '%{{http_code}}' {API}/jobs").strip()
    assert status == "401", status

with subtest("nothing of a job is left on the host but its output"):
    host.wait_until_succeeds(f'test -z "$({PODMAN} ps --all --quiet)"')
    assert host.succeed("ls /tmp/flashpods/work").split() == []
