"""HOST and LAPTOP as the NixOS modules make them: booted from ``lab/rendered``.

Nothing of Flashpods is configured here. What is added is what a machine has before it is deployed
to: keys and secrets, a name server, an image; and stand-ins for what the lab's kernel lacks.
"""

from __future__ import annotations

import json
import re
import secrets
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import generations
import netlab
import world
from netlab import HERE, RESOLVER

from flashpods_dev.lab.machine import LabMachine
from flashpods_dev.lab.verbs import LINE, Verbs
from flashpods_dev.machine import Machine

RENDERED = netlab.CHECKOUT / "lab" / "rendered"
# What the examples have in the place of both sides' public keys.
EXAMPLE_KEY = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
IMAGE = "localhost/lab:busybox"
AGENT_IMAGE = "localhost/lab:agent"
PODMAN = "podman --url unix:///run/flashpods/podman.sock"
SECRETS = {"anthropic_api_key": "sk-ant-lab", "github_token": "ghp_lab"}
NAMES = ("bin", "etc", "tmp", "work", "artifacts")
APPLETS = (
    "sh cat cp dd fallocate ls mv sleep id env echo test true false grep nc nslookup wget seq head "
    "stat touch"
)

# The kernel's WireGuard is not here: what makes an interface of that type gets wireguard-go.
IP = """\
#!/bin/sh
case "$*" in
  "link add dev "*" type wireguard") exec wireguard-go "$4" ;;
esac
exec /usr/sbin/ip "$@"
"""
NOTHING = "#!/bin/sh\nexit 0\n"
RUNTIME = """\
[engine]
runtime = "lab"
[engine.runtimes]
lab = ["/opt/lab/oci-runtime"]
"""
NAME_PLAN = json.dumps({"who": "resolver", "dns": [[RESOLVER, 53]]})
NAME_SERVER = f"""\
[Unit]
DefaultDependencies=no
After=sysinit.target
Before=network-online.target
[Service]
ExecStart=/usr/bin/python3 /opt/lab/servers.py '{NAME_PLAN}'
[Install]
WantedBy=multi-user.target
"""
# As the LAPTOP of checks/common has it: what drives the MCP server.
MCP_SESSION = """\
#!/bin/sh
exec /opt/flashpods/venv/bin/python /opt/lab/mcp_session.py "$@"
"""
# The host that backups are carried to, and HOST's way there: what checks/common/elsewhere.nix says
# of ssh, and the command that NixOS makes, with the unit's own settings.
PLACE = """\
[Service]
RuntimeDirectory=sshd
ExecStart=/usr/sbin/sshd -D
[Install]
WantedBy=multi-user.target
"""
SSH = """\
Host 192.0.2.2
  IdentityFile /etc/flashpods/restic-key
  StrictHostKeyChecking accept-new
"""
RESTIC = """\
#!/bin/bash
export $(systemctl show --value --property=Environment restic-backups-flashpods.service)
exec restic "$@"
"""
SECRET = 0o600
PROGRAM = 0o755


def host_files(key: str, token: str, ssh_key: str) -> dict[str, tuple[str, int]]:
    """Return what HOST has before it is deployed to: path → text and mode."""
    return {
        "etc/flashpods/restic-password": (f"{secrets.token_urlsafe(16)}\n", SECRET),
        "etc/flashpods/restic-key": (ssh_key, SECRET),
        "etc/ssh/ssh_config.d/elsewhere.conf": (SSH, 0o644),
        "usr/local/bin/restic-flashpods": (RESTIC, PROGRAM),
        "etc/wireguard/private.key": (f"{key}\n", SECRET),
        "etc/flashpods/api-token": (f"{token}\n", SECRET),
        "etc/flashpods/secrets.json": (json.dumps(SECRETS), SECRET),
        "etc/resolv.conf": (f"nameserver {RESOLVER}\n", 0o644),
        "etc/systemd/system/lab-name-server.service": (NAME_SERVER, 0o644),
        "opt/lab/servers.py": ((HERE / "servers.py").read_text(), 0o644),
        "opt/lab/entrypoint.sh": (_source("pkgs/agent-image/entrypoint.sh"), PROGRAM),
    }


def stand_ins() -> dict[str, tuple[str, int]]:
    """Return what HOST has in the place of what this machine's kernel lacks."""
    return {
        "etc/containers/containers.conf": (RUNTIME, 0o644),
        "opt/lab/oci-runtime": (_source("lab/oci-runtime"), PROGRAM),
        "usr/local/bin/ip": (IP, PROGRAM),
        "usr/sbin/modprobe": (NOTHING, PROGRAM),
    }


def empty_host_files() -> dict[str, tuple[str, int]]:
    """Return what a new HOST has: the lab's own, and no key, no token, no secret."""
    files = host_files("", "", "")
    return {
        name: file
        for name, file in files.items()
        if file[1] != SECRET  # that mode is theirs
    }


def laptop_files(key: str, token: str, ssh_public: str) -> dict[str, tuple[str, int]]:
    """Return the same of LAPTOP."""
    return {
        "root/.ssh/authorized_keys": (ssh_public, SECRET),
        "etc/systemd/system/sshd.service": (PLACE, 0o644),
        "etc/wireguard/private.key": (f"{key}\n", SECRET),
        "root/.config/flashpods/token": (f"{token}\n", SECRET),
        "etc/resolv.conf": ("nameserver 127.0.0.1\n", 0o644),
        "opt/lab/mcp_session.py": (_source("checks/common/mcp_session.py"), 0o644),
        "usr/local/bin/mcp-session": (MCP_SESSION, PROGRAM),
        "usr/sbin/modprobe": (NOTHING, PROGRAM),
    }


def _source(name: str) -> str:
    return (netlab.CHECKOUT / name).read_text()


def write_layer(
    layer: Path, rendered: Path, files: Mapping[str, tuple[str, int]], *, peer: str
) -> Path:
    """Write a machine's own layer: what was rendered, with the real key of the other side."""
    lay(layer, rendered, peer=peer)
    for name, (text, mode) in files.items():
        path = layer / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
    for unit, wanting in installs(layer / "etc/systemd/system"):
        wants = unit.parent / f"{wanting}.wants"
        wants.mkdir(exist_ok=True)
        (wants / unit.name).symlink_to(f"../{unit.name}")
    return layer


def lay(layer: Path, rendered: Path, *, peer: str) -> None:
    """Write what was rendered, with the real key of the other side."""
    for source in rendered.rglob("*"):
        target = layer / source.relative_to(rendered)
        if source.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(source.read_text().replace(EXAMPLE_KEY, peer))
            target.chmod(PROGRAM if "libexec" in source.parts else 0o644)


def installs(units: Path) -> Iterator[tuple[Path, str]]:
    """Yield each unit with each that wants it, by its [Install] section."""
    for unit in sorted(p for p in units.iterdir() if p.is_file()):
        for line in re.findall(r"^WantedBy=(.+)$", unit.read_text(), re.MULTILINE):
            for wanting in line.split():
                yield unit, wanting


class Elsewhere(Verbs):
    """The internet as a node: commands of this machine, in the network between the two."""

    name = "internet"

    def __init__(self, network: netlab.Host) -> None:
        self._network = network

    def start(self) -> None:
        """Nothing: it is there."""

    def bash(self, command: str, seconds: float | None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._network.enter, "/bin/bash", "-c", f"{LINE}{command}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )


@dataclass(frozen=True, slots=True)
class Parts:
    """What machines are made of."""

    machine: Machine
    root: Path
    product: Path
    state: Path  # a tmpfs

    def lab_machine(
        self, name: str, network: netlab.Host, own: Path, *, patience: float = 1.0
    ) -> LabMachine:
        """Return a machine of the lab with a layer of its own."""
        layers, place = [own, self.product, self.root], self.state / f"{name}-machine"
        return LabMachine(name, network, layers, self.machine, place, patience=patience)


class EmptyHost(LabMachine):
    """HOST's configuration on a machine that has nothing else; off until a script starts it."""

    def boot(self) -> None:
        super().boot()
        _import_image(self)


class Deployment:
    """The two machines, booted, and the internet."""

    emulated = False

    def __init__(self, stack: ExitStack, parts: Parts) -> None:
        self.parts = parts
        self.networks = world.networks(stack, emulated=self.emulated)
        pairs = {name: world.keys(parts.root) for name in ("host", "laptop")}
        token, ssh = secrets.token_urlsafe(32), world.ssh_keys()
        own = {
            name: write_layer(
                parts.state / f"{name}-own", RENDERED / name, files(key, token, half), peer=peer
            )
            for name, files, (key, _), (_, peer), half in (
                ("host", self.host_files, pairs["host"], pairs["laptop"], ssh[0]),
                ("laptop", laptop_files, pairs["laptop"], pairs["host"], ssh[1]),
            )
        }
        if not self.emulated:
            self._lay_generations(own["host"], pairs["laptop"][1])
        self.host = stack.enter_context(self.make_host(own["host"]))
        self.laptop = stack.enter_context(self.make_laptop(own["laptop"]))
        self.internet = Elsewhere(self.networks["internet"])
        self.spare = None if self.emulated else self._make_spare(stack, pairs["laptop"][1])
        _import_image(self.host)
        if not self.emulated:  # no script that runs there has an agent
            _import_agent_image(self.host)
        self.host.wait_for_unit("flashpods-api")
        self.laptop.wait_until_succeeds("ping -c 1 -W 1 10.0.0.1")

    def host_files(self, key: str, token: str, ssh_key: str) -> dict[str, tuple[str, int]]:
        """Return what HOST has before it is deployed to."""
        return {**host_files(key, token, ssh_key), **stand_ins()}

    def make_host(self, own: Path) -> Any:
        """Return HOST, which its context boots."""
        return self.parts.lab_machine("host", self.networks["host"], own)

    def make_laptop(self, own: Path) -> LabMachine:
        """Return LAPTOP, likewise."""
        return self.parts.lab_machine("laptop", self.networks["laptop"], own)

    def _lay_generations(self, own: Path, peer: str) -> None:
        """Have HOST's next generation, and how to go back, on it."""
        for generation, rendered in generations.NAMES.items():
            lay(own / generations.PLACE / generation, RENDERED / rendered, peer=peer)
        generations.write(own, self.parts.product)

    def _make_spare(self, stack: ExitStack, peer: str) -> EmptyHost:
        """Return a machine that is off until a script starts it."""
        parts, network = self.parts, world.another_host(stack, self.networks["internet"])
        own = write_layer(
            parts.state / "spare-own",
            RENDERED / "host",
            {**empty_host_files(), **stand_ins()},
            peer=peer,
        )
        layers, place = [own, parts.product, parts.root], parts.state / "spare-machine"
        spare = EmptyHost("spare", network, layers, parts.machine, place)
        stack.callback(spare.crash)
        return spare

    @property
    def nodes(self) -> dict[str, Any]:
        """What a body calls them."""
        return {
            "host": self.host,
            "laptop": self.laptop,
            "internet": self.internet,
            "spare": self.spare,
        }


def _import_image(host: Verbs) -> None:
    host.wait_for_unit("podman-socket-flashpods.socket")
    host.succeed(
        f"mkdir -p {' '.join(f'/tmp/image/{name}' for name in NAMES)}",
        "cp /usr/bin/busybox /tmp/image/bin/",
        f"for name in {APPLETS}; do ln -s busybox /tmp/image/bin/$name; done",
        "echo 'root:x:0:0::/:/bin/sh' >/tmp/image/etc/passwd",
        "chmod 1777 /tmp/image/tmp",
        "tar -C /tmp/image -cf /tmp/image.tar .",
        f"{PODMAN} import /tmp/image.tar {IMAGE}",
        "rm -r /tmp/image /tmp/image.tar",
    )


def _import_agent_image(host: LabMachine) -> None:
    """Make the agents' image of pkgs/agent-image with what is on HOST: busybox and its own git."""
    top = "/tmp/agent"
    host.succeed(
        f"mkdir -p {' '.join(f'{top}/{name}' for name in (*NAMES, 'usr/bin', 'usr/local/bin'))}",
        f"cp --parents /usr/bin/busybox /usr/bin/git {top}",
        f"for name in $(busybox --list); do ln -s /usr/bin/busybox {top}/bin/$name; done",
        # What a push to a repository on the same machine starts.
        f"for name in upload receive; do ln -s git {top}/usr/bin/git-$name-pack; done",
        f"cp --parents --dereference $(ldd /usr/bin/git | grep -o '/[^ ]*') {top}",
        f"cp /opt/lab/entrypoint.sh {top}/",
        f"echo 'root:x:0:0::/:/bin/sh' >{top}/etc/passwd",
        f"chmod 1777 {top}/tmp",
        f"tar -C {top} -cf {top}.tar .",
        f"{PODMAN} import --change 'ENTRYPOINT [\"/entrypoint.sh\"]' "
        f"--change 'ENV PATH=/usr/local/bin:/usr/bin:/bin' {top}.tar {AGENT_IMAGE}",
        f"rm -r {top} {top}.tar",
    )
