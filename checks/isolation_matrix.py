ready()
PORTS = (8080, 873, 8081, 9464, 9465, 22)
addresses = json.loads(host.succeed("ip -json address show"))
OWN = [
    info["local"]
    for link in addresses
    for info in link["addr_info"]
    if info["scope"] == "global" and info["family"] == "inet"
]
NEAR = ["127.0.0.1", "10.0.2.2", "10.0.0.2", "169.254.169.254", "192.168.99.99", "172.16.5.5"]
KNOCK = "nc -w 2 {address} {port} </dev/null >/dev/null 2>&1 && echo open {address} {port}; "

with subtest("a job reaches no port of the host, of the laptop, or of what is near"):
    before = {name: counter(name) for name in ("job_to_service", "job_to_host")}
    cells = [(a, p) for a in [*OWN, *NEAR] for p in PORTS]
    script = "".join(f"({KNOCK.format(address=a, port=p)}) & " for a, p in cells)
    lines = run(f"{script} wait; echo looked")
    assert lines[-1] == "looked" and not [x for x in lines if x.startswith("open")], lines
    assert counter("job_to_service") - before["job_to_service"] >= 2 * len(OWN)
    assert counter("job_to_host") - before["job_to_host"] >= 4 * len(OWN)

with subtest("what a job asks of the API is refused, and spawns nothing"):
    total = get("/jobs?limit=1")["total"]
    run("wget -q -T 3 -O - http://10.0.0.1:8080/health && exit 1; echo refused")
    assert get("/jobs?limit=1")["total"] == total + 1

with subtest("the boundary refuses it, and says so in its counter"):
    before = counter("job_to_service")
    run("! nc -w 20 10.0.0.1 8080 </dev/null")
    assert counter("job_to_service") > before

with subtest("a job reaches the internet, and names resolve by the host's resolver only"):
    assert run("nc -w 5 203.0.113.80 80 </dev/null >/dev/null && echo reached")[-1] == "reached"
    assert "203.0.113.80" in " ".join(run("nslookup example.test"))
    before = counter("job_to_dns")
    run("! nc -w 2 203.0.113.53 53 </dev/null")
    assert counter("job_to_dns") > before

with subtest("the internet reaches nothing of the host but WireGuard"):
    before = counter("input_other")
    knock = "timeout 1 bash -c '</dev/tcp/198.51.100.10/{0}' 2>/dev/null && echo open {0}"
    said = internet.succeed("".join(f"({knock.format(port)}) & " for port in PORTS) + "wait")
    assert said == "", said
    assert counter("input_other") >= before + len(PORTS)

with subtest("root on the host is served, as health checks are"):
    host.succeed("curl -sf -o /dev/null --max-time 10 http://10.0.0.1:8080/health")

with subtest("reloading the rules opens nothing in between"):
    job = submit(
        "i=0; while [ ! -e /artifacts/stop ]; do nc -w 1 10.0.0.1 8080 </dev/null >/dev/null 2>&1 "
        "&& echo OPEN; i=$((i+1)); done; echo tried $i"
    )
    until(job, "running")
    for _ in range(10):
        host.succeed("systemctl reload flashpods-firewall.service")
    host.succeed(f"touch /var/lib/flashpods/artifacts/.staging/{job}/stop")
    assert ended(job)["status"] == "completed"
    lines = output(job)
    assert "OPEN" not in lines and int(lines[-1].split()[1]) > 0, lines

with subtest(
    "who begins flows without end gets a share of the host's table, and nobody else is refused"
):
    before = counter("job_over_rate")
    host.succeed(
        "setpriv --reuid=flashpods --regid=flashpods --clear-groups bash -c "
        "'for p in $(seq 10000 29999); do echo >/dev/udp/203.0.113.80/$p; done' 2>/dev/null || true"
    )
    assert counter("job_over_rate") > before
    held, most = host.succeed(
        "cd /proc/sys/net/netfilter; cat nf_conntrack_count nf_conntrack_max"
    ).split()
    assert int(held) < int(most) / 2, (held, most)
    host.succeed("curl -sf -o /dev/null --max-time 10 http://10.0.0.1:8080/health")
    get("/capacity")
