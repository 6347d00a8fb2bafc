"""HOST and LAPTOP, two machines with systemd, and an internet between them.

    HOST 198.51.100.10 ── internet ── 192.0.2.2 LAPTOP        wg0: 10.0.0.1 ── 10.0.0.2

HOST has what the boundary is about: the rule set as a unit, WireGuard, rootless Podman behind its
socket, a real rsync daemon, and stand-ins that say who they are on the other ports.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import netlab
import world
from netlab import HOST4, HOST6, LAPTOP, OTHERS, PORTS

from flashpods.boundary import Boundary, render
from flashpods_dev.lab.base import SUBIDS_COUNT, SUBIDS_START, UID
from flashpods_dev.lab.machine import LabMachine
from flashpods_dev.machine import Machine
from flashpods_dev.netns import Process

OWN = (HOST4, HOST6, "198.51.100.11", "10.0.0.1", "fd77::1", "127.0.0.1", "::1")
RSYNC_UID = SUBIDS_START + SUBIDS_COUNT - 1
PODMAN = "podman --url unix:///run/flashpods/podman.sock"
IMAGE = "localhost/lab:busybox"
PARAMETERS = {
    "user": "flashpods",
    "subordinates": {"first": SUBIDS_START, "count": SUBIDS_COUNT},
    "networks": ["10.0.0.0/24", "fd77::/64"],
    "laptops": LAPTOP,
    "resolvers": [netlab.RESOLVER],
}


def ruleset(**changes: object) -> str:
    """Return HOST's rules, with some parameters changed."""
    return render(netlab.TEMPLATE.read_text(), Boundary.model_validate({**PARAMETERS, **changes}))


def _unit(start: str, *lines: str, after: str = "network.target") -> str:
    service = "\n".join([*lines, f"ExecStart={start}"])
    unit = f"[Unit]\nAfter={after}\nWants={after}\n"
    return f"{unit}[Service]\n{service}\n[Install]\nWantedBy=multi-user.target\n"


def _says(who: str, *lines: str, after: str = "wg0.service", **plan: object) -> str:
    task = json.dumps({"who": who, **plan})
    return _unit(f"/usr/bin/python3 /opt/lab/servers.py '{task}'", *lines, after=after)


def _wireguard(address4: str, address6: str) -> str:
    post = (
        "ExecStartPost=/usr/bin/wg setconf wg0 /etc/wireguard/wg0.conf",
        f"ExecStartPost=/usr/sbin/ip address add {address4}/24 dev wg0",
        f"ExecStartPost=/usr/sbin/ip address add {address6}/64 dev wg0 nodad",
        "ExecStartPost=/usr/sbin/ip link set wg0 up",
    )
    return _unit("/usr/bin/wireguard-go wg0", "Type=forking", *post)


FIREWALL = """\
[Unit]
DefaultDependencies=no
After=local-fs.target
Before=network-pre.target
Wants=network-pre.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/nft -f /etc/flashpods/ruleset.nft
ExecReload=/usr/sbin/nft -f /etc/flashpods/ruleset.nft
[Install]
WantedBy=multi-user.target
"""
RSYNCD = f"""\
use chroot = yes
[uploads]
path = /srv/uploads
read only = no
uid = {RSYNC_UID}
gid = {RSYNC_UID}
numeric ids = yes
"""
CONTAINERS = """\
[containers]
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "lab"
[engine.runtimes]
lab = ["/opt/lab/oci-runtime"]
"""


STORAGE = """\
[storage]
driver = "overlay"
runroot = "/run/containers/storage"
graphroot = "/var/lib/containers/storage"
"""


def host_files(key: str, peer: str) -> dict[str, str]:
    """Return HOST's own files."""
    at = [[address, 7777] for address in OWN]
    units = {
        "firewall": FIREWALL,
        "wg0": _wireguard("10.0.0.1", "fd77::1"),
        "api": _says("host", "User=flashpods", tcp=[8080]),
        "others": _says("host", tcp=OTHERS, udp=at, echo=[7]),
        "resolver": _says("resolver", dns=[[netlab.RESOLVER, 53]]),
        "rsync": _unit("/usr/bin/rsync --daemon --no-detach --config=/etc/rsyncd.conf"),
        "podman-flashpods": _unit(
            "/usr/bin/podman system service --time=0 unix:///run/flashpods/podman.sock",
            *("User=flashpods", "Delegate=yes", "DelegateSubgroup=supervisor"),
            *("RuntimeDirectory=flashpods", "RuntimeDirectoryMode=0750"),
            f"Environment=HOME=/var/lib/flashpods XDG_RUNTIME_DIR=/run/user/{UID}",
            after=f"user@{UID}.service",
        ),
    }
    peer_lines = f"[Peer]\nPublicKey = {peer}\nAllowedIPs = 10.0.0.2/32, fd77::2/128\n"
    interface = f"[Interface]\nPrivateKey = {key}\nListenPort = 51820\n"
    return {
        **_installed(units),
        "etc/wireguard/wg0.conf": interface + peer_lines,
        "etc/flashpods/ruleset.nft": ruleset(),
        "etc/rsyncd.conf": RSYNCD,
        "etc/containers/containers.conf": CONTAINERS,
        "etc/containers/storage.conf": STORAGE,
        "etc/resolv.conf": f"nameserver {netlab.RESOLVER}\n",
    }


def laptop_files(key: str, peer: str) -> dict[str, str]:
    """Return LAPTOP's own files."""
    udp = [[address, 7777] for address in LAPTOP]
    units = {
        "wg0": _wireguard("10.0.0.2", "fd77::2"),
        "laptop": _says("laptop", tcp=PORTS, udp=udp),
    }
    peer_lines = (
        f"[Peer]\nPublicKey = {peer}\nEndpoint = {HOST4}:51820\n"
        "AllowedIPs = 10.0.0.0/24, fd77::/64\nPersistentKeepalive = 25\n"
    )
    return {
        **_installed(units),
        "etc/wireguard/wg0.conf": f"[Interface]\nPrivateKey = {key}\n{peer_lines}",
        "etc/resolv.conf": "nameserver 127.0.0.1\n",
    }


def _installed(units: Mapping[str, str]) -> dict[str, str]:
    return {f"etc/systemd/system/{name}.service": text for name, text in units.items()}


def write_layer(directory: Path, files: Mapping[str, str]) -> Path:
    """Write a machine's own files, its units enabled, our scripts beside them."""
    scripts = {
        f"opt/lab/{path.name}": path.read_text()
        for path in (
            *(netlab.HERE / name for name in ("servers.py", "probe.py", "scan.py")),
            netlab.CHECKOUT / "lab" / "oci-runtime",
        )
    }
    for name, text in {**files, **scripts}.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755 if name.startswith("opt/") else 0o644)
    wants = directory / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir()
    for unit in (directory / "etc/systemd/system").glob("*.service"):
        (wants / unit.name).symlink_to(f"../{unit.name}")
    uploads = directory / "srv/uploads"
    uploads.mkdir(parents=True)
    uploads.chmod(0o1777)
    return directory


class Site:
    """The network and the two machines, booted."""

    def __init__(self, stack: ExitStack, machine: Machine, root: Path, state: Path) -> None:
        self.networks = world.networks(stack)
        (host_key, host_public), (laptop_key, laptop_public) = world.keys(root), world.keys(root)
        files = {
            "host": host_files(host_key, laptop_public),
            "laptop": laptop_files(laptop_key, host_public),
        }
        machines = {}
        for name, own in files.items():
            layer = write_layer(state / f"{name}-files", own)
            booting = LabMachine(name, self.networks[name], [layer, root], machine, state / name)
            machines[name] = stack.enter_context(booting)
        self.host, self.laptop = machines["host"], machines["laptop"]
        for unit in _installed_units(files["host"]):
            self.host.wait_for_unit(unit)
        self.laptop.wait_until_succeeds("ping -c 1 -W 1 10.0.0.1")
        _import_image(self.host)

    # ------------------------------------------------------------------ rules on HOST

    def load(self) -> None:
        """Load the rules, as the unit does."""
        self.host.succeed("systemctl reload-or-restart firewall")

    def unload(self) -> None:
        """Take our table away."""
        self.host.succeed(
            "printf 'table inet flashpods\\ndelete table inet flashpods\\n' | nft -f -"
        )

    def counters(self) -> dict[str, int]:
        """Return the packets that each named counter has seen."""
        listed = json.loads(self.host.succeed("nft -j list counters table inet flashpods"))
        found = (entry.get("counter") for entry in listed["nftables"])
        return {c["name"]: c["packets"] for c in found if c}

    @contextmanager
    def counted(self) -> Iterator[dict[str, int]]:
        """Give a dictionary that holds, after the block, what each counter grew by, if it did."""
        before = self.counters()
        grown: dict[str, int] = {}
        yield grown
        after = self.counters()
        grown |= {name: n - before[name] for name, n in after.items() if n > before[name]}

    # ------------------------------------------------------------------ places on HOST

    @contextmanager
    def as_user(self, uid: int) -> Iterator[LabProber]:
        """A process in HOST's own network namespace."""
        drop = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
        with self._prober(*drop) as prober:
            yield prober

    @contextmanager
    def container(self, network: str, podman: str = PODMAN) -> Iterator[tuple[str, LabProber]]:
        """A container's network namespace; its name comes with the prober."""
        options = f"--network={network}"
        name = self.host.succeed(
            f"{podman} run --detach --pull=never --init {options} {IMAGE} /bin/sleep 1000"
        ).strip()
        try:
            with self._prober(*self.network_of(name, podman)) as prober:
                yield name, prober
        finally:
            self.host.succeed(f"{podman} rm --force --time=0 {name}")

    def network_of(self, name: str, podman: str = PODMAN) -> list[str]:
        """Return the words that put a command into a container's network."""
        inspect = f"{podman} inspect --format '{{{{.State.Pid}}}}' {name}"
        return ["nsenter", f"--target={self.host.succeed(inspect).strip()}", "--net", "--"]

    @contextmanager
    def _prober(self, *wrap: str) -> Iterator[LabProber]:
        process = Process(self.host.argv(*wrap, "python3", "/opt/lab/probe.py"))
        try:
            yield LabProber(process)
        finally:
            process.end()


class LabProber(netlab.Prober):
    """Takes the rsync daemon's greeting for the host's."""

    def __call__(self, *cells: tuple[str, str, int], seconds: float = 3.0) -> list[str]:
        said = super().__call__(*cells, seconds=seconds)
        return ["host" if text.startswith("@RSYNCD") else text for text in said]


def _installed_units(files: Mapping[str, str]) -> list[str]:
    return [Path(name).name for name in files if name.endswith(".service")]


def _import_image(host: LabMachine) -> None:
    host.succeed(
        "mkdir -p /tmp/image/bin /tmp/image/etc && cp /usr/bin/busybox /tmp/image/bin/",
        "for name in sh sleep cat nslookup nc; do ln -s busybox /tmp/image/bin/$name; done",
        "tar -C /tmp/image -cf /tmp/image.tar .",
        f"{PODMAN} import /tmp/image.tar {IMAGE}",
        f"podman import /tmp/image.tar {IMAGE}",
    )
