# systemd-analyze(1), security: from 0.0 to 10.0, less is better. Without user namespaces of their
# own, ours hold to 1.5; the others say in their module why they can't.
MOST = {
    "flashpods-token-service.service": 1.5,
    "flashpods-spire-register.service": 1.5,
    "flashpods-firewall.service": 1.5,
    "spire-server.service": 1.5,
    "spire-agent.service": 1.5,
    "flashpods-rsyncd@any.service": 1.5,
    "flashpods-api.service": 3.3,
    "flashpods-cleanup.service": 2.6,
}
LOOSE = ("flashpods-api.service", "flashpods-cleanup.service", "podman-socket-flashpods.service")

ready()

with subtest("no unit is looser than its bound"):
    for unit, most in MOST.items():
        host.succeed(
            f"systemd-analyze security --no-pager --threshold={int(most * 10)} {unit} >/dev/null"
        )

with subtest("what starts containers runs as the engine's user and may not become root's"):
    for unit in LOOSE:
        shown = host.succeed(f"systemctl show -p User,ProtectSystem,Restart {unit}")
        assert "User=flashpods" in shown, shown

with subtest("no process of ours that stays runs as root"):
    units = host.succeed(
        "systemctl list-units --plain --no-legend --state=running 'flashpods-*.service' "
        "'spire-*.service' 'podman-socket-*.service' | cut -d' ' -f1"
    ).split()
    assert len(units) >= 6, units
    for unit in units:
        pid = host.succeed(f"systemctl show --value -p MainPID {unit}").strip()
        user = host.succeed(f"stat -c %U /proc/{pid}").strip()
        assert user != "root" or unit.startswith("flashpods-rsyncd@"), (unit, user)

with subtest("root's rsync, one for each connection, sees no secret and no network"):
    laptop.execute("(exec 3<>/dev/tcp/10.0.0.1/873; timeout 60 cat <&3) >/dev/null 2>&1 &")
    found = "systemctl list-units --plain --no-legend --state=running 'flashpods-rsyncd@*'"
    host.wait_until_succeeds(f"{found} | grep -q .")
    unit = host.succeed(f"{found} | cut -d' ' -f1").split()[0]
    pid = host.succeed(f"systemctl show --value -p MainPID {unit}").strip()
    for path in ("/etc/flashpods/api-token", "/etc/wireguard/private.key", "/var/lib/spire/server"):
        host.succeed(f"test -e {path}")
        host.fail(f"nsenter --target={pid} --mount test -e {path}")
    links = host.succeed(f"nsenter --target={pid} --net ip -o link").splitlines()
    assert [line.split()[1] for line in links] == ["lo:"], links
    host.succeed(f"systemctl stop {unit}")
