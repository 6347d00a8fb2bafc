ready()
slow = submit("echo began; while :; do sleep 1; done", timeout_minutes=1)

with subtest("a cancelled job ends, and does not complete"):
    job = submit("trap 'exit 0' TERM; echo began; while :; do sleep 0.1; done")
    printed(job, "began")
    status, answer = ask("DELETE", f"/jobs/{job}")
    assert (status, answer["status"]) == (200, "cancelled"), answer
    row = ended(job)
    assert row["status"] == "cancelled", row

with subtest("one that does not listen to SIGTERM is killed after its grace"):
    job = submit("trap '' TERM; echo began; while :; do sleep 0.1; done")
    printed(job, "began")
    ask("DELETE", f"/jobs/{job}")
    row = ended(job)
    assert (row["status"], row["exit_code"]) == ("cancelled", 137), row

with subtest("what has ended can't be cancelled"):
    refused("DELETE", f"/jobs/{job}", None, 409, "job_already_terminal")

with subtest("a job that runs too long is ended"):
    row = ended(slow, seconds=180)
    assert (row["status"], row["error"]) == ("timed_out", "Job exceeded timeout limit"), row
    assert row["duration_seconds"] >= 60, row

with subtest("no container is left of any of them"):
    host.wait_until_succeeds(f'test -z "$({PODMAN} ps --all --quiet)"')
