ready()
PLACE = "198.18.1.10"  # of the new host
HEALTH = f"{curl('-f', API + '/health')} >/dev/null"
# What the guide's commands name, as it is here.
WORDS = {"build.example.org": PLACE}


def done(command: str, timeout: int = 300) -> str:
    """Type a command of docs/operations.md on the new host."""
    for name, real in WORDS.items():
        command = command.replace(name, real)
    return spare.succeed(command, timeout=timeout)


def carried(path: str) -> list[str]:
    """Return a file of the host, as lines that a shell takes."""
    return host.succeed(f"base64 -w 60000 {path}").split()


def brought(lines: list[str], path: str) -> None:
    """Put it on the new host, as scp does."""
    spare.succeed(
        f": >{path}.b64",
        *(f"echo {line} >>{path}.b64" for line in lines),
        f"umask 077; base64 -d {path}.b64 >{path}; rm {path}.b64",
    )


with subtest("a host works, has a history, and is backed up; its secrets are in a safe"):
    old = submit("echo kept; echo kept >/artifacts/kept")
    history = ended(old)
    running = submit("echo began; while :; do sleep 1; done")
    printed(running, "began")
    # The unit, as each night: what it makes is carried elsewhere.
    host.succeed("systemctl start flashpods-backup.service", timeout=120)
    done_file = "/var/lib/flashpods-elsewhere/done"
    host.wait_until_succeeds(
        f"test {done_file} -nt /var/backups/flashpods/status.json", timeout=120
    )
    newest = host.succeed("ls /var/backups/flashpods/db-*.db | tail -n 1").strip()
    day = newest.rpartition("/db-")[2].removesuffix(".db")
    WORDS["20261126"] = day
    files = f"/var/backups/flashpods/files-{day}.tar.zst"  # logs and artifacts, by the settings
    keys = ("/etc/flashpods/restic-password", "/etc/flashpods/restic-key")
    names = ("/etc/flashpods/api-token", "/etc/flashpods/secrets.json", *keys, newest, files)
    safe = {path: carried(path) for path in names}
    host_key = host.succeed("wg show wg0 public-key").strip()

with subtest("the host is gone; a new one starts with the flake's configuration and nothing else"):
    host.crash()
    began = time.monotonic()
    spare.start()
    spare.wait_for_unit("multi-user.target")
    spare.fail("test -e /etc/flashpods/api-token")
    spare.fail("systemctl is-active --quiet flashpods-api")

with subtest("secrets, and the newest backup with its logs and artifacts, from elsewhere"):
    for path, lines in safe.items():
        brought(lines, f"/root/{path.rpartition('/')[2]}")
    done("install -d -m 0755 /etc/flashpods")
    done("install -m 0600 /root/api-token /root/secrets.json /etc/flashpods/")
    done("install -m 0600 /root/restic-password /root/restic-key /etc/flashpods/")
    done("rm /root/api-token /root/secrets.json /root/restic-password /root/restic-key")
    done("systemctl stop flashpods-backup.timer")
    assert "/var/backups/flashpods" in done("restic-flashpods snapshots")
    done("restic-flashpods restore latest --target /")
    assert spare.succeed(f"stat -c '%U %a' {newest}").split() == ["flashpods", "600"]
    assert newest.rpartition("/")[2] in done("flashpods-admin backup --list")
    done("flashpods-admin restore db-20261126.db --with-files")
    done("systemctl restart flashpods-api flashpods-cleanup flashpods-token-service")
    assert "completed" in spare.succeed(f"flashpods-admin events {old}")

with subtest("the same by hand, of a file that was brought"):
    done("flashpods-admin restore /root/db-20261126.db --with-files")

with subtest("the key of the host that is gone gets the laptop nothing"):
    laptop.succeed(
        f"wg set wg0 peer {host_key} remove",
        f"wg set wg0 peer {host_key} endpoint {PLACE}:51820 allowed-ips 10.0.0.1/32",
    )
    laptop.fail("curl -sf -o /dev/null --max-time 6 http://10.0.0.1:8080/health")
    assert spare.succeed("wg show wg0 latest-handshakes").split()[1] == "0"

with subtest("the new host prints what the laptop needs, and with it the laptop is served"):
    said = done("flashpods-admin laptop --endpoint build.example.org")
    assert host_key not in said
    text = said[said.index("[Interface]") :]
    laptop.succeed(
        "systemctl stop wg-quick-wg0.service",
        f"umask 077; printf %s {shlex.quote(text)} >/root/wg0.conf",
        # In the shell alone: a private key is no argument of any program.
        "text=$(</root/wg0.conf); key=$(</etc/wireguard/private.key); "
        'printf "%s\\n" "${text/LAPTOP_PRIVATE_KEY/$key}" >/root/wg0.conf',
        "wg-quick up /root/wg0.conf",
    )
    laptop.wait_until_succeeds(HEALTH, timeout=120)

with subtest("identity comes from nothing by itself, and the twelve checks pass"):
    done("systemctl start flashpods-backup flashpods-backup.timer")
    done("systemctl start restic-backups-flashpods")
    done("flashpods-admin doctor")
    said = done("flashpods-admin validate")
    assert "all 12 passed" in said, said
    seconds = time.monotonic() - began
    print(f"measured: disaster recovery: {seconds:.0f} s from power-on to twelve passed checks")

with subtest("the history is there: what had ended as it was, what ran has failed with its kind"):
    assert get(f"/jobs/{old}") == history
    row = ended(running)
    assert (row["status"], row["error"]) == ("failed", "container_lost_on_recovery"), row

with subtest("logs and artifacts are there"):
    assert output(old)[-1] == "kept"
    assert laptop.succeed(curl("-f", f"{API}/jobs/{old}/artifacts/kept")) == "kept\n"

with subtest("new jobs run on it"):
    assert run("echo again")[-1] == "again"

with subtest("the lab is as it was"):
    laptop.succeed("wg-quick down /root/wg0.conf", "systemctl start wg-quick-wg0.service")
    spare.shutdown()
    host.start()
    ready()
    assert output(old)[-1] == "kept"
