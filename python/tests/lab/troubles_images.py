"""A trouble of images: one that is large, behind a line that is slow."""

from __future__ import annotations

import json
from typing import Final

from deployment import NAMES, PODMAN
from netlab import GATEWAY4
from oncall import OnCall
from trouble import Trouble, as_said, by_doctor, look
from world import TAP

PORT: Final = 5000
LARGE: Final = f"{GATEWAY4}:{PORT}/lab/large:1"
TRUST: Final = "/etc/containers/registries.conf.d/lab.conf"
BYTES: Final = 6_000_000  # incompressible
LINE: Final = "1500kbit"  # so 32 s, over the 20 that a job may be starting here
RESTART: Final = "systemctl restart podman-socket-flashpods"


def with_registry(oncall: OnCall) -> None:
    """Have the image in a registry on the internet, not on HOST, and the line to it slow."""
    place = oncall.deployed.parts.state / "registry"
    place.mkdir()
    config = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(place / "images")}},
        "http": {"addr": f"{GATEWAY4}:{PORT}"},
    }
    (place / "registry.yml").write_text(json.dumps(config))  # JSON is YAML
    oncall.deployed.internet.succeed(
        f"setsid docker-registry serve {place}/registry.yml >{place}/log 2>&1 & "
        f"echo $! >{place}/pid",
        f"timeout 20 bash -c 'until </dev/tcp/{GATEWAY4}/{PORT}; do sleep 0.1; done' 2>/dev/null",
    )
    top = "/tmp/large"
    oncall.host.succeed(
        f"mkdir -p {' '.join(f'{top}/{name}' for name in NAMES)} {TRUST.rpartition('/')[0]}",
        f"cp /usr/bin/busybox {top}/bin/sh && head -c {BYTES} /dev/urandom >{top}/blob",
        f"tar -C {top} -cf {top}.tar . && {PODMAN} import {top}.tar {LARGE}",
        f"rm -r {top} {top}.tar",
        f"{PODMAN} push --tls-verify=false {LARGE} && {PODMAN} rmi {LARGE}",
        f"printf '[[registry]]\\nlocation = \"{GATEWAY4}:{PORT}\"\\ninsecure = true\\n' >{TRUST}",
        RESTART,  # it reads that once
    )
    oncall.deployed.internet.succeed(
        f"tc qdisc add dev {TAP} root tbf rate {LINE} burst 32k latency 400ms"
    )


def without_registry(oncall: OnCall) -> None:
    place = oncall.deployed.parts.state / "registry"
    oncall.deployed.internet.succeed(f"tc qdisc del dev {TAP} root; kill $(cat {place}/pid)")
    oncall.host.succeed(f"{PODMAN} rmi --ignore {LARGE}; rm {TRUST}", RESTART)


def wait_in_vain(oncall: OnCall) -> None:
    """Post a job, which ends before its image is here."""
    row = oncall.api.ended(oncall.job("echo ran", image=LARGE))
    assert (row["status"], row["error"]) == ("failed", "stuck_in_starting"), row
    assert "still on its way" in row["events"][-1]["why"], row


def has_it(oncall: OnCall) -> None:
    """See that the next job need not wait."""
    assert oncall.api.run("echo ran", image=LARGE) == ["ran"]


TROUBLES: Final = (
    Trouble(
        name="a large image behind a slow line",
        section="jobs-stuck-in-starting",
        how="6 MB in a registry behind 1.5 Mbit/s",
        sees="jobs that end with `stuck_in_starting`",
        prepare=with_registry,
        make=wait_in_vain,
        seen=lambda _: None,  # the job's end is it
        after=without_registry,
        code="image_on_its_way",
        says=f"1 jobs ended before they ran: their image is not here; .*[0-9a-f]{{16}} .* {LARGE}",
        steps=(
            look(),
            by_doctor("image_on_its_way", "flashpods-admin pull-images"),
            as_said("have it here before the next job asks", has_it),
        ),
    ),
)
