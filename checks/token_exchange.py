ready()
HELPER = "/usr/local/bin/flashpods-token"
host.wait_until_succeeds("flashpods-admin validate --only token-exchange-worker", timeout=120)
github = json.loads(host.succeed("cat /etc/flashpods/secrets.json"))["github_token"]

with subtest("a worker gets the token of git, and no model's key"):
    lines = run(f"{HELPER} get GITHUB_TOKEN")
    assert lines[-1] == github, lines
    job = submit(f"{HELPER} get ANTHROPIC_API_KEY")
    row = ended(job)
    assert (row["status"], row["exit_code"]) == ("failed", 1), row
    assert "no_such_token" in output(job)[-1], output(job)

with subtest("an agent gets both"):
    host.succeed("flashpods-admin validate --only token-exchange-agent")

with subtest("git's credential helper answers for its hosts, and for no other"):
    ask_git = "printf 'protocol=https\\nhost={}\\n\\n' | " + f"{HELPER} git-credential get"
    assert f"password={github}" in run(ask_git.format("github.com"))
    assert not any(github in line for line in run(ask_git.format("evil.example")))

with subtest("without a job's container there is nothing, with its kind"):
    curl_token = "curl -s --max-time 5 --unix-socket /run/flashpods/token.sock"
    said = host.succeed(f"{curl_token} http://x/tokens")
    assert json.loads(said)["error"] == "missing_authorization", said
    said = host.succeed(f"{curl_token} -H 'Authorization: Bearer e30.e30.e30' http://x/tokens")
    assert json.loads(said)["error"] == "invalid_jwt", said

with subtest("every exchange is a line of the journal, and no secret is in it"):
    journal = host.succeed("journalctl -b -u flashpods-token-service --no-pager -o cat")
    assert "spiffe://flashpods.local/worker" in journal
    assert github not in journal

with subtest("a restart of the service leaves live containers connected"):
    job = submit(
        f"{HELPER} get GITHUB_TOKEN >/dev/null && echo first; "
        "while [ ! -e /artifacts/go ]; do sleep 0.2; done; "
        f"{HELPER} --timeout 30s get GITHUB_TOKEN >/dev/null && echo second"
    )
    printed(job, "first")
    host.succeed("systemctl restart flashpods-token-service.service")
    host.succeed(f"touch /var/lib/flashpods/artifacts/.staging/{job}/go")
    row = ended(job)
    assert row["status"] == "completed" and output(job)[-1] == "second", (row, output(job))

with subtest("with a bad secrets file it does not start, says so, and comes back with a good one"):
    unit = "flashpods-token-service.service"
    host.succeed(
        "cp -a /etc/flashpods/secrets.json /etc/flashpods/secrets.kept",
        "echo '{' >/etc/flashpods/secrets.json",
    )
    host.execute(f"systemctl restart {unit}")
    host.wait_until_succeeds(f"journalctl -b -u {unit} -n 20 -o cat | grep -q 'secrets'")
    host.fail(f"systemctl is-active {unit}")
    host.succeed(
        "mv /etc/flashpods/secrets.kept /etc/flashpods/secrets.json", f"systemctl restart {unit}"
    )
    assert run(f"{HELPER} --timeout 30s get GITHUB_TOKEN")[-1] == github
