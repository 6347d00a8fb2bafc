ready()
count = "i=0; while [ $i -lt 60 ]; do i=$((i+1)); echo line $i; sleep 0.2; done"


def kill(unit: str, signal: str = "KILL") -> None:
    before = host.succeed(f"systemctl show --value -p MainPID {unit}").strip()
    host.succeed(f"systemctl kill --signal={signal} --kill-whom=main {unit}")
    host.wait_until_succeeds(
        f"p=$(systemctl show --value -p MainPID {unit}); test $p -ne 0 && test $p -ne {before}"
    )
    laptop.wait_until_succeeds(f"{curl('-f', API + '/health')} >/dev/null")


with subtest("a job goes on while the API is killed, and no line is lost or doubled"):
    job = submit(count)
    printed(job, "line 5")
    kill("flashpods-api.service")
    printed(job, "line 20")
    kill("flashpods-api.service")
    row = ended(job)
    assert row["status"] == "completed", row
    lines = [line for line in output(job) if line.startswith("line ")]
    assert lines == [f"line {i}" for i in range(1, 61)], lines

with subtest("an API that hangs is killed by the watchdog and comes back; its jobs go on"):
    # As the unit has it, but for the times: nobody waits a minute here.
    place = "/run/systemd/system/flashpods-api.service.d"
    times = "[Service]\\nWatchdogSec=3s\\nTimeoutAbortSec=1s\\n"
    host.succeed(
        f"mkdir -p {place} && printf '{times}' >{place}/watchdog.conf",
        "systemctl daemon-reload && systemctl restart flashpods-api.service",
    )
    try:
        laptop.wait_until_succeeds(f"{curl('-f', API + '/health')} >/dev/null")
        job = submit(count)
        printed(job, "line 5")
        kill("flashpods-api.service", "STOP")  # nobody but systemd ends what stands still
        again = host.succeed("systemctl show --value -p NRestarts flashpods-api.service")
        assert int(again) == 1, again
        row = ended(job)
        assert row["status"] == "completed", row
        lines = [line for line in output(job) if line.startswith("line ")]
        assert lines == [f"line {i}" for i in range(1, 61)], lines
    finally:
        host.succeed(
            f"rm -r {place}", "systemctl daemon-reload && systemctl restart flashpods-api.service"
        )
    laptop.wait_until_succeeds(f"{curl('-f', API + '/health')} >/dev/null")

with subtest("a job goes on while the engine's service is killed"):
    job = submit("echo began; sleep 6; echo over")
    printed(job, "began")
    kill("podman-socket-flashpods.service")
    row = ended(job)
    assert row["status"] == "completed", row
    assert output(job)[-1] == "over", output(job)

with subtest("one whose container is gone fails with its kind"):
    job = submit("echo began; sleep 600")
    printed(job, "began")
    host.succeed("systemctl stop flashpods-api.service")
    host.succeed(f"{PODMAN} rm --force --time=0 job_{job}")
    host.succeed("systemctl start flashpods-api.service")
    laptop.wait_until_succeeds(f"{curl('-f', API + '/health')} >/dev/null")
    row = ended(job)
    assert (row["status"], row["error"]) == ("failed", "container_lost_on_recovery"), row

with subtest("a container of ours that no row knows goes"):
    image = get("/jobs?limit=1")["jobs"][0]["image"]
    host.succeed(
        f"{PODMAN} run --detach --network=none --name=job_00000000deadbeef "
        f"--label=flashpods-job=true --label=flashpods-job-id=00000000deadbeef "
        f"--label=flashpods-job-type=worker {image} sleep 600"
    )
    host.succeed("systemctl restart flashpods-cleanup.service")
    host.wait_until_succeeds(f"! {PODMAN} container exists job_00000000deadbeef")
