"""Every refusal of ``POST /jobs`` by its code, and what a good request becomes."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flashpods.errors import BadRequest, FlashpodsError, NotFound
from flashpods.jobs.admission import Bounds
from flashpods.jobs.model import Capacity, Grant, JobType, NewJob
from flashpods.jobs.submit import FIELDS, parse

HOST = Capacity(cpus=16, memory_gb=64)
BOUNDS = {
    JobType.WORKER: Bounds(
        default=Grant(cpus=2, memory_gb=4, timeout_minutes=30),
        most=Grant(cpus=8, memory_gb=16, timeout_minutes=120),
    ),
    JobType.AGENT: Bounds(
        default=Grant(cpus=2, memory_gb=4, timeout_minutes=60),
        most=Grant(cpus=4, memory_gb=8, timeout_minutes=120),
    ),
}
IMAGES = {JobType.WORKER: "ubuntu:22.04", JobType.AGENT: "flashpods/agent:latest"}
WORKER = {"type": "worker", "command": "make test"}
AGENT = {"type": "agent", "task": "fix it", "git_branch": "fix/it"}


def check(body: object) -> NewJob:
    return parse(body, bounds=BOUNDS, images=IMAGES, host=HOST)


def test_worker_gets_its_defaults() -> None:
    job = check(WORKER)
    assert (job.type, job.command, job.image) == (JobType.WORKER, "make test", "ubuntu:22.04")
    assert job.grant == Grant(cpus=2, memory_gb=4, timeout_minutes=30)
    assert job.task is None
    assert job.warnings == ()


def test_agent_gets_its_defaults() -> None:
    job = check({**AGENT, "context": "because"})
    assert (job.task, job.context, job.git_branch) == ("fix it", "because", "fix/it")
    assert job.grant.timeout_minutes == 60


def test_above_the_maximum_is_clamped_and_said() -> None:
    job = check({**WORKER, "cpus": 99, "memory_gb": 99, "timeout_minutes": 999})
    assert job.grant == Grant(cpus=8, memory_gb=16, timeout_minutes=120)
    assert len(job.warnings) == 3


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ([], "invalid_request"),
        ("x", "invalid_request"),
        ({}, "invalid_job_type"),
        ({"type": "shell", "command": "x"}, "invalid_job_type"),
        ({"type": ["worker"], "command": "x"}, "invalid_job_type"),
        ({"type": "worker"}, "missing_command"),
        ({"type": "worker", "command": "  \n"}, "missing_command"),
        ({"type": "worker", "command": 7}, "invalid_request"),
        ({"type": "worker", "command": "x" * 10_001}, "invalid_request"),
        ({"type": "worker", "command": "a\0b"}, "invalid_request"),
        ({"type": "worker", "command": "\ud800"}, "invalid_request"),
        ({**WORKER, "task": "t"}, "invalid_request"),
        ({**AGENT, "command": "c"}, "invalid_request"),
        ({"type": "agent", "git_branch": "b"}, "missing_task"),
        ({"type": "agent", "task": "t"}, "missing_git_branch"),
        ({**AGENT, "git_branch": "a b"}, "invalid_request"),
        ({**AGENT, "git_branch": "-x"}, "invalid_request"),
        ({**AGENT, "git_branch": "a..b"}, "invalid_request"),
        ({**AGENT, "git_branch": "a.lock"}, "invalid_request"),
        ({**AGENT, "git_branch": "HEAD"}, "invalid_request"),
        ({**AGENT, "task": "é" * 50_001}, "invalid_request"),
        ({**AGENT, "context": "x" * 100_001}, "invalid_request"),
        ({**WORKER, "priority": 1}, "invalid_request"),
        ({**WORKER, "client_job_id": "nope"}, "invalid_client_job_id"),
        (
            {**WORKER, "client_job_id": "6f9619ff-8b86-1011-b42d-00cf4fc964ff"},
            "invalid_client_job_id",
        ),
        ({**WORKER, "client_job_id": 5}, "invalid_client_job_id"),
        ({**WORKER, "image": ""}, "invalid_image"),
        ({**WORKER, "image": "docker://x"}, "invalid_image"),
        ({**WORKER, "image": "-v /:/host"}, "invalid_image"),
        ({**WORKER, "image": "x" * 256}, "invalid_image"),
        ({**WORKER, "image": "a\nb"}, "invalid_image"),
        ({**WORKER, "image": "ubuntu:22.04\n"}, "invalid_image"),
        ({**WORKER, "cpus": 0}, "invalid_cpus"),
        ({**WORKER, "cpus": True}, "invalid_cpus"),
        ({**WORKER, "cpus": 1.5}, "invalid_cpus"),
        ({**WORKER, "cpus": "2"}, "invalid_cpus"),
        ({**WORKER, "memory_gb": -1}, "invalid_memory"),
        ({**WORKER, "timeout_minutes": 0}, "invalid_timeout"),
        ({**WORKER, "timeout_minutes": 2.0}, "invalid_timeout"),
    ],
)
def test_refusals_have_their_code(body: object, code: str) -> None:
    with pytest.raises(BadRequest) as refused:
        check(body)
    assert refused.value.code == code
    assert refused.value.status == 400
    assert len(refused.value.message) < 400


def test_a_command_is_counted_in_characters_what_goes_by_environment_in_bytes() -> None:
    assert check({**WORKER, "command": "😀" * 10_000}).command == "😀" * 10_000
    with pytest.raises(BadRequest, match="command is 10001 characters long; at most 10000"):
        check({**WORKER, "command": "😀" * 10_001})
    for field in ("task", "context"):
        assert getattr(check({**AGENT, field: "é" * 50_000}), field) == "é" * 50_000
        with pytest.raises(BadRequest, match=f"{field} is 100002 bytes long; at most 100000"):
            check({**AGENT, field: "é" * 50_001})


@pytest.mark.parametrize("files_id", ["x", "upload_short", 7, "../../etc", "upload_" + "a" * 65])
def test_an_impossible_upload_id_is_not_found(files_id: object) -> None:
    with pytest.raises(NotFound) as refused:
        check({**WORKER, "files_id": files_id})
    assert refused.value.code == "upload_not_found"


def test_a_job_that_could_never_fit_is_refused_with_the_hosts_size() -> None:
    small = Capacity(cpus=1, memory_gb=2)
    with pytest.raises(BadRequest) as refused:
        parse({**WORKER, "cpus": 2}, bounds=BOUNDS, images=IMAGES, host=small)
    assert refused.value.code == "invalid_cpus"
    assert refused.value.details["host_capacity"] == {"cpus": 1, "memory_gb": 2}


def test_defaults_shrink_to_a_small_host() -> None:
    small = Capacity(cpus=1, memory_gb=2)
    job = parse(WORKER, bounds=BOUNDS, images=IMAGES, host=small)
    assert (job.grant.cpus, job.grant.memory_gb) == (1, 2)


@pytest.mark.parametrize(
    "image",
    [
        "ubuntu:22.04",
        "localhost/flashpods/base:dev",
        "registry.example:5000/a/b_c:x-1.2",
        "python@sha256:" + "a" * 64,
        "LOCALHOST:5000/x",
    ],
)
def test_ordinary_image_references_pass(image: str) -> None:
    assert check({**WORKER, "image": image}).image == image


def test_the_key_is_case_insensitive_and_not_part_of_the_fingerprint() -> None:
    key = "6F9619FF-8B86-4011-B42D-00CF4FC964FF"
    with_key, without = check({**WORKER, "client_job_id": key}), check(WORKER)
    assert with_key.client_job_id == key.lower()
    assert with_key.request_sha256 == without.request_sha256
    assert with_key.request_sha256 != check({**WORKER, "cpus": 1}).request_sha256


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=5,
)


def outcome(body: dict[str, object]) -> int:
    try:
        return check(body).grant.cpus
    except FlashpodsError as refused:
        json.dumps(refused.details)
        return refused.status


# The first draw of text builds Hypothesis's Unicode tables, which takes a second.
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), JSON, max_size=8))
def test_any_json_is_accepted_or_refused_by_a_known_error(body: dict[str, object]) -> None:
    assert outcome({"type": "worker", "command": "x"} | body) in {*range(1, 9), 400, 404}
