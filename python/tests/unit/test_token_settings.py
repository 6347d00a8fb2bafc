"""The section ``tokens`` of the settings."""

import json
from pathlib import Path

import pytest

from flashpods.config import Settings, load
from flashpods.config_base import ConfigError

AGENT = {"job_type": "agent", "granted": ["GITHUB_TOKEN"]}


def check(tmp_path: Path, data: object) -> None:
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(data))
    load(file)


@pytest.mark.parametrize(
    "tokens",
    [
        {},
        {"trust_domain": "a.b"},
        {"metrics_host": None, "metrics_port": 9464},
        {"policy": {"spiffe://flashpods.local/a/b": AGENT}},
        {"trust_domain": "a.b", "policy": {"spiffe://a.b/agent": AGENT}},
        {"policy": {"spiffe://flashpods.local/w": {"job_type": "worker"}}},
    ],
)
def test_good(tmp_path: Path, tokens: object) -> None:
    check(tmp_path, {"tokens": tokens})


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        ({"secret_file": "/x"}, "unknown key 'tokens.secret_file'"),
        ({"secrets_file": "x"}, "tokens.secrets_file is x: must be absolute"),
        ({"workload_api": "/run/agent.sock"}, "tokens.workload_api is '/run/agent.sock'"),
        ({"workload_api": "tcp://127.0.0.1:1"}, "must begin with unix:///"),
        ({"trust_domain": "Flashpods"}, "tokens.trust_domain is 'Flashpods'"),
        ({"trust_domain": "a/b"}, "tokens.trust_domain"),
        (
            {"trust_domain": "other", "policy": {"spiffe://flashpods.local/agent": AGENT}},
            "must be a SPIFFE ID that begins with spiffe://other/",
        ),
        ({"audience": ""}, "tokens.audience"),
        ({"policy": {}}, "tokens.policy"),
        ({"policy": {"spiffe://flashpods.local": AGENT}}, "must be a SPIFFE ID"),
        ({"policy": {"spiffe://flashpods.localx/agent": AGENT}}, "must be a SPIFFE ID"),
        ({"policy": {"spiffe://flashpods.local/../agent": AGENT}}, "must be a SPIFFE ID"),
        ({"policy": {"spiffe://flashpods.local/agent\n": AGENT}}, "must be a SPIFFE ID"),
        ({"policy": {"agent": AGENT}}, "must be a SPIFFE ID"),
        ({"policy": {"spiffe://flashpods.local/a": {"granted": []}}}, "job_type"),
        ({"policy": {"spiffe://flashpods.local/a": {"job_type": "host"}}}, "job_type"),
        ({"policy": {"spiffe://flashpods.local/a": {**AGENT, "granted": ["a"]}}}, "'a' must be"),
        (
            {
                "policy": {
                    "spiffe://flashpods.local/a": {**AGENT, "answered_null": AGENT["granted"]}
                }
            },
            "GITHUB_TOKEN in both lists",
        ),
        ({"connections": 8}, "tokens.connections_per_peer is 16, more than tokens.connections 8"),
        ({"rate_per_second": 0}, "tokens.rate_per_second"),
        ({"start_seconds": 0}, "tokens.start_seconds"),
        ({"metrics_port": 9464}, "tokens.metrics_port is 9464, as is http.metrics_port"),
    ],
)
def test_wrong(tmp_path: Path, tokens: object, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check(tmp_path, {"tokens": tokens})
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_who_gets_what_is_said_of_the_trust_domain_that_is_set() -> None:
    policy = Settings(tokens={"trust_domain": "pods.example.org"}).tokens.policy
    assert set(policy) == {"spiffe://pods.example.org/agent", "spiffe://pods.example.org/worker"}


def test_what_follows_from_a_wrong_key_is_not_named_as_well(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        check(tmp_path, {"tokens": {"trust_domain": 5}})
    assert "tokens.trust_domain" in str(caught.value)
    assert "tokens.policy" not in str(caught.value)
