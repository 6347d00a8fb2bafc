from datetime import UTC, date, datetime, timedelta

BACKUPS = "/var/backups/flashpods"
CARRIER = "restic-backups-flashpods.service"
DONE = "/var/lib/flashpods-elsewhere/done"
CARRIED = f"test {DONE} -nt {BACKUPS}/status.json"  # the newest backup is elsewhere
STAGING = "/var/lib/flashpods/artifacts/.staging"
DATABASE = "/var/lib/flashpods/db/flashpods.db"
ALERTS = "http://127.0.0.1:9090/api/v1/alerts"
GATE = "echo began; while [ ! -e /artifacts/stop ]; do sleep 0.2; done; echo over"


def shown(unit: str, *names: str) -> dict[str, str]:
    """Return some of a unit's properties."""
    said = host.succeed(f"systemctl show -p {','.join(names)} {unit}")
    return dict(line.partition("=")[::2] for line in said.splitlines())


def back_up() -> Any:
    """Run the unit itself, as the timer does, and return what it left for monitoring."""
    host.succeed("systemctl start flashpods-backup.service", timeout=120)
    done = shown("flashpods-backup.service", "Result", "ExecMainStatus", "ActiveState")
    assert done == {"Result": "success", "ExecMainStatus": "0", "ActiveState": "inactive"}, done
    return json.loads(host.succeed(f"cat {BACKUPS}/status.json"))


def listed(kind: str) -> list[str]:
    """Return the names of the backups of the database, or of artifacts and logs."""
    return [b["file"] for b in admin("backup --list")["backups"] if b["kind"] == kind]


def snapshots() -> list[Any]:
    """Return what is kept elsewhere."""
    return list(json.loads(host.succeed("restic-flashpods snapshots --json", timeout=120)))


def metric(name: str, wanted: str) -> None:
    """Return when the host's metric has that value."""
    host.wait_until_succeeds(
        f"curl -sf --max-time 10 http://127.0.0.1:9464/metrics | grep -qxE '{name} {wanted}([.]0)?'"
    )


def holds() -> tuple[str, ...]:
    """Return what a refused restore must not change."""
    return (
        host.succeed("systemctl show --value -p MainPID flashpods-api flashpods-cleanup"),
        host.succeed(f"stat -c '%i %U %a' {DATABASE}"),
        host.succeed("ls -A /var/lib/flashpods/db | grep -v '^[.]cleanup'"),
    )


ready()
host.succeed(f"find {BACKUPS} -type f -delete")  # of a script that failed before this one
# A backup is named after its day (UTC), which must not end amid what is said of one day below.
host.wait_until_succeeds('[ "$(date -u +%H%M)" -lt 2356 ]', timeout=300)

with subtest("the timer is on, for two at night"):
    timer = shown("flashpods-backup.timer", "ActiveState", "Persistent", "Unit")
    assert timer["ActiveState"] == "active" and timer["Persistent"] == "yes", timer
    assert timer["Unit"] == "flashpods-backup.service", timer
    calendar = shown("flashpods-backup.timer", "TimersCalendar")["TimersCalendar"]
    assert "OnCalendar=*-*-* 02:00:00" in calendar, calendar
    said = host.succeed("systemd-analyze calendar '*-*-* 02:00:00'")
    assert "Normalized form: *-*-* 02:00:00" in said and " 02:00:00" in said, said
    assert "02:00:00" in host.succeed("systemctl list-timers --no-pager flashpods-backup.timer")

with subtest("of a night that was missed, the backup is made when the timer starts"):
    stamp = "/var/lib/systemd/timers/stamp-flashpods-backup.timer"
    host.succeed(
        "systemctl stop flashpods-backup.timer",
        f"touch -d '2 days ago' {stamp}",
        "systemctl start flashpods-backup.timer",
    )
    host.wait_until_succeeds(f"jq -e .ok {BACKUPS}/status.json")
    # Not "is-active", which fails of a unit that is still at it; a start would then join that run.
    state = "systemctl show --value -p ActiveState flashpods-backup.service"
    host.wait_until_succeeds(f"{state} | grep -x inactive")

with subtest("run by hand, the unit leaves a copy that is proved to be good"):
    kept = submit("echo kept; echo kept >/artifacts/kept")
    assert ended(kept)["status"] == "completed"
    known = submit(GATE)
    printed(known, "began")
    total = get("/jobs?limit=1")["total"]
    status = back_up()
    assert status["ok"] is True and status["jobs"] == total, (status, total)
    file = f"{BACKUPS}/{status['file']}"
    assert host.succeed(f"stat -c '%U %a' {file}").split() == ["flashpods", "600"]
    said = admin(f"verify {file}")
    assert said["sound"] is True and said["jobs"] == total, said
    archive = status["file"].replace("db-", "files-").replace(".db", ".tar.zst")
    assert listed("db") == [status["file"]] and listed("files") == [archive], admin("backup --list")
    metric("flashpods_backup_ok", "1")

with subtest("a copy of it is on another machine, which can not read it"):
    host.wait_until_succeeds(CARRIED, timeout=120)  # nobody asked for it
    assert [s["paths"] for s in snapshots()][-1] == [BACKUPS]
    laptop.succeed("test -s /srv/flashpods/config && ! grep -raq SQLite /srv/flashpods")
    host.succeed("restic-flashpods restore latest --target /root/elsewhere", timeout=120)
    host.succeed(f"cmp {file} /root/elsewhere{file} && rm -r /root/elsewhere")
    metric("flashpods_backup_elsewhere_timestamp_seconds", "[1-9].*")
    assert admin("status")["backup_elsewhere"]["last_at"]

with subtest("a place that does not answer: the backup is good, and doctor says what is not"):
    laptop.succeed("systemctl stop sshd.service")
    try:
        assert back_up()["ok"] is True
        host.wait_until_succeeds(f"systemctl is-failed --quiet {CARRIER}", timeout=120)
        host.fail(CARRIED)
        findings = {f["code"]: f for f in admin("doctor", code=1)["findings"]}
        assert findings["backup_elsewhere"]["symptom"] == "the last copy elsewhere failed", findings
    finally:
        laptop.succeed("systemctl start sshd.service")
    host.succeed(f"systemctl start {CARRIER}", CARRIED, timeout=120)

with subtest("a copy that was cut off keeps no later one from being made"):
    command = "sleep 99 | $(command -v restic-flashpods) backup --stdin"
    host.succeed(f'systemd-run --unit=cut-off $(command -v sh) -c "{command}"')
    locks = "ls /srv/flashpods/locks | grep -qxE '[0-9a-f]{64}'"
    laptop.wait_until_succeeds(locks)
    host.succeed("systemctl kill --signal=KILL cut-off.service")
    host.wait_until_fails("systemctl is-active --quiet cut-off.service")
    laptop.succeed(locks)
    host.execute("systemctl reset-failed cut-off.service")
    assert back_up()["ok"] is True
    host.wait_until_succeeds(CARRIED, timeout=120)
    laptop.fail(locks)

with subtest("once more on the same day: the new copy takes the old one's place"):
    first = host.succeed(f"stat -c %i {file}")
    made_at = time.monotonic()
    assert back_up()["file"] == status["file"]
    assert host.succeed(f"stat -c %i {file}") != first

with subtest("restored with jobs running: all that was accepted before the backup is there"):
    lost = submit("echo lost; echo lost >/artifacts/lost")
    assert ended(lost)["status"] == "completed"
    unknown = submit(GATE)
    printed(unknown, "began")
    began = time.monotonic()
    said = admin("restore latest")
    laptop.wait_until_succeeds(f"{curl('-f', API + '/capacity')} >/dev/null")
    rto = time.monotonic() - began
    print(
        f"restore: RPO {began - made_at:.1f} s, the age of the backup (daily: at most 24 h); "
        f"RTO {rto:.1f} s, of which the API was away for {said['seconds']:.1f} s"
    )
    assert said["jobs"] == total and said["verified_by"] == "the API's health", said
    assert sorted(said["restarted"]) == ["flashpods-api.service", "flashpods-cleanup.service"]
    row = get(f"/jobs/{kept}")
    assert row["status"] == "completed" and output(kept)[-1] == "kept", row
    (artifact,) = get(f"/jobs/{kept}/artifacts")["artifacts"]
    assert artifact["name"] == "kept", artifact

with subtest(
    "a job that the backup knows goes on, one that it does not is ended and leaves nothing"
):
    assert get(f"/jobs/{known}")["status"] == "running"
    host.succeed(f"touch {STAGING}/{known}/stop")
    assert ended(known)["status"] == "completed"
    assert output(known)[-2:] == ["began", "over"], output(known)
    host.wait_until_succeeds(f"! {PODMAN} container exists job_{unknown}", timeout=120)
    host.succeed("systemctl restart flashpods-cleanup.service")
    for job in (lost, unknown):
        refused("GET", f"/jobs/{job}", None, 404, "job_not_found")
        for left in (f"/var/lib/flashpods/artifacts/{job}", f"/var/log/flashpods/{job}.log"):
            host.wait_until_fails(f"test -e {left}", timeout=120)
    capacity = get("/capacity")
    assert capacity["available"]["cpus"] == capacity["host"]["cpus"], capacity
    run("true")

with subtest("the former database is kept, and leads back"):
    assert admin(f"verify {said['aside']}/flashpods.db")["jobs"] == total + 2

with subtest("a damaged backup is refused, and nothing changes"):
    half = host.succeed(f"stat -c %s {file}")
    host.succeed(
        f"install -m 0600 {file} /root/garbled.db",
        "dd if=/dev/urandom of=/root/garbled.db bs=4096 seek=3 count=3 conv=notrunc status=none",
        f"head -c {int(half) // 2} {file} >/root/cut.db",
        "head -c 100000 /dev/urandom >/root/other.db.zst",
    )
    before = holds()
    for name, code in (
        ("garbled.db", "backup_damaged"),
        ("cut.db", "backup_damaged"),
        ("other.db.zst", "damaged"),
        ("missing.db", "backup_not_found"),
    ):
        assert admin(f"restore /root/{name}", code=1)["error"] == code, name
        assert holds() == before, name
    assert admin("verify /root/garbled.db", code=1)["sound"] is False
    host.succeed("rm /root/garbled.db /root/cut.db /root/other.db.zst")

with subtest("seven days stay, and the newest of each of four weeks; the others go"):
    today = datetime.strptime(status["file"], "db-%Y%m%d.db").replace(tzinfo=UTC).date()
    earlier = [today - timedelta(days=n) for n in range(1, 41)]
    days = " ".join(f"{day:%Y%m%d}" for day in earlier)
    host.succeed(f"for day in {days}; do cp -p {file} {BACKUPS}/db-$day.db; done")
    back_up()
    weeks: dict[tuple[int, int], date] = {}
    for day in [today, *earlier]:
        weeks.setdefault(day.isocalendar()[:2], day)
    stay = {today, *earlier[:6], *list(weeks.values())[:4]}
    wanted = {f"db-{day:%Y%m%d}.db{'' if day == today else '.zst'}" for day in stay}
    found = set(listed("db"))
    assert found == wanted and 8 <= len(found) <= 11, (sorted(found), sorted(wanted))
    oldest = min(found)
    assert admin(f"verify {BACKUPS}/{oldest}")["sound"] is True
    assert admin(f"restore {oldest} --dry-run")["sound"] is True

with subtest("one that fails leaves a failed unit, and monitoring, doctor and status say so"):
    host.wait_until_succeeds(CARRIED, timeout=120)  # and nobody reads there
    carried = host.succeed(f"stat -c %.Y {DONE}")
    host.succeed(f"mount -t tmpfs -o size=2m,mode=0750 tmpfs {BACKUPS}")
    host.succeed(f"chown flashpods:flashpods {BACKUPS}")
    host.fail("systemctl start flashpods-backup.service")
    failed = shown("flashpods-backup.service", "Result", "ExecMainStatus", "ActiveState")
    assert failed == {"Result": "exit-code", "ExecMainStatus": "1", "ActiveState": "failed"}, failed
    journal = host.succeed("journalctl -u flashpods-backup.service -n 20 -o cat --no-pager")
    assert "MB are needed" in journal and "disk_full" in journal, journal
    metric("flashpods_backup_ok", "0")
    by = (
        'any(.data.alerts[]; .labels.alertname == "FlashpodsBackupFailed" and .state != "inactive")'
    )
    host.wait_until_succeeds(f"curl -sSf {ALERTS} | jq -e {shlex.quote(by)} >/dev/null")
    findings = {f["code"]: f for f in admin("doctor", code=1)["findings"]}
    assert "disk_full" in findings["backup_stale"]["cause"], findings
    assert admin("status")["backup"]["error"] == "disk_full"
    assert host.succeed(f"stat -c %.Y {DONE}") == carried  # nothing follows it

with subtest("with room again the next one is good, and the alert ends"):
    host.succeed(f"umount {BACKUPS}")
    assert back_up()["ok"] is True
    metric("flashpods_backup_ok", "1")
    by = 'all(.data.alerts[]; .labels.alertname != "FlashpodsBackupFailed")'
    host.wait_until_succeeds(f"curl -sSf {ALERTS} | jq -e {shlex.quote(by)} >/dev/null")
    host.succeed("test -z \"$(systemctl --failed --no-legend --plain 'flashpods-*')\"")
