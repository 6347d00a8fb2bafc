PROMETHEUS = "http://127.0.0.1:9090/api/v1"
PORTS = (9464, 9465, 9090)
DROP_IN = "/run/systemd/system/flashpods-api.service.d"
GROUPS = {"host", "api", "jobs", "identity", "maintenance"}


def told(path: str, *, by: str) -> str:
    """Return a command line that asks Prometheus and succeeds if jq finds it true."""
    return f"curl -sSfG --max-time 20 {PROMETHEUS}/{path} | jq -e {shlex.quote(by)} >/dev/null"


def value(query: str) -> float:
    """Return what an expression that has one value is now."""
    said = host.succeed(
        f"curl -sSfG --max-time 20 {PROMETHEUS}/query "
        f"--data-urlencode {shlex.quote(f'query={query}')}"
    )
    (found,) = json.loads(said)["data"]["result"]
    return float(found["value"][1])


def fires(alert: str) -> None:
    """Return when such an alert fires: what is wrong has to hold for a minute."""
    by = f'any(.data.alerts[]; .labels.alertname == "{alert}" and .state == "firing")'
    host.wait_until_succeeds(told("alerts", by=by), timeout=180)


def quiet(alert: str) -> None:
    """Return when no such alert is there, nor on its way."""
    by = f'all(.data.alerts[]; .labels.alertname != "{alert}")'
    host.wait_until_succeeds(told("alerts", by=by), timeout=120)


def restart_api(metrics_host: str | None) -> None:
    """Have the API's metrics listen on another address; None: where the module has them."""
    line = f'Environment="FLASHPODS_SETTINGS__HTTP__METRICS_HOST={metrics_host}"'
    if metrics_host is None:
        host.succeed(f"rm -r {DROP_IN}")
    else:
        text = f"[Service]\n{line}\n"
        host.succeed(f"mkdir -p {DROP_IN} && printf %s {shlex.quote(text)} >{DROP_IN}/metrics.conf")
    host.succeed("systemctl daemon-reload && systemctl restart flashpods-api.service")
    laptop.wait_until_succeeds(f"{curl('-f', API + '/capacity')} >/dev/null")


ready()
host.wait_for_unit("prometheus.service")

with subtest("Prometheus scrapes the API and the token service, and nothing else"):
    up = '[.data.activeTargets[] | select(.health == "up") | .labels.job] | sort'
    jobs = '["flashpods-api","flashpods-token-service"]'
    host.wait_until_succeeds(told("targets", by=f"({up}) == {jobs}"), timeout=120)

with subtest("every rule is loaded and evaluates"):
    well = 'all(.data.groups[].rules[]; .health == "ok" and .type == "alerting")'
    host.wait_until_succeeds(told("rules", by=well), timeout=60)
    rules = json.loads(host.succeed(f"curl -sSf --max-time 20 {PROMETHEUS}/rules"))["data"]
    assert {g["name"] for g in rules["groups"]} == {f"flashpods-{name}" for name in GROUPS}, rules
    names = {rule["name"] for group in rules["groups"] for rule in group["rules"]}
    assert {"FlashpodsAPIDown", "FlashpodsBackupStale", "FlashpodsDiskUsageHigh"} <= names, names
    assert all(r["annotations"]["runbook_url"] for g in rules["groups"] for r in g["rules"])

with subtest("what it scraped is what happened, in few series"):
    finished = "sum(flashpods_jobs_finished_total) or vector(0)"
    run("true")
    said = host.succeed("curl -sSf --max-time 10 http://127.0.0.1:9464/metrics")
    lines = [x for x in said.splitlines() if x.startswith("flashpods_jobs_finished_total{")]
    happened = sum(float(x.rsplit(" ", 1)[1]) for x in lines)
    assert happened >= 1, lines
    end = time.monotonic() + 60
    while value(finished) != happened:
        assert time.monotonic() < end, (happened, value(finished))
    assert value('scrape_samples_scraped{job="flashpods-api"}') <= 300

with subtest("metrics and Prometheus are for the host alone: not for the internet, nor a laptop"):
    restart_api("10.0.0.1")  # somebody listens there, so that a refusal proves something
    host.succeed("curl -sf -o /dev/null --max-time 10 http://10.0.0.1:9464/metrics")
    host.succeed("curl -sf -o /dev/null --max-time 10 http://127.0.0.1:9465/metrics")
    before = counter("input_other")
    laptop.fail("timeout 2 bash -c '</dev/tcp/10.0.0.1/9464'")
    for port in PORTS:
        internet.fail(f"timeout 1 bash -c '</dev/tcp/198.51.100.10/{port}'")
    assert counter("input_other") >= before + 1 + len(PORTS)

with subtest("nor for a job, also where the laptop is let in by option"):
    host.succeed("nft insert rule inet flashpods laptop tcp dport 9464 accept")
    said = laptop.succeed("curl -sf --max-time 10 http://10.0.0.1:9464/metrics")
    assert "flashpods_build_info" in said, said[:200]
    before = counter("job_to_host")
    knock = "".join(
        f"nc -w 3 {address} {port} </dev/null >/dev/null 2>&1 && echo open {address} {port}; "
        for address in ("10.0.0.1", "127.0.0.1", "10.0.2.2")
        for port in PORTS
    )
    lines = run(f"{knock} echo looked")
    assert lines[-1] == "looked" and not [x for x in lines if x.startswith("open")], lines
    assert counter("job_to_host") >= before + len(PORTS)
    host.succeed("systemctl reload flashpods-firewall.service")
    restart_api(None)

with subtest("SPIRE's agent goes down: the alert fires, and ends when it is back"):
    quiet("FlashpodsSpireAgentUnhealthy")
    host.succeed("systemctl stop spire-agent.service")
    fires("FlashpodsSpireAgentUnhealthy")
    host.succeed("systemctl start spire-agent.service")
    quiet("FlashpodsSpireAgentUnhealthy")

with subtest("the API goes down: likewise, and a job goes on meanwhile"):
    quiet("FlashpodsAPIDown")
    job = submit("echo began; while [ ! -e /artifacts/stop ]; do sleep 0.2; done; echo over")
    printed(job, "began")
    host.succeed("systemctl stop flashpods-api.service")
    fires("FlashpodsAPIDown")
    host.succeed("systemctl start flashpods-api.service")
    quiet("FlashpodsAPIDown")
    laptop.wait_until_succeeds(f"{curl('-f', API + '/capacity')} >/dev/null")
    host.succeed(f"touch /var/lib/flashpods/artifacts/.staging/{job}/stop")
    assert ended(job)["status"] == "completed"
    assert output(job)[-1] == "over", output(job)
