# Needs a kernel with cgroup v2's controllers: a virtual machine, not the lab.
ready()
UNIT = "podman-socket-flashpods.service"
CGROUPS = f"/sys/fs/cgroup/system.slice/{UNIT}"
GO_ON = "while :; do echo tick; sleep 1; done"
WANTED = {
    "memory.max": str(1024**3),
    "memory.swap.max": "0",
    "cpu.max": "100000 100000",
    "pids.max": "2048",
}


def cgroup(job: str) -> str:
    """Return the directory of the job's container that bears its limits."""
    found = host.succeed(f"find {CGROUPS} -path '*{job}*' -name pids.max").split()
    limited = host.succeed(f"grep -LFx max {' '.join(found)}").split()
    assert limited, found
    return limited[0].removesuffix("/pids.max")


def shown(job: str) -> dict[str, str]:
    at = cgroup(job)
    return {name: host.succeed(f"cat {at}/{name}").strip() for name in WANTED}


def drop_in(*lines: str) -> None:
    """Give the engine's service other settings, or with none its own again."""
    path = f"/run/systemd/system/{UNIT}.d"
    text = "\\n".join(("[Service]", *lines))
    host.succeed(
        f"rm -rf {path}" if not lines else f"mkdir -p {path} && printf '{text}' >{path}/test.conf",
        f"systemctl daemon-reload && systemctl restart {UNIT}",
    )
    laptop.wait_until_succeeds(f"{curl('-f', API + '/health')} >/dev/null")


def never_runs() -> None:
    job = submit("echo ran; echo ran >/artifacts/ran; sleep 600")
    row = ended(job)
    assert (row["status"], row["error"]) == ("failed", "limits_not_enforced"), row
    assert row["exit_code"] is None and row["started_at"] is None, row
    assert get(f"/jobs/{job}/artifacts")["artifacts"] == []
    assert "ran" not in output(job), output(job)


with subtest("limits are in the job's own cgroup before its command runs"):
    first = "; ".join(f"echo {name} $(cat /sys/fs/cgroup/{name})" for name in WANTED)
    other = submit(f"{first}; {GO_ON}")
    printed(other, "tick")
    said = [line for line in output(other) if line != "tick"]
    assert said[-len(WANTED) :] == [f"{name} {value}" for name, value in WANTED.items()], said
    assert shown(other) == WANTED, shown(other)

with subtest("systemd, at work on its own, leaves them as they are"):
    host.succeed("systemctl daemon-reload", "systemd-run --wait --quiet true")
    assert shown(other) == WANTED, shown(other)

with subtest("a fork bomb is held, and others go on"):
    forever = "while :; do sleep 1; done"
    bomb = submit(f"sh -c 'while :; do sleep 900 & done'; echo bomb ended; {forever}")
    printed(bomb, "bomb ended")
    at = cgroup(bomb)
    current = int(host.succeed(f"cat {at}/pids.current"))
    assert 2040 <= current <= 2048, current
    host.succeed(f"grep -E '^max [1-9]' {at}/pids.events")
    goes_on(other)
    ask("DELETE", f"/jobs/{bomb}")
    assert ended(bomb)["status"] == "cancelled"
    host.wait_until_fails(f"test -e {at}")

with subtest("two busy loops of a job with one CPU get one"):
    loop = "while :; do :; done"
    job = submit(f"({loop}) & ({loop}) & echo loops; wait")
    printed(job, "loops")
    look = f"date +%s%N; grep -E '^(usage_usec|nr_throttled)' {cgroup(job)}/cpu.stat"
    before, after = (
        [int(word) for word in part.split() if word.isdigit()]
        for part in host.succeed(f"{look}; sleep 8; echo /; {look}").split("/")
    )
    share = (after[1] - before[1]) * 1000 / (after[0] - before[0])
    assert 0.6 <= share <= 1.1 and after[2] > before[2], (share, before, after)
    goes_on(other)
    ask("DELETE", f"/jobs/{job}")
    assert ended(job)["status"] == "cancelled"

with subtest("a job that fills the host's disk is ended, others go on, and the disk is free again"):
    before = int(host.succeed("df --output=used -k / | tail -n 1"))
    job = submit("i=0; while fallocate -l 32M /tmp/$i 2>/dev/null; do i=$((i+1)); done; sleep 600")
    row = ended(job)
    assert (row["status"], row["error"]) == ("failed", "host_disk_full"), row
    goes_on(other)
    host.wait_until_succeeds(
        f"test $(df --output=used -k / | tail -n 1) -lt $(({before} + 200 * 1024))"
    )
    ask("DELETE", f"/jobs/{other}")
    assert ended(other)["status"] == "cancelled"

with subtest("a job whose runtime forgets its limits never runs its command"):
    host.succeed("mkdir -p /run/forgets")
    real = host.succeed(f"{PODMAN} info --format '{{{{.Host.OCIRuntime.Path}}}}'").strip()
    jq = host.succeed("command -v jq").strip()
    conf = host.succeed(f"systemctl show --value -p Environment {UNIT}")
    conf = next(word for word in conf.split() if word.startswith("CONTAINERS_CONF_OVERRIDE="))
    host.succeed(
        "cat >/run/forgets/runtime <<'EOF'\n"
        "#!/bin/sh\n"
        "bundle=\n"
        "for word; do\n"
        "  case ${before-} in --bundle | -b) bundle=$word ;; esac\n"
        "  before=$word\n"
        "done\n"
        'if [ -n "$bundle" ]; then\n'
        f"  config=$({jq} 'del(.linux.resources)' $bundle/config.json)\n"
        '  printf %s "$config" >$bundle/config.json\n'
        "fi\n"
        f'exec {real} "$@"\n'
        "EOF",
        "chmod 755 /run/forgets/runtime",
        f"cp {conf.partition('=')[2]} /run/forgets/containers.conf",
        # The table is there already, and TOML has each once.
        "printf '[engine.runtimes]\\nforgets = [\"/run/forgets/runtime\"]\\n' "
        ">>/run/forgets/containers.conf",
        "sed -i 's|^\\[engine\\]|&\\nruntime = \"forgets\"|' /run/forgets/containers.conf",
    )
    drop_in("Environment=CONTAINERS_CONF_OVERRIDE=/run/forgets/containers.conf")
    never_runs()

with subtest("nor does one whose controllers are not the engine's to give"):
    drop_in("Delegate=", "Delegate=memory pids")
    never_runs()

with subtest("with the engine's own settings again, and an API that asks it anew, jobs run"):
    drop_in()
    host.succeed("systemctl restart flashpods-api.service")
    laptop.wait_until_succeeds(f"{curl('-f', API + '/health')} >/dev/null")
    run("true")
