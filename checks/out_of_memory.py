# Needs a kernel with cgroup v2's memory controller: a virtual machine, not the lab.
ready()
eat = "dd if=/dev/zero of=/dev/null bs=1536M count=1"

with subtest("a job that takes more memory than it was promised is killed, others go on"):
    other = submit("while :; do echo tick; sleep 1; done")
    printed(other, "tick")
    job = submit(eat)
    row = ended(job)
    assert (row["status"], row["error"], row["exit_code"]) == ("failed", "oom_killed", 137), row
    goes_on(other)
    ask("DELETE", f"/jobs/{other}")
    assert ended(other)["status"] == "cancelled"

with subtest("a child killed for memory under a command that succeeds is a warning"):
    job = submit(f"{eat}; echo child ended with $?; exit 0")
    row = ended(job)
    assert (row["status"], row["error"], row["exit_code"]) == ("completed", None, 0), row
    assert any("killed for memory" in warning for warning in row["warnings"]), row
    assert output(job)[-1] == "child ended with 137", output(job)

with subtest("the host itself was never short of memory"):
    host.fail("journalctl -b -k -o cat | grep 'Out of memory:'")
