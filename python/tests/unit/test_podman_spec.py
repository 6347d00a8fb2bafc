"""From ContainerSpec to the engine's request: a pure function."""

from dataclasses import replace
from pathlib import Path

import pytest

from flashpods.adapters.podman.engine import engine_from
from flashpods.adapters.podman.library import excess
from flashpods.adapters.podman.spec import Engine, create_request
from flashpods.config import SECCOMP_PROFILE, Podman
from flashpods.errors import Unavailable
from flashpods.ports import ContainerSpec, Limits, Mount

ENGINE = Engine(version="4.3.1", uid=990, gid=991, controllers=frozenset())
SPEC = ContainerSpec(
    job_id="abc",
    job_type="worker",
    name="job_abc",
    image="ubuntu:22.04",
    argv=("/bin/sh", "-c", "make"),
    env={"FLASHPODS_JOB_ID": "abc"},
    workdir="/work",
    mounts=(
        Mount(source=Path("/w"), target="/work", read_only=True),
        Mount(source=Path("/a"), target="/artifacts", read_only=False),
    ),
    limits=Limits(cpus=3, memory_bytes=5 * 1024**3, pids=2048),
    backstop_seconds=1840,
    log_path=Path("/l/abc.raw"),
    enforce_limits=True,
)


def test_everything_an_image_could_set_is_set() -> None:
    request = create_request(SPEC, Podman(), ENGINE)
    assert request["labels"] == {
        "flashpods-job": "true",
        "flashpods-job-id": "abc",
        "flashpods-job-type": "worker",
    }
    assert request["user"] == "990:991"
    assert (request["entrypoint"], request["command"]) == (["/bin/sh"], ["-c", "make"])
    assert request["work_dir"] == "/work"
    assert request["image_volume_mode"] == "ignore"
    assert request["healthconfig"] == {"Test": ["NONE"]}
    assert request["stop_signal"] == 15
    assert request["seccomp_policy"] == "default"
    assert request["seccomp_profile_path"] == str(SECCOMP_PROFILE)
    assert "annotations" not in request


def test_confinement() -> None:
    request = create_request(SPEC, Podman(network="pasta"), ENGINE)
    assert request["userns"] == {"nsmode": "keep-id"}
    assert request["netns"] == {"nsmode": "pasta"}
    assert request["cap_drop"] == ["ALL"]
    assert request["cap_add"] == []
    assert request["no_new_privileges"] is True
    assert request["privileged"] is False
    assert request["init"] is True
    assert request["remove"] is False
    assert request["restart_policy"] == "no"
    assert (request["stdin"], request["terminal"]) == (False, False)
    assert (request["httpproxy"], request["env_host"]) == (False, False)
    assert request["env"] == {"FLASHPODS_JOB_ID": "abc"}
    assert request["timeout"] == 1840
    assert "r_limits" not in request


def test_limits_leave_no_swap() -> None:
    assert create_request(SPEC, Podman(), ENGINE)["resource_limits"] == {
        "memory": {"limit": 5 * 1024**3, "swap": 5 * 1024**3},
        "cpu": {"quota": 300_000, "period": 100_000},
        "pids": {"limit": 2048},
    }


def test_limits_that_cannot_hold_are_not_asked_for() -> None:
    unenforced = replace(SPEC, enforce_limits=False)
    assert "resource_limits" not in create_request(unenforced, Podman(), ENGINE)


def test_mounts_are_disarmed() -> None:
    assert create_request(SPEC, Podman(), ENGINE)["mounts"] == [
        {
            "type": "bind",
            "source": source,
            "destination": target,
            "options": [mode, "rbind", "nosuid", "nodev"],
        }
        for source, target, mode in (("/w", "/work", "ro"), ("/a", "/artifacts", "rw"))
    ]


def test_the_log_is_the_engines_own_file() -> None:
    request = create_request(SPEC, Podman(), ENGINE, log_max_bytes=1000)
    assert request["log_configuration"] == {
        "driver": "k8s-file",
        "path": "/l/abc.raw",
        "size": 1000,
    }


@pytest.mark.parametrize(
    ("parent", "expected"),
    [(None, None), ("/fp/ctrs", "/fp/ctrs/job_abc"), ("/fp/ctrs/", "/fp/ctrs/job_abc")],
)
def test_each_container_has_a_cgroup_parent_of_its_own(
    parent: str | None, expected: str | None
) -> None:
    request = create_request(SPEC, Podman(cgroup_parent=parent), ENGINE)
    assert request.get("cgroup_parent") == expected


@pytest.mark.parametrize("argv", [(), ("",)])
def test_no_command_is_refused(argv: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="argv is empty"):
        create_request(replace(SPEC, argv=argv), Podman(), ENGINE)


# ------------------------------------------------------------------ what the engine is

INFO = {
    "host": {
        "cgroupControllers": ["cpu", "memory", "pids"],
        "idMappings": {
            "uidmap": [
                {"container_id": 1, "host_id": 100000, "size": 65536},
                {"container_id": 0, "host_id": 990, "size": 1},
            ],
            "gidmap": [{"container_id": 0, "host_id": 991, "size": 1}],
        },
    },
    "store": {"graphRoot": "/srv/storage"},
    "version": {"Version": "5.4.2"},
}


def test_info_tells_user_and_controllers() -> None:
    engine = engine_from(INFO, Podman())
    assert (engine.uid, engine.gid, engine.version) == (990, 991, "5.4.2")
    assert engine.graph_root == Path("/srv/storage")
    assert engine.enforces


def test_one_missing_controller_enforces_nothing() -> None:
    host = INFO["host"] | {"cgroupControllers": ["cpu", "memory"]}  # type: ignore[operator]  # a dict
    assert not engine_from(INFO | {"host": host}, Podman()).enforces


@pytest.mark.parametrize("host", [{}, {"idMappings": None}, {"idMappings": {"uidmap": []}}])
def test_a_rootful_engine_is_refused(host: dict[str, object]) -> None:
    with pytest.raises(Unavailable, match="rootless"):
        engine_from(INFO | {"host": host}, Podman())


def image(
    name: str, created: int, *, containers: int = 0, labels: dict[str, str] | None = None
) -> dict[str, object]:
    return {
        "Id": name,
        "RepoTags": [name],
        "Created": created,
        "Size": 10,
        "Containers": containers,
        "Labels": labels,
    }


def test_the_oldest_unused_images_go_first() -> None:
    images = [
        image("docker.io/new", 4),
        image("docker.io/old", 1),
        image("docker.io/used", 2, containers=1),
        image("localhost/ours", 0),
        image("docker.io/kept", 0, labels={"flashpods-keep": "true"}),
        image("docker.io/mid", 3),
    ]
    assert excess(images, 60) == []
    assert excess(images, 45) == ["docker.io/old", "docker.io/mid"]
    assert excess(images, 0) == ["docker.io/old", "docker.io/mid", "docker.io/new"]
