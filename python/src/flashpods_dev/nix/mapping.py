"""From what NixOS renders to a machine with Debian's paths: pure text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

STORE: Final = re.compile(r"/nix/store/([A-Za-z0-9+._?=-]+)((?:/[A-Za-z0-9+._?=-]+)*)")
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"
# Programs that Debian does not have, and where a machine of the lab finds them.
OWN: Final = {
    "flashpods-next": "/opt/flashpods-next",  # the next generation's
    "flashpods": "/opt/flashpods",
    "spire": "/opt/spire",
}
SCRIPTS: Final = "/usr/local/libexec/flashpods"
# What is configuration and no script.
CONFIGURATION: Final = {
    "wg0.conf": "/etc/wireguard/wg0.conf",
    "prometheus.yml": "/etc/prometheus/prometheus.yml",
    "prometheus.rules": "/etc/prometheus/prometheus.rules",
    "flashpods-alerts.yml": "/etc/prometheus/flashpods-alerts.yml",
}
# Of the Nix store, without a meaning elsewhere.
LEFT_OUT: Final = ("LOCALE_ARCHIVE=", "TZDIR=")
# What a unit is to be restarted or reloaded for: a file with the paths of what it depends on.
TRIGGERS: Final = re.compile(r"^(X-(?:Restart|Reload)-Triggers)=(\S+)$")


class UnmappedPath(Exception):
    """A store path stands in the text, and nothing says where that is elsewhere."""


class Places:
    """Where each store path is on a machine of the lab."""

    def __init__(self, files: Mapping[str, str], etc: Mapping[str, str]) -> None:
        """Take the texts behind store paths, and those of /etc.

        A file of the store that /etc shows as well is at its place in /etc; any other, a script, is
        in :data:`SCRIPTS`.
        """
        places = {text: f"/etc/{name}" for name, text in etc.items()}
        self._files = {
            path: places.get(text) or _own_place(path.rsplit("/", 1)[-1])
            for path, text in files.items()
        }
        self._in_etc = {path for path, text in files.items() if text in places}
        self._texts = files
        self.used: set[str] = set()

    def scripts(self) -> dict[str, str]:
        """Return the files outside of /etc that a text has named: store path → place."""
        return {p: self._files[p] for p in sorted(self.used) if p not in self._in_etc}

    def text(self, text: str) -> str:
        """Return the text with Debian's paths.

        Raises:
            UnmappedPath: a store path is none of ours and no program.
        """
        return STORE.sub(self._place, text)

    def unit(self, text: str) -> str:
        """Return a unit's text likewise, with Debian's PATH and without what is Nix's alone."""
        kept = (line for line in text.splitlines() if not _left_out(line))
        return self.text("\n".join([*map(_with_path, map(self._triggers, kept)), ""]))

    def _triggers(self, line: str) -> str:
        found = TRIGGERS.match(line)
        return f"{found[1]}={self._texts[found[2]]}" if found else line

    def _place(self, found: re.Match[str]) -> str:
        whole, package, inner = found[0], found[1], found[2]
        if whole in self._files:
            self.used.add(whole)
            return self._files[whole]
        name = re.sub(r"-(stub|\d[^/]*)$", "", package)
        directory, _, program = inner.rpartition("/")
        if directory not in {"/bin", "/sbin"} or not program:
            raise UnmappedPath(whole)
        for own, place in OWN.items():
            if name == own or name.startswith(f"{own}-"):
                return f"{place}/bin/{program}"
        return f"/usr/{'sbin' if program in SBIN else 'bin'}/{program}"


SBIN: Final = frozenset({"nft", "ip", "modprobe"})


def _own_place(name: str) -> str:
    return CONFIGURATION.get(name) or f"{SCRIPTS}/{name}"


def _left_out(line: str) -> bool:
    return line.removeprefix('Environment="').startswith(LEFT_OUT)


def _with_path(line: str) -> str:
    return f'Environment="PATH={PATH}"' if line.startswith('Environment="PATH=') else line


def sysusers(
    users: Mapping[str, Mapping[str, object]], groups: Mapping[str, Mapping[str, object]]
) -> str:
    """Return users and groups as sysusers.d(5) has them."""
    lines = [f"g {name} {_number(group['gid'])}" for name, group in sorted(groups.items())]
    for name, user in sorted(users.items()):
        number = _number(user["uid"])
        lines.append(f'u {name} {number}:{user["group"]} "" {user["home"]} /usr/sbin/nologin')
    return _lines(lines)


def tmpfiles(settings: Mapping[str, Mapping[str, Mapping[str, str]]]) -> str:
    """Return one file's settings as tmpfiles.d(5) has them."""
    keys = ("mode", "user", "group", "age", "argument")
    return _lines(
        " ".join([kind, path, *(line[key] for key in keys)]).rstrip()
        for path, kinds in sorted(settings.items())
        for kind, line in sorted(kinds.items())
    )


def sysctl(settings: Mapping[str, object]) -> str:
    """Return kernel settings as sysctl.d(5) has them."""
    return _lines(f"{name} = {value}" for name, value in sorted(settings.items()))


def _number(value: object) -> str:
    return "-" if value is None else str(value)


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
