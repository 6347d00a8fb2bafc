ready()

with subtest("the tunnel stands, and its key is nobody's but root's"):
    host.wait_until_succeeds("wg show wg0 latest-handshakes | awk '$2 > 0 {f=1} END {exit !f}'")
    assert host.succeed("stat -c '%a %U' /etc/wireguard/private.key").strip() == "600 root"
    shown = host.succeed("ip -brief address show dev wg0")
    assert "10.0.0.1/24" in shown, shown

with subtest("the laptop reaches API and rsync through it"):
    laptop.succeed("curl -sf -o /dev/null --max-time 10 http://10.0.0.1:8080/health")
    greeting = laptop.succeed("timeout 5 bash -c 'head -c 8 </dev/tcp/10.0.0.1/873' || true")
    assert greeting == "@RSYNCD:", greeting

with subtest("and nothing else"):
    for port in (22, 8081, 9464, 9465, 53):
        laptop.fail(f"timeout 1 bash -c '</dev/tcp/10.0.0.1/{port}'")

with subtest("without the tunnel it is not served"):
    laptop.fail("timeout 2 bash -c '</dev/tcp/198.51.100.10/8080'")
    laptop.fail("timeout 2 bash -c '</dev/tcp/198.51.100.10/873'")

with subtest("nor is another address in the tunnel, or the laptop's address of another key"):
    peer = host.succeed("wg show wg0 peers").strip()
    ask_as = "curl -s -o /dev/null --max-time 3 --interface {} http://10.0.0.1:8080/health"
    laptop.succeed("ip address add 10.0.0.3/32 dev wg0")
    host.succeed(f"wg set wg0 peer {peer} allowed-ips 10.0.0.2/32,10.0.0.3/32")
    before = counter("input_other")
    laptop.fail(ask_as.format("10.0.0.3"))
    assert counter("input_other") > before
    host.succeed(f"wg set wg0 peer {peer} allowed-ips 10.0.0.3/32")
    before = counter("input_other")
    laptop.fail(ask_as.format("10.0.0.2"))  # WireGuard itself drops it
    assert counter("input_other") == before
    host.succeed(f"wg set wg0 peer {peer} allowed-ips 10.0.0.2/32")
    laptop.succeed("ip address del 10.0.0.3/32 dev wg0", ask_as.format("10.0.0.2"))

with subtest("nor is the laptop's address from outside of the tunnel"):
    before = counter("input_other")
    internet.succeed(
        "ip address add 10.0.0.2/32 dev lo",
        "ip route add 10.0.0.1/32 via 198.51.100.10 src 10.0.0.2",
    )
    internet.fail("timeout 2 bash -c '</dev/tcp/10.0.0.1/8080'")
    internet.succeed("ip route del 10.0.0.1/32", "ip address del 10.0.0.2/32 dev lo")
    assert counter("input_other") > before

with subtest("the services listen in the tunnel only"):
    listening = host.succeed("ss -Hltn").split("\n")
    found = {line.split()[3] for line in listening if line}
    assert {"10.0.0.1:8080", "10.0.0.1:873"} <= found, found
    assert not {a for a in found if a.endswith((":8080", ":873")) and not a.startswith("10.0.0.1")}

with subtest("an interface that is made anew serves again"):
    host.succeed("systemctl restart wireguard-wg0.service wireguard-wg0-peer-mine.service")
    laptop.wait_until_succeeds(
        "curl -sf -o /dev/null --max-time 5 http://10.0.0.1:8080/health", timeout=90
    )
