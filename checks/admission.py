ready()
size = get("/capacity")["host"]
hold = "while :; do sleep 1; done"

with subtest("more than the host ever has is refused as such, not for now"):
    most = get("/capacity")["host"]
    if most["cpus"] < 8:
        answer = refused(
            "POST",
            "/jobs",
            {"type": "worker", "command": "true", "cpus": most["cpus"] + 1},
            400,
            "invalid_cpus",
        )
        assert str(most["cpus"]) in answer["message"], answer

with subtest("promised is what is granted, and no more than the host has"):
    jobs = []
    while get("/capacity")["available"]["cpus"]:
        jobs.append(submit(hold))
        assert len(jobs) <= size["cpus"]
    for job in jobs:
        until(job, "running")
    answer = refused(
        "POST",
        "/jobs",
        {"type": "worker", "command": "true", "cpus": 1, "memory_gb": 1},
        429,
        "insufficient_resources",
    )
    assert answer["available"]["cpus"] == 0, answer
    assert answer["requested"]["cpus"] == 1, answer
    assert answer["host_capacity"]["cpus"] == size["cpus"], answer
    assert answer["running_jobs"] == len(jobs), answer

with subtest("what a job held is free when it has ended"):
    for job in jobs:
        assert ask("DELETE", f"/jobs/{job}")[0] == 200
    for job in jobs:
        assert ended(job)["status"] == "cancelled"
    assert get("/capacity")["available"]["cpus"] == size["cpus"]
    run("true")

with subtest("two at once do not both get the last CPU"):
    one = {"type": "worker", "command": hold, "cpus": size["cpus"], "memory_gb": 1}
    if size["cpus"] <= 8:
        line = curl(
            "-X POST",
            "-H 'Content-Type: application/json'",
            "-d",
            shlex.quote(json.dumps(one)),
            f"{API}/jobs",
            "-w '\\n%{http_code}\\n'",
            "-o /dev/null",
        )
        said = laptop.succeed(f"for i in 1 2 3 4; do {line} & done; wait").split()
        assert sorted(said) == ["201", "429", "429", "429"], said
        (job,) = (row["id"] for row in get("/jobs?status=active")["jobs"])
        ask("DELETE", f"/jobs/{job}")
        ended(job)
