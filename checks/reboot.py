ready()

with subtest("a job that was running when the power went has failed with its kind"):
    job = submit("echo began; i=0; while sleep 1; do i=$((i+1)); echo tick $i; done")
    printed(job, "tick 3")
    done = submit("echo kept; echo kept >/artifacts/kept")
    assert ended(done)["status"] == "completed"
    host.crash()
    host.start()
    ready()
    row = ended(job)
    assert (row["status"], row["error"]) == ("failed", "container_lost_on_recovery"), row

with subtest("its log is there but for the last seconds, and what had ended is as it was"):
    assert "began" in output(job)
    assert output(done)[-1] == "kept"
    (artifact,) = get(f"/jobs/{done}/artifacts")["artifacts"]
    assert artifact["name"] == "kept"

with subtest("everything is up, the boundary too, and jobs run"):
    host.wait_until_succeeds("systemctl is-system-running")
    run("true")
    before = counter("job_to_service")
    run("! nc -w 3 10.0.0.1 8080 </dev/null")
    assert counter("job_to_service") > before

with subtest("jobs have their identity again"):
    host.wait_until_succeeds(
        "flashpods-admin validate --only svid-worker --only svid-agent", timeout=120
    )

with subtest("nothing of the dead job holds resources"):
    capacity = get("/capacity")
    assert capacity["available"]["cpus"] == capacity["host"]["cpus"], capacity
    assert host.succeed("ls /tmp/flashpods/work").split() == []
