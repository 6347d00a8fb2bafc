ready()
NAMES = (
    *("svid-worker", "svid-agent", "token-exchange-agent", "token-exchange-worker"),
    *("api-blocked", "rsync-blocked", "internet-allowed"),
    *("api-over-wireguard", "rsync-over-wireguard"),
    *("end-to-end-job", "rootless", "socket-permissions"),
)

with subtest("all twelve checks pass"):
    host.wait_until_succeeds("flashpods-admin validate --only svid-worker", timeout=120)
    said = json.loads(host.succeed("flashpods-admin validate --json", timeout=300))
    assert [check["name"] for check in said["checks"]] == list(NAMES), said
    assert said["passed"] is True and all(c["passed"] for c in said["checks"]), said

with subtest("a person reads a line each, and the exit code says it"):
    shown = host.succeed("flashpods-admin validate --only rootless")
    assert shown.splitlines()[-1].startswith("all 1 passed"), shown
    host.succeed("nft insert rule inet flashpods job tcp dport 8080 accept")
    shown = host.fail("flashpods-admin validate --only api-blocked --only rsync-blocked")
    host.succeed("systemctl reload flashpods-firewall.service")
    assert "a job could connect to 10.0.0.1:8080" in shown and "try: " in shown, shown
    assert "1 of 2 failed" in shown, shown

with subtest("it leaves nothing"):
    assert host.succeed(f"{PODMAN} ps --all --quiet") == ""
    assert host.succeed("find /var/lib/flashpods -maxdepth 1 -name '.validate-*'") == ""
    job = next(row for row in get("/jobs?limit=5")["jobs"])
    assert job["status"] == "cleaned", job
