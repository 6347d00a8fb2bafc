"""Troubles of the database, the disks, cleanup and backup."""

from __future__ import annotations

import json
import shlex
from datetime import UTC, datetime, timedelta
from typing import Final

from oncall import OnCall
from trouble import Trouble, as_said, by_doctor, do, look, on_host

DATABASE: Final = "/var/lib/flashpods/db/flashpods.db"
ARTIFACTS: Final = "/var/lib/flashpods/artifacts"
LOGS: Final = "/var/log/flashpods"
BACKUPS: Final = "/var/backups/flashpods"
SERVICES: Final = "flashpods-api flashpods-cleanup"
HOLDER: Final = (
    f"import sqlite3, time; c = sqlite3.connect('{DATABASE}', isolation_level=None);"
    "c.execute('BEGIN IMMEDIATE'); time.sleep(9999)"
)
# As many rows as make 80 MB, and their end.
SWELL: Final = (
    f"import sqlite3; c = sqlite3.connect('{DATABASE}', timeout=30);"
    "c.execute('CREATE TABLE swollen (x)');"
    "c.executemany('INSERT INTO swollen VALUES (zeroblob(?))', [(1 << 20,)] * 80); c.commit();"
    "c.execute('DROP TABLE swollen'); c.commit(); c.execute('PRAGMA wal_checkpoint(TRUNCATE)')"
)
DAMAGE: Final = (
    f"f = open('{DATABASE}', 'r+b'); size = f.seek(0, 2); f.seek(4096);"
    "f.write(b'\\xff' * (size - 8192))"
)


def as_flashpods(oncall: OnCall, code: str) -> str:
    """Run a piece of Python as the database's owner."""
    said = oncall.host.succeed(f"runuser -u flashpods -- python3 -c {shlex.quote(code)}")
    return str(said)


def sql(oncall: OnCall, statement: str) -> None:
    """Change the database behind the services' back."""
    as_flashpods(
        oncall,
        f"import sqlite3; c = sqlite3.connect('{DATABASE}', timeout=20);"
        f"c.execute({statement!r}); c.commit()",
    )


def damage(oncall: OnCall) -> None:
    """Overwrite all but the first and the last page, after a backup that knows what runs."""
    oncall.host.succeed("flashpods-admin backup", f"systemctl stop {SERVICES}")
    as_flashpods(oncall, DAMAGE)
    oncall.host.succeed(f"systemctl start --no-block {SERVICES}")


def not_served(oncall: OnCall) -> None:
    """Return when the laptop is answered 500, 503, or not at all."""
    oncall._until(lambda: oncall.health()[0] in {0, 500, 503}, "the laptop is served")


def swell(oncall: OnCall) -> None:
    as_flashpods(oncall, SWELL)


def is_large(oncall: OnCall) -> None:
    assert int(oncall.host.succeed(f"stat -c %s {DATABASE}")) > 80 << 20


def small_disk(oncall: OnCall, tree: str) -> None:
    """Put a tree on a file system of 64 MB of its own, with what is in it."""
    oncall.host.succeed(
        f"systemctl stop {SERVICES}",
        f"cp -a {tree} /tmp/kept && mount -t tmpfs -o size=64m small {tree}",
        f"chown --reference=/tmp/kept {tree} && chmod --reference=/tmp/kept {tree}",
        f"cp -a /tmp/kept/. {tree}/ && rm -r /tmp/kept",
        f"systemctl start {SERVICES}",
    )
    oncall._until(lambda: oncall.health()[0] == 200, "not served from the small disk")


def fill_with_artifacts(oncall: OnCall) -> None:
    """Let jobs fill the disk of artifacts: over critical, below the guard."""
    job = oncall.job("head -c 59000000 /dev/zero >/artifacts/big")
    oncall.api.ended(job)
    age(oncall, job, "-1 minute")  # a clean leaves alone what ended within the last 15 s


def remove_largest(oncall: OnCall) -> None:
    """Remove the largest file that the last command listed."""
    files = [line.split(maxsplit=1)[1] for line in oncall.printed.splitlines() if "\t" in line]
    largest = next(name for name in reversed(files) if name.rpartition("/")[2].startswith("core"))
    oncall.run(f"rm {shlex.quote(largest)}")


def large_disk_again(oncall: OnCall, tree: str) -> None:
    """Take the small disk away."""
    oncall.host.succeed(
        f"systemctl stop {SERVICES}",
        f"cp -a {tree} /tmp/kept && umount --lazy {tree} && cp -a /tmp/kept/. {tree}/",
        f"rm -r /tmp/kept && systemctl start {SERVICES}",
    )


def stop_cleanup(oncall: OnCall) -> None:
    """Stop it, and let a day and a half go by for a job that has ended."""
    job = oncall.job("echo late")
    oncall.api.ended(job)
    oncall.host.succeed("systemctl stop flashpods-cleanup")
    age(oncall, job)


def age(oncall: OnCall, job: str, by: str = "-2 days") -> None:
    """Date a job's end back."""
    sql(
        oncall,
        f"UPDATE jobs SET completed_at = strftime('%Y-%m-%dT%H:%M:%fZ', completed_at, '{by}') "
        f"WHERE id = '{job}'",
    )
    oncall.late = job


def keeps_its_log(oncall: OnCall) -> None:
    """See that the log that should be gone is served."""
    row = oncall.api.get(f"/jobs/{oncall.late}")
    assert row["status"] == "completed", row
    assert "late" in oncall.api.get(f"/jobs/{oncall.late}/output")["output"]


def obstruct_cleanup(oncall: OnCall) -> None:
    """Mount something on a job's artifact, so that it can't be removed."""
    job = oncall.job("echo late; mkdir /artifacts/kept; echo x >/artifacts/kept/x")
    oncall.api.ended(job)
    oncall.host.succeed(f"mount -t tmpfs obstacle {ARTIFACTS}/{job}/kept")
    age(oncall, job)


def remove_obstacle(oncall: OnCall) -> None:
    """Unmount what the look at the mounts has shown."""
    assert "Device or resource busy" in oncall.printed
    lines = oncall.printed.splitlines()
    (target,) = {line.split()[0] for line in lines if line.startswith(f"{ARTIFACTS}/")}
    oncall.run(f"umount {shlex.quote(target)}")


def stop_timer(oncall: OnCall) -> None:
    """Stop the timer, and let three nights go by."""
    oncall.host.succeed("systemctl stop flashpods-backup.timer")
    then = (datetime.now(UTC) - timedelta(days=3)).isoformat()
    status = json.loads(oncall.host.succeed(f"cat {BACKUPS}/status.json"))
    text = json.dumps(status | {"finished_at": then, "last_success_at": then})
    oncall.host.succeed(f"cat >{BACKUPS}/status.json <<'EOF'\n{text}\nEOF")


def fail_backup(oncall: OnCall) -> None:
    """Let the backup's disk be too small for a copy, and its hour come."""
    owner = oncall.host.succeed(f"stat -c uid=%u,gid=%g,mode=%a {BACKUPS}").strip()
    oncall.host.succeed(f"mount -t tmpfs -o size=64k,{owner} small {BACKUPS}")
    oncall.host.fail("systemctl start flashpods-backup")


def enlarge(oncall: OnCall) -> None:
    oncall.run(f"mount -o remount,size=512m {BACKUPS}")


def close_elsewhere(oncall: OnCall) -> None:
    """Let the machine that keeps the copies let nobody in, and the backup's hour come."""
    oncall.laptop.succeed("systemctl stop sshd.service")
    oncall.host.succeed("systemctl start flashpods-backup", timeout=120)


def open_elsewhere(oncall: OnCall) -> None:
    oncall.laptop.succeed("systemctl start sshd.service")


TROUBLES: Final = (
    Trouble(
        name="another process locks the database",
        section="database-issues",
        how="a python with BEGIN IMMEDIATE",
        sees="answers 500 or 503",
        make=on_host(f"systemd-run --unit=holder --uid=flashpods python3 -c {shlex.quote(HOLDER)}"),
        seen=lambda oncall: oncall.wait_refused(503),
        code="database_locked",
        says=r"process \d+ holds the write lock .*python3 -c import sqlite3",
        steps=(look(), by_doctor("database_locked", "kill")),
    ),
    Trouble(
        name="the database is damaged",
        section="database-issues",
        how="all pages but the first overwritten, services started",
        sees="an API that does not start and says *damaged*",
        make=damage,
        seen=not_served,
        code="database_damaged",
        says="the database is damaged",
        steps=(look(), do(2)),
    ),
    Trouble(
        name="the database is too large",
        section="database-issues",
        how="80 MB of rows made and dropped",
        sees="much larger than what is in it",
        make=swell,
        seen=is_large,
        code="database_holes",
        says="MB of the database are holes",
        exit_code=0,
        steps=(look(), do(0)),
    ),
    Trouble(
        name="artifacts fill their disk",
        section="disks-fill-up",
        how="a job leaves 59 MB on a tmpfs of 64 MB",
        sees="answers 507",
        prepare=lambda oncall: small_disk(oncall, ARTIFACTS),
        after=lambda oncall: large_disk_again(oncall, ARTIFACTS),
        make=fill_with_artifacts,
        seen=lambda oncall: oncall.wait_refused(507),
        code="disk_full",
        says=r"/var/lib/flashpods/artifacts is [89]\d\.\d % full; new jobs answer 507",
        steps=(look(), do(0, 1)),
    ),
    Trouble(
        name="something else fills the disk of the logs",
        section="disks-fill-up",
        how="a foreign file of 59 MB on a tmpfs of 64 MB",
        sees="answers 507",
        prepare=lambda oncall: small_disk(oncall, LOGS),
        after=lambda oncall: large_disk_again(oncall, LOGS),
        make=on_host(f"head -c 59000000 /dev/zero >{LOGS}/core.4711"),
        seen=lambda oncall: oncall.wait_refused(507),
        code="disk_full",
        says=r"/var/log/flashpods is [89]\d\.\d % full; new jobs answer 507",
        steps=(look(), do(0, 2), as_said("Remove or move it", remove_largest)),
    ),
    Trouble(
        name="cleanup is stopped",
        section="cleanup-falls-behind",
        how="unit stopped, a job's end dated back two days",
        sees="ended jobs that keep logs and artifacts too long",
        make=stop_cleanup,
        seen=keeps_its_log,
        code="cleanup_behind",
        says="1 jobs should have been cleaned by now; .*; [0-9a-f]{16} ended",
        steps=(look(), do()),
    ),
    Trouble(
        name="cleanup fails on an item",
        section="cleanup-falls-behind",
        how="a mount below a job's artifacts, its end dated back two days",
        sees="ended jobs that keep logs and artifacts too long",
        make=obstruct_cleanup,
        seen=lambda oncall: oncall.wait_diagnosed("cleanup_failing"),
        code="cleanup_failing",
        says="each round of cleanup fails on something; the last good one",
        steps=(look(), as_said("unmount it", remove_obstacle), do()),
    ),
    Trouble(
        name="no backup for three days",
        section="backup",
        how="timer stopped, the last success dated back three days",
        sees="`flashpods-admin status` shows an old backup",
        make=stop_timer,
        seen=lambda o: o.host.succeed("flashpods-admin status | grep backup | grep -v $(date +%F)"),
        code="backup_stale",
        says="the last backup is of .*; flashpods-backup.timer is inactive",
        steps=(do(),),
    ),
    Trouble(
        name="the backup fails",
        section="backup",
        how="its disk a tmpfs of 64 kB",
        sees="or a failed one",
        make=fail_backup,
        after=on_host(f"! mountpoint -q {BACKUPS} || umount --lazy {BACKUPS}"),
        seen=lambda o: o.host.succeed("flashpods-admin status | grep 'the last run failed'"),
        code="backup_stale",
        says="the last backup failed; disk_full",
        steps=(as_said("End what it says", enlarge), do()),
    ),
    Trouble(
        name="no copy elsewhere",
        section="backup-elsewhere",
        how="the other machine's sshd stopped",
        sees="`flashpods-admin doctor` says `backup_elsewhere`",
        make=close_elsewhere,
        after=open_elsewhere,
        seen=lambda oncall: oncall.wait_diagnosed("backup_elsewhere"),
        code="backup_elsewhere",
        says="the last copy elsewhere failed",
        steps=(look(), as_said("A place that does not answer", open_elsewhere), do()),
    ),
)
