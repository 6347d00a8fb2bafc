"""All settings, as one typed model read from one JSON file.

The NixOS module renders the file; ``flashpods check-config FILE`` validates it at build time. The
environment overrides single keys: ``FLASHPODS_SETTINGS__HTTP__PORT=8081``. Unknown keys are errors.
Sizes are bytes unless the name says otherwise, times are seconds unless the name says otherwise.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from itertools import pairwise, permutations
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from flashpods.config_backup import Backup, backup_contradictions
from flashpods.config_base import ConfigError, Seconds, Section, explain
from flashpods.config_identity import Identity, Spire, identity_contradictions
from flashpods.config_tokens import Tokens, token_contradictions
from flashpods.jobs.names import valid_image

MB = 1024**2
GB = 1024**3
DEFAULT_FILE = Path("/etc/flashpods/settings.json")
ENVIRONMENT_PREFIX: Final = "FLASHPODS_SETTINGS__"
TOKEN_CREDENTIAL: Final = "api-token"  # noqa: S105 - a name

SECCOMP_PROFILE: Final = Path(__file__).parent / "adapters" / "podman" / "seccomp.json"

Bytes = Annotated[int, Field(gt=0, le=1024 * GB)]


def _image(reference: str) -> str:
    """Hold the defaults to the rule of requests."""
    if not valid_image(reference):
        raise ValueError("give an image reference, without a transport")
    return reference


Image = Annotated[str, AfterValidator(_image)]


class Http(Section):
    """The API's listeners."""

    host: IPv4Address | IPv6Address = IPv4Address("10.0.0.1")
    port: int = Field(8080, ge=0, le=65535)
    # Under systemd's LoadCredential the credential "api-token" is read instead.
    token_file: Path = Path("/etc/flashpods/api-token")
    body_limit: Bytes = 1 * MB
    rate_per_second: float = Field(100, gt=0)
    rate_burst: int = Field(10, ge=1)
    rate_clients: int = Field(4096, ge=1)  # how many clients' buckets are kept
    follow_limit: int = Field(1000, ge=1)  # open event streams at once
    shutdown_seconds: Seconds = 8
    metrics_host: IPv4Address | IPv6Address | None = IPv4Address("127.0.0.1")
    metrics_port: int = Field(9464, ge=0, le=65535)
    metrics_sample_seconds: Seconds = 15  # between looks at disks, components, status files


class Paths(Section):
    """Where things are."""

    database: Path = Path("/var/lib/flashpods/db/flashpods.db")
    transfers: Path = Path("/tmp/flashpods/uploads")  # noqa: S108 - the contract's path (section 12)
    finalized: Path = Path("/tmp/flashpods/finalized")  # noqa: S108 - likewise
    work: Path = Path("/tmp/flashpods/work")  # noqa: S108 - likewise
    artifacts: Path = Path("/var/lib/flashpods/artifacts")
    capture: Path = Path("/var/lib/flashpods/capture")
    logs: Path = Path("/var/log/flashpods")


class Podman(Section):
    """The container engine."""

    socket: Path = Path("/run/flashpods/podman.sock")
    network: Literal["slirp4netns", "pasta", "none"] = "slirp4netns"
    pids_limit: int = Field(2048, ge=16)
    call_seconds: Seconds = 30
    pull_idle_seconds: Seconds = 240  # without a byte of progress
    cgroup_parent: str | None = None  # the job's cgroup is <cgroup_parent>/job_<id>
    launch_slots: int = Field(0, ge=0)  # containers being created at once; 0: twice the cores
    mounts: dict[str, str] = Field(default_factory=dict)  # target → host path, read-only
    # Pulled by flashpods-admin pull-images beside the images of both types of job.
    prepull: tuple[Image, ...] = ()
    seccomp_profile: Path = SECCOMP_PROFILE  # read by Podman's service


class Worker(Section):
    """The bounds of one type of job."""

    image: Image = "ubuntu:22.04"
    cpus: int = Field(2, ge=1)
    memory_gb: int = Field(4, ge=1)
    timeout_minutes: int = Field(30, ge=1)
    max_cpus: int = Field(8, ge=1)
    max_memory_gb: int = Field(16, ge=1)
    max_timeout_minutes: int = Field(120, ge=1)


class Agent(Worker):
    """Agents: smaller at most, longer by default."""

    image: Image = "flashpods/agent:latest"
    # What the entrypoint runs, split at blanks; the image's own default when None.
    command: str | None = Field(None, pattern=r"^[!-~]([ -~]*[!-~])?$", max_length=4096)
    # What it clones for a tree that brings no repository of its own.
    git_url: str | None = Field(None, pattern=r"^https?://[^\s@/]+/\S+$", max_length=2048)
    timeout_minutes: int = Field(60, ge=1)
    max_cpus: int = Field(4, ge=1)
    max_memory_gb: int = Field(8, ge=1)


class Jobs(Section):
    """How jobs run."""

    worker: Worker = Worker()
    agent: Agent = Agent()
    reserve_cpus: int = Field(0, ge=0)
    reserve_memory_gb: int = Field(0, ge=0)
    grace_seconds: Seconds = 10
    starting_seconds: Seconds = 300
    backstop_slack_seconds: Seconds = 30
    recovery_seconds: Seconds = 60
    # What one job may hold on disk while it runs: /artifacts, its container's layer, an agent's
    # /work. Beyond it the job is ended.
    disk_bytes: Bytes = 20 * GB
    disk_files: int = Field(1_000_000, ge=1_000, le=10_000_000)  # files, links, directories


class Uploads(Section):
    """Trees on their way in."""

    rsync_url: str = "rsync://10.0.0.1/uploads"
    max_bytes: Bytes = 2 * GB
    total_bytes: Bytes = 10 * GB
    max_files: int = Field(500_000, ge=1, le=1_000_000)  # files, links, directories of one upload
    bases: int = Field(8, ge=0)  # trees kept, one a project, so that a second push is small
    finalize_within_seconds: Seconds = 30 * 60
    use_within_seconds: Seconds = 60 * 60


class Output(Section):
    """Logs and artifacts."""

    log_bytes: Bytes = 50 * MB
    logs_total_bytes: Bytes = 10 * GB
    log_retention_seconds: Seconds = 24 * 3600
    artifact_file_bytes: Bytes = 1 * GB
    artifact_job_bytes: Bytes = 2 * GB
    artifact_files: int = Field(200, ge=1)
    artifact_retention_seconds: Seconds = 3600


class Cleanup(Section):
    """The reaper."""

    every_seconds: Seconds = 60
    # A row goes at the earlier of this and output.log_retention_seconds.
    job_retention_seconds: Seconds = 7 * 86400
    upload_row_retention_seconds: Seconds = 7 * 86400
    images_total_bytes: Bytes = 50 * GB
    orphan_grace_seconds: Seconds = 15


class Disk(Section):
    """Thresholds on each tree's file system, in percent used."""

    warn_percent: int = Field(70, ge=1, le=100)
    critical_percent: int = Field(85, ge=1, le=100)  # no new jobs
    guard_percent: int = Field(92, ge=1, le=100)  # the job that holds most is ended


class Development(Section):
    """What only a development machine may set."""

    allow_unenforced_limits: bool = False
    pretend_cpus: int | None = Field(default=None, ge=1)  # the capacity of a host that is not there
    pretend_memory_gb: int | None = Field(default=None, ge=1)


class Settings(BaseSettings):
    """The whole configuration."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter="__",
    )

    http: Http = Http()
    paths: Paths = Paths()
    podman: Podman = Podman()
    jobs: Jobs = Jobs()
    uploads: Uploads = Uploads()
    output: Output = Output()
    cleanup: Cleanup = Cleanup()
    disk: Disk = Disk()
    backup: Backup = Backup()
    identity: Identity = Identity()
    spire: Spire = Spire()
    tokens: Tokens = Tokens()
    development: Development = Development()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - likewise
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - likewise
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file."""
        return env_settings, init_settings

    @model_validator(mode="after")
    def _ordered(self) -> Settings:
        for name, kind in (("worker", self.jobs.worker), ("agent", self.jobs.agent)):
            for key in ("cpus", "memory_gb", "timeout_minutes"):
                default, most = getattr(kind, key), getattr(kind, f"max_{key}")
                if default > most:
                    raise ValueError(
                        f"jobs.{name}.{key} is {default}, more than jobs.{name}.max_{key} {most}: "
                        f"lower the one or raise the other"
                    )
        steps = ("warn_percent", "critical_percent", "guard_percent")
        for lower, upper in pairwise(steps):
            if (least := getattr(self.disk, lower)) > (most := getattr(self.disk, upper)):
                raise ValueError(
                    f"disk.{lower} is {least}, more than disk.{upper} {most}: "
                    f"lower the one or raise the other"
                )
        return self


def load(file: Path | None) -> Settings:
    """Read the settings.

    Args:
        file: the JSON file; ``FLASHPODS_SETTINGS_FILE`` or :data:`DEFAULT_FILE` when None.

    Raises:
        ConfigError: the file is missing, not JSON, a key is unknown or out of range, or two keys
            contradict each other.
    """
    path = file or Path(os.environ.get("FLASHPODS_SETTINGS_FILE", DEFAULT_FILE))
    try:
        data: Any = json.loads(path.read_text())
    except OSError as e:
        raise ConfigError(f"settings file {path}: {e.strerror}") from e
    except RecursionError as e:
        raise ConfigError(f"settings file {path} is not usable: nested too deeply") from e
    except ValueError as e:
        raise ConfigError(f"settings file {path} is not JSON: {e}") from e
    if not isinstance(data, dict):
        raise ConfigError(f"settings file {path} must hold one JSON object")
    _check_environment()
    try:
        settings = Settings(**data)
    except ValidationError as e:
        raise ConfigError(f"settings file {path}: {explain(e, Settings)}") from e
    except SettingsError as e:
        raise ConfigError(f"environment: {' '.join(str(e).split())}") from e
    if found := "; ".join(contradictions(settings)):
        raise ConfigError(f"settings file {path}: {found}")
    return settings


def _check_environment() -> None:
    """Refuse variables with our prefix that name no section: pydantic-settings ignores them.

    An unknown key within a section reaches the section's model, which refuses it.
    """
    prefix = ENVIRONMENT_PREFIX.lower()
    for variable in os.environ:
        # Without regard to case, as pydantic-settings reads them.
        section = variable.lower().removeprefix(prefix).partition("__")[0]
        if variable.lower().startswith(prefix) and section not in Settings.model_fields:
            raise ConfigError(
                f"environment: {variable!r:.80}: no such section; after {ENVIRONMENT_PREFIX} "
                f"comes one of {', '.join(key.upper() for key in Settings.model_fields)}"
            )


# The smaller, the larger.
_ORDERS: Final = (
    ("output.log_bytes", "output.logs_total_bytes"),
    ("output.artifact_file_bytes", "output.artifact_job_bytes"),
    ("output.artifact_job_bytes", "jobs.disk_bytes"),
    ("uploads.max_bytes", "uploads.total_bytes"),
)


def contradictions(settings: Settings) -> Iterator[str]:
    """Yield what each key by itself allows and all together do not."""
    for small, large in _ORDERS:
        least, most = _value(settings, small), _value(settings, large)
        if least > most:
            yield f"{small} is {least}, more than {large} {most}"
    paths = {f"paths.{key}": Path(value) for key, value in settings.paths}
    for key, path in paths.items():
        if not path.is_absolute() or ".." in path.parts:
            yield f"{key} is {path}: must be absolute, without '..'"
    # What cleans one tree would take the other's entries for leftovers.
    trees = {key: path for key, path in paths.items() if key != "paths.database"}
    for (outer_key, outer), (key, path) in permutations(trees.items(), 2):
        if outer in path.parents or (outer == path and outer_key < key):
            yield f"{key} {path} is in {outer_key} {outer}: give each its own directory"
    yield from backup_contradictions(settings.backup, trees)
    yield from _mount_faults(settings.podman)
    yield from identity_contradictions(
        settings.identity,
        settings.spire,
        podman_socket=settings.podman.socket,
        cgroup_parent=settings.podman.cgroup_parent,
    )
    if not settings.uploads.rsync_url.startswith("rsync://"):
        yield f"uploads.rsync_url is {settings.uploads.rsync_url!r}: must begin with rsync://"
    yield from token_contradictions(settings.tokens)
    http, tokens = settings.http, settings.tokens
    same = (http.metrics_host, http.metrics_port) == (tokens.metrics_host, tokens.metrics_port)
    if same and http.metrics_host is not None and http.metrics_port:
        yield f"tokens.metrics_port is {tokens.metrics_port}, as is http.metrics_port: change one"


def _mount_faults(podman: Podman) -> Iterator[str]:
    for target, source in podman.mounts.items():
        if not (target.startswith("/") and source.startswith("/")):
            yield f"podman.mounts {target!r}: {source!r}: both must be absolute paths"
        elif podman.socket.is_relative_to(source):
            yield (
                f"podman.mounts {target!r}: {source!r} holds podman.socket, with which a job could "
                f"start containers of its own"
            )


def _value(settings: Settings, key: str) -> int:
    section, _, name = key.partition(".")
    value: int = getattr(getattr(settings, section), name)
    return value


def locate_token_file(http: Http) -> Path:
    """Return the file to read: the setting's, or the credential for it (systemd.exec(5))."""
    loaded = Path(os.environ.get("CREDENTIALS_DIRECTORY", "")) / TOKEN_CREDENTIAL
    return loaded if loaded.is_absolute() and loaded.exists() else http.token_file


def read_tokens(file: Path) -> tuple[bytes, ...]:
    """Read the bearer tokens: one a line, two at most (during a rotation).

    Raises:
        ConfigError: missing, unreadable, empty, more than two, or a token that is not 16 to 512
            visible ASCII characters. The message never holds a token.
    """
    try:
        lines = [line.strip() for line in file.read_bytes().splitlines() if line.strip()]
    except OSError as e:
        raise ConfigError(f"http.token_file {file}: {e.strerror}") from e
    if not 1 <= len(lines) <= 2:
        raise ConfigError(f"http.token_file {file} holds {len(lines)} tokens; write one or two")
    for number, line in enumerate(lines, 1):
        if not (16 <= len(line) <= 512 and all(0x21 <= b <= 0x7E for b in line)):
            raise ConfigError(
                f"http.token_file {file}, token {number}: must be 16 to 512 visible ASCII "
                f"characters; make one with: openssl rand -hex 32"
            )
    return tuple(lines)
