"""Who reaches what from HOST's containers, in every network mode that Podman 5.4 has.

Read it as ``tests/boundary/matrix.py``. pasta of 2025 takes all addresses of eth0 into its
container and gives it the host as 169.254.1.2; the rootless bridge has no IPv6.
"""

from __future__ import annotations

from typing import Final

from netlab import GATEWAY4, GATEWAY6, HOST4, HOST6, METADATA, PRIVATE, WEB4, WEB6

# Column → Podman's --network; those without one are processes in HOST's own namespace.
NETWORKS: Final = {
    "host": "",
    "subid": "",
    "slirp": "slirp4netns",
    "slirp+lo": "slirp4netns:allow_host_loopback=true",
    "pasta": "pasta",
    "pasta+gw": "pasta:--map-gw",
    "pasta+T": "pasta:-T,auto,-U,auto",
    "pasta+lo": "pasta:--map-host-loopback,169.254.1.3",
    "bridge": "bridge",
}
COLUMNS: Final = tuple(NETWORKS)


def _family(addresses: tuple[str, ...], four: str, six: str) -> dict[str, str]:
    return {address: six if ":" in address else four for address in addresses}


MATRIX: Final = {
    #                 host sub slirp +lo pasta +gw +T +lo bridge
    "10.0.0.1":       "H   H   H     H   H     H   H  H   H",
    "fd77::1":        "H   H   H     H   H     H   H  H   .",
    HOST4:            "H   H   H     H   .     .   .  .   .",
    HOST6:            "H   H   H     H   .     .   .  .   .",
    "198.51.100.11":  "H   H   H     H   .     .   .  .   .",
    "127.0.0.1":      "H   H   .     .   .     .   H  .   .",
    "::1":            "H   H   .     .   .     .   H  .   .",
    "10.0.2.2":       "P   P   .     H   P     P   P  P   P",
    "10.0.2.3":       "P   P   .     .   P     P   P  P   P",
    "fd00::2":        "P   P   .     H   P     P   P  P   .",
    GATEWAY4:         "I   I   I     I   I     H   I  I   I",
    GATEWAY6:         "I   I   I     I   I     H   I  I   .",
    "10.0.0.2":       "W   W   W     W   W     W   W  W   W",
    "fd77::2":        "W   W   W     W   W     W   W  W   .",
    "169.254.1.2":    "L   L   L     L   H     H   H  H   H",
    "169.254.1.3":    "L   L   L     L   L     L   L  H   L",
    "fe80::1%eth0":   "L   L   .     .   L     L   L  L   .",
    "fe80::10%eth0":  "H   H   .     .   H     H   H  H   .",
    **_family(
        METADATA,     "M   M   M     M   M     M   M  M   M",
                      "M   M   M     M   M     M   M  M   ."),
    **_family(
        PRIVATE[:8],  "P   P   P     P   P     P   P  P   P",
                      "P   P   P     P   P     P   P  P   ."),
    WEB4:             "I   I   I     I   I     I   I  I   I",
    WEB6:             "I   I   I     I   I     I   I  I   .",
}  # fmt: skip
