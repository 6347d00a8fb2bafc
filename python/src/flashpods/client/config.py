"""Where the host is and how to speak to it: ``~/.config/flashpods/config.json`` and environment.

The environment wins over the file. The token comes from ``FLASHPODS_API_TOKEN``, from the file
that ``FLASHPODS_API_TOKEN_FILE`` names, from the file that the key ``token_file`` names, from
``token`` beside the configuration or in the user's own directory (which differ where one
configuration serves all users), or from the keyring (:mod:`flashpods.client.keyring`); never from
an argument, which every process may read.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from flashpods.client.errors import ConfigError
from flashpods.client.keyring import find_in_keyring
from flashpods.client.retry import RetryPolicy

__all__ = [
    "DEFAULT_EXCLUDE",
    "ClientConfig",
    "check_token",
    "check_values",
    "default_config_path",
    "read_values",
    "token_paths",
]

DEFAULT_HOST: Final = "10.0.0.1"
DEFAULT_EXCLUDE: Final = (".git", "node_modules", "target", "__pycache__", ".venv")
MAX_CONFIG_BYTES: Final = 1 << 20
MAX_EXCLUDES: Final = 1000
_HOST = re.compile(r"[A-Za-z0-9._:%\[\]-]+\Z")
_TOKEN = re.compile(r"[\x21-\x7e]{1,4096}\Z")


def default_config_path(env: Mapping[str, str]) -> Path:
    """Return the path of the configuration file: XDG's, or what FLASHPODS_CONFIG says."""
    if env.get("FLASHPODS_CONFIG"):
        return Path(env["FLASHPODS_CONFIG"])
    return _user_directory(env) / "config.json"


def token_paths(env: Mapping[str, str], config_path: Path) -> list[Path]:
    """Return where a token may lie that nothing names, the first readable one counts."""
    return list(dict.fromkeys((config_path.parent / "token", _user_directory(env) / "token")))


def _user_directory(env: Mapping[str, str]) -> Path:
    base = env.get("XDG_CONFIG_HOME") or str(Path(env.get("HOME") or "~").expanduser() / ".config")
    return Path(base) / "flashpods"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """The laptop's settings. ``api_url`` and ``rsync_url`` win over host and port."""

    token: str = field(repr=False)
    token_source: str = "its caller"  # noqa: S105 - where it is from, for messages
    api_host: str = DEFAULT_HOST
    api_port: int = 8080
    rsync_host: str | None = None  # None: the rsync URL is the one that the host names
    api_url: str | None = None
    rsync_url: str | None = None
    default_exclude: tuple[str, ...] = DEFAULT_EXCLUDE
    gitignore: bool = False  # whether a push leaves out what git ignores
    retry_max_attempts: int = 5
    retry_base_delay_ms: int = 1000
    retry_max_delay_ms: int = 30000

    @property
    def base_url(self) -> str:
        """The API's URL, without a slash at its end."""
        if self.api_url:
            return self.api_url.rstrip("/")
        host = self.api_host
        return f"http://{f'[{host}]' if ':' in host and host[0] != '[' else host}:{self.api_port}"

    @property
    def retry(self) -> RetryPolicy:
        """The numbers of the retry table."""
        return RetryPolicy(
            self.retry_max_attempts,
            self.retry_base_delay_ms / 1000,
            self.retry_max_delay_ms / 1000,
        )

    def rsync_base(self, offered: str) -> str:
        """Return the URL of the rsync module to push to.

        Args:
            offered: the URL in the host's answer; its host is replaced by ``rsync_host``.
        """
        if self.rsync_url:
            return self.rsync_url.rstrip("/")
        if self.rsync_host is None:
            return offered.rstrip("/")
        parts = urlsplit(offered)
        host = self.rsync_host
        if host.count(":") > 1 and host[0] != "[":
            host = f"[{host}]"
        has_port = re.search(r":\d+\Z", host) and not host.endswith("]")
        port = "" if has_port or parts.port is None else f":{parts.port}"
        return f"rsync://{host}{port}{parts.path}".rstrip("/")

    @classmethod
    def load(cls, path: Path | None = None, env: Mapping[str, str] | None = None) -> ClientConfig:
        """Read the file (it may be missing) and the environment.

        Raises:
            ConfigError: an unknown key, a value of the wrong kind, or no token.
        """
        env = os.environ if env is None else env
        where = path or default_config_path(env)
        values = read_values(where)
        token_file = values.pop("token_file", None)
        checked = check_values(values, str(where))
        checked.update(_from_environment(env))
        if env.get("FLASHPODS_HOST") or env.get("FLASHPODS_PORT"):
            checked.pop("api_url", None)
        if env.get("FLASHPODS_API_URL"):
            checked["api_url"] = _check("api_url", env["FLASHPODS_API_URL"], "FLASHPODS_API_URL")
        host = urlsplit(checked.get("api_url") or "").hostname or checked.get("api_host")
        token, source = _find_token(env, token_file, where, str(host or DEFAULT_HOST))
        return cls(token=token, token_source=source, **checked)


_KEYS: Final = {f.name for f in fields(ClientConfig)} - {"token", "token_source"} | {"token_file"}
_ENVIRONMENT: Final = {
    "FLASHPODS_HOST": "api_host",
    "FLASHPODS_PORT": "api_port",
    "FLASHPODS_RSYNC_URL": "rsync_url",
}
_RANGES: Final = {
    "api_port": (1, 65535),
    "retry_max_attempts": (0, 100),
    "retry_base_delay_ms": (1, 600_000),
    "retry_max_delay_ms": (1, 600_000),
}


def read_values(path: Path) -> dict[str, Any]:
    """Return what the file says, unchecked but for its keys; a missing one says nothing.

    Raises:
        ConfigError: it is no JSON object, or has an unknown key.
    """
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes")
        values = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: the file must hold one JSON object")
    if unknown := sorted(set(values) - _KEYS):
        raise ConfigError(
            f"{path}: unknown key{'s' if len(unknown) > 1 else ''} {', '.join(unknown)[:200]}; "
            f"known are {', '.join(sorted(_KEYS))}"
        )
    return values


def check_values(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the values of known keys in the kinds that :class:`ClientConfig` has.

    Raises:
        ConfigError: it names ``where``, the key, and what it may be.
    """
    return {key: _check(key, value, where) for key, value in values.items()}


def _from_environment(env: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, key in _ENVIRONMENT.items():
        text = env.get(name)
        if not text:
            continue
        number = key == "api_port" and text.isascii() and text.isdigit()
        found[key] = _check(key, int(text) if number else text, name)
    return found


def _check(key: str, value: Any, where: str) -> Any:
    if key in _RANGES:
        low, high = _RANGES[key]
        if type(value) is not int or not low <= value <= high:
            raise ConfigError(f"{where}: {key} is {_cut(value)}; it must be {low} to {high}")
    elif key == "default_exclude":
        if (
            not isinstance(value, list)
            or len(value) > MAX_EXCLUDES
            or not all(isinstance(item, str) and item and "\0" not in item for item in value)
        ):
            raise ConfigError(f"{where}: {key} must be a list of patterns")
        return tuple(value)
    elif key == "gitignore":
        if not isinstance(value, bool):
            raise ConfigError(f"{where}: {key} is {_cut(value)}; it must be true or false")
    elif key in {"api_url", "rsync_url"}:
        _check_url(key, value, where)
    elif not isinstance(value, str) or not _HOST.match(value):
        raise ConfigError(f"{where}: {key} is {_cut(value)}; it must be a host name or an address")
    return value


def _check_url(key: str, value: Any, where: str) -> None:
    schemes = ("http", "https") if key == "api_url" else ("rsync",)
    try:
        parts = urlsplit(value if isinstance(value, str) else "")
        usable = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or re.search(r"[\s\x00-\x1f\x7f]", value):
        raise ConfigError(f"{where}: {key} is {_cut(value)}; it must be {schemes[0]}://HOST[:PORT]")


def _find_token(
    env: Mapping[str, str], token_file: object, config_path: Path, host: str
) -> tuple[str, str]:
    """Return the token and where it was."""
    if env.get("FLASHPODS_API_TOKEN"):
        name = "FLASHPODS_API_TOKEN"
        return check_token(env[name], name), name
    if named := env.get("FLASHPODS_API_TOKEN_FILE") or token_file:
        if not isinstance(named, str):
            raise ConfigError(f"{config_path}: token_file must be a path")
        path = Path(named).expanduser()
        return _read_token(path), str(path)
    paths = token_paths(env, config_path)
    there = [path for path in paths if os.path.lexists(path)]
    if there:
        path = next((path for path in there if os.access(path, os.R_OK)), there[0])
        return _read_token(path), str(path)
    if kept := find_in_keyring(host):
        return check_token(kept, "the keyring"), "the keyring"
    raise ConfigError(
        "no API token: set FLASHPODS_API_TOKEN, or FLASHPODS_API_TOKEN_FILE to the file that "
        f"holds it, or write it to {paths[-1]}",
        code="missing_token",
    )


def _read_token(path: Path) -> str:
    try:
        with path.open("rb") as file:
            text = file.read(65536).decode("utf-8", "replace")
    except OSError as error:
        raise ConfigError(
            f"cannot read the token file {path}: {error.strerror}", code="missing_token"
        ) from error
    # A host's file may hold two tokens while they rotate; the first is the current one.
    lines = text.split()
    return check_token(lines[0] if lines else "", str(path))


def check_token(token: str, where: str) -> str:
    """Return the token without white space around it; raises ConfigError if it can't be one."""
    if not _TOKEN.match(token.strip()):  # the value itself is never shown
        raise ConfigError(f"{where} holds no usable token: it must be printable ASCII, no spaces")
    return token.strip()


def _cut(value: object) -> str:
    return repr(value)[:80]
