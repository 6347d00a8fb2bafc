import itertools
import re

ready()
FIRST = host.succeed("readlink -f /run/current-system").strip()
NEXT = host.succeed(f"readlink -f {FIRST}/specialisation/next").strip()
COPIES = "/var/lib/flashpods/db/before-upgrade"
UNITS = ("flashpods-api", "flashpods-cleanup", "flashpods-token-service", "spire-agent")
CLIENT = f"FLASHPODS_API_URL={API} FLASHPODS_API_TOKEN_FILE={TOKEN_FILE}"
# It asks for its token before and after, counts as long as it is let, and says how far it came.
EXCHANGE = "/usr/local/bin/flashpods-token --timeout 60s get GITHUB_TOKEN >/dev/null && echo token"
COUNT = (
    f"{EXCHANGE}; i=0; while [ ! -e /artifacts/go ]; do i=$((i+1)); echo line $i; sleep 0.1; done; "
    f"echo last $i; {EXCHANGE}"
)


def laptop_unit(name: str, command: str) -> None:
    laptop.succeed(
        f'systemd-run --quiet --collect --unit={name} --setenv=PATH="$PATH" --setenv=HOME=/root '
        f"$(printf -- '--setenv=%s ' {CLIENT}) bash -c {shlex.quote(command)}"
    )


def container(job: str) -> str:
    facts = "{{.Id}} {{.State.Pid}} {{.State.StartedAt}}"
    return host.succeed(f"{PODMAN} inspect --format '{facts}' job_{job}").strip()


def pids() -> list[str]:
    return host.succeed(f"systemctl show --value -p MainPID {' '.join(UNITS)}").split()


def switch(generation: str) -> None:
    host.succeed(f"{generation}/bin/switch-to-configuration test 2>&1", timeout=300)
    assert host.succeed("readlink -f /run/current-system").strip() == generation
    laptop.wait_until_succeeds(f"{curl('-f', API + '/health')} >/dev/null")


def pushes() -> list[str]:
    """Return the daemons of the pushes under way, one a line: unit and process."""
    found = "systemctl list-units --plain --no-legend --state=running 'flashpods-rsyncd@*'"
    units = host.succeed(f"{found} | cut -d' ' -f1").split()
    return [host.succeed(f"systemctl show -p Id,MainPID {unit}") for unit in units]


def went_on(job: str, before: str) -> None:
    """Hold the job to be the same container, and to print more than it had when this began."""
    assert container(job) == before
    so_far = output(job)[-1].removeprefix("line ")
    printed(job, f"line {int(so_far) + 10}")
    assert get(f"/jobs/{job}")["status"] == "running"


def let_go(job: str) -> None:
    """Have the job end, and hold its log to be whole, on the host and where it was followed."""
    host.succeed(f"touch /var/lib/flashpods/artifacts/.staging/{job}/go")
    row = ended(job)
    assert row["status"] == "completed", (row, output(job)[-5:])
    laptop.wait_until_fails("systemctl is-active --quiet follower")
    followed = laptop.succeed(f"cat /tmp/followed-{job}").splitlines()
    for lines in (output(job), [line.partition("] ")[2] for line in followed]):
        own = [line for line in lines if line.startswith(("token", "line ", "last "))]
        count = len(own) - 3
        assert count > 20, own
        expected = ["token", *(f"line {i}" for i in range(1, count + 1)), f"last {count}", "token"]
        assert own == expected, own


with subtest("a drain is visible to clients, and ends"):
    host.succeed("flashpods-admin drain")
    body = {"type": "worker", "command": "true"}
    refused("POST", "/jobs", body, 503, "service_unavailable")
    heads = laptop.succeed(
        curl(
            "-o /dev/null -D - -H 'Content-Type: application/json'",
            f"-d {shlex.quote(json.dumps(body))} {API}/jobs",
        )
    )
    assert re.search(r"(?im)^retry-after: [0-9]+\r?$", heads), heads
    assert get("/health")["draining"] is True
    assert "the host is draining" in laptop.succeed(f"{CLIENT} flashpods ps 2>&1")
    host.succeed("flashpods-admin resume")
    run("true")

with subtest("a job lives through the switch to the next generation, as the same container"):
    job = submit(COUNT)
    printed(job, "line 5")
    laptop_unit("follower", f"exec flashpods logs --follow {job} >/tmp/followed-{job}")
    laptop_unit(
        "watcher",
        f"while :; do curl -sf -m 1 -o /dev/null {API}/health && date +%s.%N; sleep 0.1; done"
        " >/tmp/answers",
    )
    laptop.wait_until_succeeds(f"test -s /tmp/followed-{job} -a -s /tmp/answers")
    laptop.succeed("mkdir -p /tmp/slow && head -c 60000000 /dev/urandom >/tmp/slow/file")
    upload = ask("POST", "/uploads", {})[1]["upload_id"]
    push = f"rsync -a %s /tmp/slow/ rsync://10.0.0.1/uploads/{upload}/"
    laptop_unit("pusher", f"exec {push % '--bwlimit=100'}")
    host.wait_until_succeeds(f"ls -A /tmp/flashpods/uploads/{upload} | grep -q .")
    daemons = pushes()
    before, then = container(job), pids()
    sockets = host.succeed("stat -c %i /run/flashpods/token.sock /run/flashpods/podman.sock")
    rules = host.succeed("systemctl show -p ActiveEnterTimestampMonotonic flashpods-firewall")
    began = time.monotonic()
    switch(NEXT)
    seconds = time.monotonic() - began
    went_on(job, before)
    times = [float(t) for t in laptop.succeed("cat /tmp/answers").split()]
    laptop.succeed("systemctl stop watcher")
    away = max(b - a for a, b in itertools.pairwise(times))
    print(f"measured: upgrade: switch {seconds:.1f} s, the laptop {away:.1f} s without an answer")
    assert away < 60, away

with subtest("a push went on through it, with the daemon that it began with"):
    assert len(daemons) == 1 and pushes() == daemons, (daemons, pushes())
    laptop.succeed("systemctl is-active pusher")
    laptop.succeed("systemctl stop pusher")
    laptop.wait_until_succeeds(push % "--whole-file")
    host.wait_until_succeeds(
        "! systemctl list-units --plain --no-legend 'flashpods-rsyncd@*' | grep ."
    )
    status, answer = ask("POST", f"/uploads/{upload}/finalize")
    assert (status, answer["file_count"]) == (200, 1), answer
    assert ask("DELETE", f"/uploads/{upload}")[0] == 204

with subtest("everything of it is the next generation's"):
    assert not set(pids()) & set(then), (pids(), then)
    for unit in UNITS:
        assert "next" in host.succeed(f"systemctl show -p ExecStart {unit}"), unit
    assert "next" in host.succeed("readlink -f $(command -v flashpods-admin)")

with subtest("rules were exchanged and never gone, sockets that jobs hold are the same ones"):
    assert rules == host.succeed(
        "systemctl show -p ActiveEnterTimestampMonotonic flashpods-firewall"
    )
    assert "192.168.7.0/24" in host.succeed("nft list table inet flashpods")
    assert sockets == host.succeed(
        "stat -c %i /run/flashpods/token.sock /run/flashpods/podman.sock"
    )

with subtest("the switch ended with the validation, by option"):
    said = host.succeed("journalctl -b -u flashpods-validate -o cat")
    assert "all 12 passed" in said, said

with subtest("the database went forward, and a checked copy of before is kept"):
    now = json.loads(host.succeed("flashpods-admin verify --json"))
    copies = host.succeed(f"ls {COPIES}").split()
    kept = json.loads(host.succeed(f"flashpods-admin verify --json {COPIES}/{copies[-1]}"))
    assert kept["sound"] and kept["schema"] == now["schema"] - 1, (kept, now)

with subtest("the older generation refuses the newer database, and names the way back"):
    code, said = host.execute(f"{FIRST}/bin/switch-to-configuration test 2>&1", timeout=300)
    assert code != 0, said
    journal = host.succeed("journalctl -b -u flashpods-api -n 100 -o cat")
    way = re.findall(r"flashpods-admin restore (/[\w./-]+\.db)", journal)[-1]
    assert way == f"{COPIES}/{copies[-1]}", (way, copies)
    assert f"flashpods-admin restore {way}" in host.fail("flashpods-admin doctor")
    verify = f"{NEXT}/sw/bin/flashpods-admin verify --json"
    assert json.loads(host.succeed(verify))["schema"] == now["schema"]
    assert container(job) == before

with subtest("by that way it is back, and the job has lived through it all with its whole log"):
    host.succeed(f"flashpods-admin restore {way}", timeout=180)
    host.succeed("systemctl start flashpods-api flashpods-cleanup")
    laptop.wait_until_succeeds(f"{curl('-f', API + '/health')} >/dev/null")
    went_on(job, before)
    let_go(job)
    assert json.loads(host.succeed("flashpods-admin verify --json"))["schema"] == kept["schema"]
    host.wait_until_succeeds("systemctl is-system-running")
    host.fail("systemctl cat flashpods-validate")
