ready()

with subtest("a job's log and artifacts are there until they are cleaned, then they are gone"):
    job = submit("echo kept; echo kept >/artifacts/kept")
    ended(job)
    assert output(job)[-1] == "kept"
    host.succeed(
        f"setpriv --reuid=flashpods --regid=flashpods --clear-groups "
        f"flashpods-cleanup --config /etc/flashpods/settings.json --job {job}"
    )
    assert get(f"/jobs/{job}")["status"] == "cleaned"
    refused("GET", f"/jobs/{job}/output", None, 410, "logs_deleted")
    refused("GET", f"/jobs/{job}/artifacts", None, 410, "artifacts_deleted")
    host.fail(f"test -e /var/log/flashpods/{job}.log")
    host.fail(f"test -e /var/lib/flashpods/artifacts/{job}")

with subtest("a job that runs is not cleaned"):
    job = submit("while :; do sleep 1; done")
    until(job, "running")
    host.fail(
        f"setpriv --reuid=flashpods --regid=flashpods --clear-groups "
        f"flashpods-cleanup --config /etc/flashpods/settings.json --job {job}"
    )
    ask("DELETE", f"/jobs/{job}")
    ended(job)

with subtest("what no row knows goes: a workspace, artifacts, a log"):
    stray = "00000000cafe0000"
    for place in ("/tmp/flashpods/work", "/var/lib/flashpods/artifacts"):
        host.succeed(f"install -d -o flashpods -g flashpods {place}/{stray}")
    host.succeed(f"install -o flashpods -g flashpods /dev/null /var/log/flashpods/{stray}.log")
    host.succeed("systemctl restart flashpods-cleanup.service")
    for path in (
        f"/tmp/flashpods/work/{stray}",
        f"/var/lib/flashpods/artifacts/{stray}",
        f"/var/log/flashpods/{stray}.log",
    ):
        host.wait_until_fails(f"test -e {path}")

with subtest("the system's cleaning of /tmp leaves uploads and workspaces alone"):
    host.succeed("touch -d '40 days ago' /tmp/flashpods/finalized /tmp/flashpods/work")
    host.succeed("systemd-tmpfiles --clean")
    host.succeed("test -d /tmp/flashpods/finalized && test -d /tmp/flashpods/work")
