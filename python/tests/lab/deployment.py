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
from pathlib import Path

import generations
import netlab
import world
from netlab import HERE, RESOLVER

from flashpods_dev.lab.machine import TIMEOUT, LabMachine
from flashpods_dev.machine import Machine, StackError

RENDERED = netlab.CHECKOUT / "lab" / "rendered"
# What the examples have in the place of both sides' public keys.
EXAMPLE_KEY = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
IMAGE = "localhost/lab:busybox"
AGENT_IMAGE = "localhost/lab:agent"
PODMAN = "podman --url unix:///run/flashpods/podman.sock"
SECRETS = {"anthropic_api_key": "sk-ant-lab", "github_token": "ghp_lab"}
NAMES = ("bin", "etc", "tmp", "work", "artifacts")
APPLETS = "sh cat cp ls sleep id env echo test true false grep nc nslookup wget seq head stat touch"

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
SECRET = 0o600
PROGRAM = 0o755


def host_files(key: str, token: str) -> dict[str, tuple[str, int]]:
    """Return what HOST has before it is deployed to: path → text and mode."""
    return {
        "etc/wireguard/private.key": (f"{key}\n", SECRET),
        "etc/flashpods/api-token": (f"{token}\n", SECRET),
        "etc/flashpods/secrets.json": (json.dumps(SECRETS), SECRET),
        "etc/resolv.conf": (f"nameserver {RESOLVER}\n", 0o644),
        "etc/containers/containers.conf": (RUNTIME, 0o644),
        "etc/systemd/system/lab-name-server.service": (NAME_SERVER, 0o644),
        "opt/lab/servers.py": ((HERE / "servers.py").read_text(), 0o644),
        "opt/lab/oci-runtime": (_source("lab/oci-runtime"), PROGRAM),
        "opt/lab/entrypoint.sh": (_source("pkgs/agent-image/entrypoint.sh"), PROGRAM),
        "usr/local/bin/ip": (IP, PROGRAM),
        "usr/sbin/modprobe": (NOTHING, PROGRAM),
    }


def empty_host_files() -> dict[str, tuple[str, int]]:
    """Return what a new HOST has: the lab's own, and no key, no token, no secret."""
    files = host_files("", "")
    return {
        name: file
        for name, file in files.items()
        if file[1] != SECRET  # that mode is theirs
    }


def laptop_files(key: str, token: str) -> dict[str, tuple[str, int]]:
    """Return the same of LAPTOP."""
    return {
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


class Elsewhere:
    """The internet as a node: commands of this machine, in the network between the two."""

    def __init__(self, network: netlab.Host) -> None:
        self.name = "internet"
        self._network = network

    def start(self) -> None:
        """Nothing: it is there."""

    def execute(self, command: str, timeout: float | None = TIMEOUT) -> tuple[int, str]:
        done = subprocess.run(
            [*self._network.enter, "/bin/bash", "-c", f"set -euo pipefail\n{command}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            timeout=timeout,
            check=False,
        )
        return done.returncode, done.stdout

    def succeed(self, *commands: str, timeout: float | None = TIMEOUT) -> str:
        said = ""
        for command in commands:
            code, output = self.execute(command, timeout)
            if code:
                raise StackError(f"internet: {command!r} failed ({code}):\n{output}")
            said += output
        return said

    def fail(self, *commands: str, timeout: float | None = TIMEOUT) -> str:
        said = ""
        for command in commands:
            code, output = self.execute(command, timeout)
            if not code:
                raise StackError(f"internet: {command!r} succeeded:\n{output}")
            said += output
        return said


class EmptyHost(LabMachine):
    """HOST's configuration on a machine that has nothing else; off until a script starts it."""

    def boot(self) -> None:
        super().boot()
        _import_image(self)


class Deployment:
    """The two machines, booted, and the internet."""

    def __init__(
        self, stack: ExitStack, machine: Machine, root: Path, product: Path, state: Path
    ) -> None:
        networks = world.networks(stack)
        (host_key, host_public), (laptop_key, laptop_public) = world.keys(root), world.keys(root)
        token = secrets.token_urlsafe(32)
        own = {
            "host": (host_files(host_key, token), laptop_public),
            "laptop": (laptop_files(laptop_key, token), host_public),
        }
        machines = {}
        for name, (files, peer) in own.items():
            layer = write_layer(state / f"{name}-own", RENDERED / name, files, peer=peer)
            if name == "host":
                for generation in generations.NAMES:
                    place = layer / generations.PLACE / generation
                    lay(place, RENDERED / generations.NAMES[generation], peer=peer)
                generations.write(layer, product)
            layers = [layer, product, root]
            booting = LabMachine(name, networks[name], layers, machine, state / f"{name}-machine")
            machines[name] = stack.enter_context(booting)
        self.host, self.laptop = machines["host"], machines["laptop"]
        self.internet = Elsewhere(networks["internet"])
        layer = write_layer(
            state / "spare-own", RENDERED / "host", empty_host_files(), peer=laptop_public
        )
        spare = EmptyHost(
            "spare",
            world.another_host(stack, networks["internet"]),
            [layer, product, root],
            machine,
            state / "spare-machine",
        )
        stack.callback(spare.crash)
        self.spare = spare
        self.host.wait_for_unit("podman-socket-flashpods.socket")
        _import_image(self.host)
        _import_agent_image(self.host)
        self.host.wait_for_unit("flashpods-api")
        self.laptop.wait_until_succeeds("ping -c 1 -W 1 10.0.0.1")

    @property
    def nodes(self) -> dict[str, object]:
        """What a body calls them."""
        return {
            "host": self.host,
            "laptop": self.laptop,
            "internet": self.internet,
            "spare": self.spare,
        }


def _import_image(host: LabMachine) -> None:
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
