"""Who reaches what: the verdict expected for each cell, as data.

A row is an address, a column a place that a process of the engine's user can have. Each cell
stands for the six TCP ports of ``netlab.PORTS`` and a UDP port, and says who answers there without
rules, and which counter must take each packet with them:

    H  an address of the host        host answers       job_to_host
    W  WireGuard's network           laptop             job_to_wireguard
    L  link-local                    internet           job_to_link
    M  a metadata service            internet           job_to_metadata
    P  private networks              internet           job_to_private
    I  the internet                  internet           reached, with rules as well
    .  the container itself, or no way out of it: nobody answers, nothing is counted, ever
    ~  pasta answers or does not, by its version: nobody answers with rules, nothing else compared

The ports of the API and of rsync are job_to_service in all of them but the last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from netlab import (
    GATEWAY4,
    GATEWAY6,
    HOST4,
    HOST6,
    LAPTOP,
    LINK,
    METADATA,
    PRIVATE,
    WEB4,
    WEB6,
)

WITHOUT_RULES: Final = {"H": "host", "W": "laptop"} | dict.fromkeys("LMPI", "internet")
COUNTER: Final = {
    "H": "job_to_host",
    "W": "job_to_wireguard",
    "L": "job_to_link",
    "M": "job_to_metadata",
    "P": "job_to_private",
}

# host: the host's own namespace, as the engine's user; subid: the same as a subordinate id
# slirp: slirp4netns; slirp+lo: with the host's loopback at 10.0.2.2 and fd00::2
# pasta: as Podman starts it; pasta+gw: the host's loopback at the gateway's address;
# pasta+T: the container's loopback is the host's
COLUMNS: Final = ("host", "subid", "slirp", "slirp+lo", "pasta", "pasta+gw", "pasta+T")

MATRIX: Final = {
    #                 host sub slirp +lo pasta +gw +T
    "10.0.0.1":       "H   H   H     H   H     H   H",
    "fd77::1":        "H   H   H     H   H     H   H",
    HOST4:            "H   H   H     H   .     .   .",  # pasta's container has them itself
    HOST6:            "H   H   H     H   .     .   .",
    "198.51.100.11":  "H   H   H     H   ~     ~   ~",  # pasta of 2024 gives it to the container
    "10.88.0.1":      "H   H   H     H   H     H   H",
    "127.0.0.1":      "H   H   .     .   .     .   H",
    "127.0.0.53":     "H   H   .     .   .     .   .",
    "::1":            "H   H   .     .   .     .   H",
    "10.0.2.2":       "P   P   .     H   P     P   P",
    "10.0.2.3":       "P   P   .     .   P     P   P",
    "fd00::2":        "P   P   .     H   P     P   P",
    GATEWAY4:         "I   I   I     I   I     H   H",
    GATEWAY6:         "I   I   I     I   I     H   H",
    **dict.fromkeys(LAPTOP, "W   W   W     W   W     W   W"),
    **dict.fromkeys(LINK, "L   L   L     L   L     L   L"),
    "fe80::1%eth0":   "L   L   .     .   ~     ~   ~",
    "fe80::10%eth0":  "H   H   .     .   ~     ~   ~",
    **dict.fromkeys(METADATA, "M   M   M     M   M     M   M"),
    **dict.fromkeys(PRIVATE[:8], "P   P   P     P   P     P   P"),
    WEB4:             "I   I   I     I   I     I   I",
    WEB6:             "I   I   I     I   I     I   I",
}  # fmt: skip

# pasta of 2023 loses the first datagram to the gateway's IPv6 address; no name serves link-local.
NO_UDP: Final = (GATEWAY6, "fe80::1%eth0", "fe80::10%eth0")


def column(
    name: str, columns: Sequence[str] = COLUMNS, matrix: Mapping[str, str] = MATRIX
) -> dict[str, list[str]]:
    """Return verdict → addresses of one place."""
    place = columns.index(name)
    found: dict[str, list[str]] = {}
    for address, row in matrix.items():
        found.setdefault(row.split()[place], []).append(address)
    return found
