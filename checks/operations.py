TOKENS = "/etc/flashpods/api-token"
STAGING = "/var/lib/flashpods/artifacts/.staging"
GATE = "echo began; while [ ! -e /artifacts/stop ]; do sleep 0.2; done; echo over"
# The command line on the host itself, with its token.
CLI = f"FLASHPODS_API_TOKEN_FILE={TOKENS} FLASHPODS_HOST=10.0.0.1 flashpods"


def status_with(token_file: str) -> str:
    """Return the status of a request from the laptop with the token of that file."""
    header = f"-H @<(printf 'Authorization: Bearer %s\\n' \"$(cat {token_file})\")"
    asked = f"curl -s --max-time 20 -o /dev/null -w '%{{http_code}}' {header} {API}/capacity"
    return laptop.succeed(asked).strip()


def finish(job: str) -> None:
    """Let a job that waits go on to its end, which must be a good one."""
    host.succeed(f"touch {STAGING}/{job}/stop")
    row = ended(job)
    assert row["status"] == "completed" and output(job)[-2:] == ["began", "over"], row


ready()
host.succeed("flashpods-admin resume", "flashpods-admin rotate-token --finish")

with subtest("a rotation: both tokens are good during the overlap, and no job ends for it"):
    job = submit(GATE)
    printed(job, "began")
    said = admin("rotate-token --show")
    assert (said["changed"], said["tokens"]) == (True, 2), said["api"]
    laptop.succeed(f"umask 077; cat >/root/new-token <<'EOF'\n{said['token']}\nEOF")
    assert (status_with("/root/new-token"), status_with(TOKEN_FILE)) == ("200", "200")
    assert host.succeed(f"stat -c '%U %a' {TOKENS}; wc -l <{TOKENS}").split() == [
        "root",
        "600",
        "2",
    ]

with subtest("again meanwhile: the same new token, and nothing changes"):
    again = admin("rotate-token --show")
    assert (again["changed"], again["tokens"]) == (False, 2), again["api"]
    assert again["token"] == said["token"]

with subtest("at its end the old one is refused, on the laptop and at the next start"):
    done = admin("rotate-token --finish")
    assert (done["changed"], done["tokens"]) == (True, 1), done
    assert (status_with("/root/new-token"), status_with(TOKEN_FILE)) == ("200", "401")
    refused("GET", "/capacity", None, 401, "invalid_token")
    laptop.succeed(f"install -m 0600 /root/new-token {TOKEN_FILE} && rm /root/new-token")
    assert admin("rotate-token --finish")["changed"] is False
    finish(job)

with subtest("no token is in the journal, nor in an argument"):
    journal = host.succeed("journalctl -u flashpods-api.service -o cat --no-pager")
    words = host.succeed("cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' || true")
    assert "flashpods" in words and len(journal) > 1000, len(journal)
    for token in host.succeed(f"cat {TOKENS}").split():
        assert token not in journal and token not in words

with subtest("drain: new jobs are refused with 503 and Retry-After, and clients can see why"):
    job = submit(GATE)
    printed(job, "began")
    assert admin("drain")["active"] == [job]
    refused("POST", "/jobs", {"type": "worker", "command": "true"}, 503, "service_unavailable")
    asked = curl("-X POST -D - -o /dev/null -H 'Content-Type: application/json'")
    body = shlex.quote(json.dumps({"type": "worker", "command": "true"}))
    head = laptop.succeed(f"{asked} -d {body} {API}/jobs").lower()
    assert " 503 " in head and "\nretry-after: " in head, head
    assert get("/capacity")["draining"] is True and get("/health")["draining"] is True
    assert "draining" in host.succeed(f"{CLI} ps 2>&1")
    assert admin("status")["jobs"]["draining"] is True

with subtest("it holds over a restart; time that is up is exit code 124, and the job goes on"):
    host.succeed("systemctl restart flashpods-api.service")
    laptop.wait_until_succeeds(f"{curl('-f', API + '/capacity')} >/dev/null")
    assert get("/capacity")["draining"] is True
    assert admin("drain --wait --timeout 1s", code=124)["active"] == [job]
    assert get(f"/jobs/{job}")["status"] == "running"

with subtest("what runs comes to its end, and the drain with it"):
    finish(job)
    assert admin("drain --wait --timeout 60s") == {"draining": True, "active": [], "cancelled": []}

with subtest("what outstays --cancel-after is cancelled"):
    assert admin("resume") == {"draining": False, "was_draining": True}
    job = submit(GATE)
    printed(job, "began")
    said = admin("drain --wait --timeout 60s --cancel-after 1s")
    assert said == {"draining": True, "active": [], "cancelled": [job]}, said
    assert ended(job)["status"] == "cancelled"

with subtest("resumed it takes jobs again; twice is no fault"):
    assert admin("resume")["was_draining"] is True
    assert admin("resume")["was_draining"] is False
    run("true")

with subtest("doctor: nothing is wrong with a host that is well"):
    admin("backup")
    admin("clean --older-than 1s")  # jobs that scripts before this one had to fail
    host.wait_until_succeeds("flashpods-admin doctor", timeout=90)
    said = admin("doctor")
    assert said["healthy"] is True and len(said["checks"]) >= 15, said

with subtest("doctor names what is wrong and what to do, exit code 1; status goes on telling"):
    host.succeed("systemctl stop flashpods-api.service flashpods-cleanup.service")
    said = admin("doctor", code=1)
    found = {finding["code"]: finding for finding in said["findings"]}
    assert {"api_down", "unit_down"} <= set(found), found
    assert "systemctl restart flashpods-api.service" in found["api_down"]["remedy"], found
    said = admin("status")
    assert said["api"]["answers"] is False, said
    assert said["units"]["flashpods-cleanup.service"] == "inactive", said

with subtest("mended as it says, nothing is wrong any more"):
    host.succeed("systemctl restart flashpods-api.service flashpods-cleanup.service")
    host.wait_until_succeeds("flashpods-admin doctor", timeout=90)

with subtest("verify: sound is 0, damaged is 1, beside the live services"):
    assert admin("verify")["sound"] is True
    host.succeed(
        "install -m 0600 $(ls /var/backups/flashpods/db-*.db | tail -n 1) /root/garbled.db",
        "dd if=/dev/urandom of=/root/garbled.db bs=4096 seek=3 count=3 conv=notrunc status=none",
    )
    said = admin("verify /root/garbled.db", code=1)
    assert said["sound"] is False and said["problems"], said
    host.succeed("rm /root/garbled.db")
    admin("verify /root/missing.db", code=1)

with subtest("a wrong command line is 2, wrong settings are 78"):
    assert host.execute("flashpods-admin drain --timeout 5s")[0] == 2
    assert host.execute("flashpods-admin no-such-command")[0] == 2
    host.succeed('echo \'{"http": {"prot": 1}}\' >/root/wrong.json')
    said = admin("status --settings /root/wrong.json", code=78)
    assert said["error"] == "invalid_config" and "prot" in said["message"], said
    host.succeed("rm /root/wrong.json")
