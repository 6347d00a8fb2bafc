ready()
SOCKETS = {
    "/run/flashpods/podman.sock": ("660", "flashpods"),
    "/run/flashpods/token.sock": ("660", "flashpods"),
    "/run/spire/sockets/agent.sock": ("777", None),
}
CONNECT = "curl -s -o /dev/null --max-time 5 --unix-socket {} http://x/"


def as_nobody(command: str) -> str:
    return f"setpriv --reuid=65534 --regid=65534 --clear-groups {command}"


with subtest("modes and groups are the contract's"):
    for path, (mode, group) in SOCKETS.items():
        found = host.succeed(f"stat -c '%a %G' {path}").split()
        assert found[0] == mode and group in (None, found[1]), (path, found)
    assert host.succeed("stat -c '%a %U %G' /run/flashpods").split() == ["750", "root", "flashpods"]

with subtest("another user gets at none of them but the Workload API's"):
    for path in ("/run/flashpods/podman.sock", "/run/flashpods/token.sock"):
        host.fail(as_nobody(CONNECT.format(path)))
    host.fail(as_nobody("test -r /run/spire/server/api.sock"))

with subtest("secrets are root's alone"):
    for path in ("api-token", "secrets.json"):
        assert host.succeed(f"stat -c '%a %U' /etc/flashpods/{path}").strip() == "600 root"
        host.fail(as_nobody(f"cat /etc/flashpods/{path}"))
        host.fail(
            f"setpriv --reuid=flashpods --regid=flashpods --clear-groups cat /etc/flashpods/{path}"
        )

with subtest("a job has the two sockets that are for it, and not the engine's"):
    lines = run("ls /run/flashpods /run/spire/sockets; ls -ld /run/spire/server 2>&1 || true")
    assert "token.sock" in lines and "agent.sock" in lines, lines
    assert "podman.sock" not in lines and "api.sock" not in lines, lines

with subtest("the twelve checks say the same"):
    host.succeed("flashpods-admin validate --only socket-permissions --only rootless")
