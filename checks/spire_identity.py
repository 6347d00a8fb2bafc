ready()
DOMAIN = "spiffe://flashpods.local"
HELPER = "/usr/local/bin/flashpods-token"
helper_source = json.loads(host.succeed("cat /etc/flashpods/settings.json"))["identity"]["helper"]
ENTRIES = "spire-server entry show -socketPath /run/spire/server/api.sock -output json"


def identities() -> None:
    checks = "--only svid-worker --only svid-agent"
    host.wait_until_succeeds(f"flashpods-admin validate {checks}", timeout=120)


with subtest("a worker is a worker, an agent an agent"):
    identities()
    line = run(f"{HELPER} whoami")[-1]
    assert line.split()[0] == f"{DOMAIN}/worker", line

with subtest("a process of the host has no identity"):
    for user in ("root", "flashpods", "nobody"):
        said = host.fail(
            f"setpriv --reuid={user} --clear-groups env "
            f"SPIFFE_ENDPOINT_SOCKET=unix:///run/spire/sockets/agent.sock "
            f"{helper_source} --timeout 2s whoami 2>&1"
        )
        assert "spire_attestation_timeout" in said, said

with subtest("a container that is no job's has none, whatever its labels"):
    image = get("/jobs?limit=1")["jobs"][0]["image"]
    said = host.fail(
        f"{PODMAN} run --rm --network=none --label=flashpods-job-type=agent "
        "-v /run/spire/sockets:/run/spire/sockets:ro "
        f"-v {helper_source}:/helper:ro {image} /helper --timeout 2s whoami 2>&1"
    )
    assert "spire_attestation_timeout" in said, said

with subtest("the server has what is declared and nothing else, also after it was changed by hand"):

    def paths() -> list[str]:
        entries = json.loads(host.succeed(ENTRIES))["entries"]
        found = (entry["spiffe_id"]["path"] for entry in entries)
        return sorted(path for path in found if path != "/host")  # the node's own, by its token

    assert paths() == ["/agent", "/worker"], paths()
    worker = next(
        e
        for e in json.loads(host.succeed(ENTRIES))["entries"]
        if e["spiffe_id"]["path"] == "/worker"
    )
    parent = worker["parent_id"]
    host.succeed(
        "spire-server entry create -socketPath /run/spire/server/api.sock "
        f"-parentID spiffe://flashpods.local{parent['path']} "
        f"-spiffeID {DOMAIN}/intruder -selector docker:label:flashpods-job-type:worker",
        f"spire-server entry delete -socketPath /run/spire/server/api.sock -entryID {worker['id']}",
    )
    assert paths() == ["/agent", "/intruder"], paths()
    host.succeed("systemctl restart flashpods-spire-register.service")
    assert paths() == ["/agent", "/worker"], paths()
    identities()

with subtest("an agent whose data is gone comes back by itself"):
    host.succeed(
        "systemctl stop spire-agent.service",
        "rm -rf /var/lib/spire/agent/*",
        "systemctl start spire-agent.service",
    )
    identities()

with subtest("a server and an agent that are killed come back"):
    host.succeed("systemctl kill --signal=KILL spire-agent.service spire-server.service")
    host.wait_for_unit("spire-server.service")
    identities()
