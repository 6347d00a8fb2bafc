# Needs a kernel with cgroup v2's memory controller: a virtual machine, not the lab.
ready()
eat = "dd if=/dev/zero of=/dev/null bs=1536M count=1"

with subtest("limits are in the container's cgroup before its command runs"):
    lines = run("cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory.swap.max")
    assert lines[-2:] == [str(1024**3), "0"], lines

with subtest("a job that takes more memory than it was promised is killed, others go on"):
    other = submit("while :; do echo tick; sleep 1; done")
    printed(other, "tick")
    job = submit(eat)
    row = ended(job)
    assert (row["status"], row["error"], row["exit_code"]) == ("failed", "oom_killed", 137), row
    before = len(output(other))
    lines = f"{curl(shlex.quote(f'{API}/jobs/{other}/output?tail=10000'))} | jq .lines"
    laptop.wait_until_succeeds(f"test $({lines}) -gt {before}")
    ask("DELETE", f"/jobs/{other}")
    assert ended(other)["status"] == "cancelled"
