"""The boundary's parameters: what is refused, and that what is rendered is the whole template."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from flashpods import boundary
from flashpods.boundary import Boundary, RulesetError, render, substitutions

TEMPLATE = Path(__file__).parents[3] / "modules" / "network" / "ruleset.nft"
LEAST: dict[str, Any] = {
    "subordinates": {"first": 200000, "count": 65536},
    "resolvers": ["127.0.0.53"],
}


def made(**changes: Any) -> Boundary:
    return Boundary(**{**LEAST, **changes})


def test_defaults_are_the_contracts() -> None:
    lines = render(TEMPLATE.read_text(), made()).splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#"))
    assert 'meta skuid "flashpods" goto job' in text
    assert "meta skuid 200000-265535 goto job" in text
    assert 'iifname "wg0" ip saddr 10.0.0.2 goto laptop' in text
    assert "udp dport 51820 accept" in text
    assert "ip daddr 10.0.0.0/24 counter name job_to_wireguard goto refuse" in text
    assert "ip daddr 127.0.0.53 udp dport 53 goto names" in text
    assert "limit rate over 500/second burst 2000 packets" in text
    assert text.count("ct count over 1024 counter name job_over_flows goto refuse") == 16
    assert "tcp dport 22 accept" not in text
    assert "@" not in text


def test_rendering_is_plain_replacement() -> None:
    """As replaceStrings does it."""
    parameters = made(user=900, ssh="anybody", metrics="laptops", allow_private=True)
    text = TEMPLATE.read_text()
    for name, value in substitutions(parameters).items():
        text = text.replace(f"@{name}@", value)
    assert text == render(TEMPLATE.read_text(), parameters)


def test_a_list_is_a_rule_each() -> None:
    text = substitutions(made(allowed=["192.168.7.0/24", "fd00:7::/64"]))["allowed_rules"]
    assert [line.strip() for line in text.splitlines()] == [
        "ip daddr 192.168.7.0/24 goto share",
        "ip6 daddr fd00:7::/64 goto share",
    ]


def test_flows_are_dealt_to_lists_by_the_source_port() -> None:
    """Every port has a list, and the lists together take what is given, rounded up."""
    text = substitutions(made(max_flows=100))["flow_rules"]
    found = re.findall(r"th sport & 0x1e == (0x..) ct count over (\d+)", text)
    assert [int(bits, 16) for bits, _ in found] == sorted({port & 0x1E for port in range(64)})
    assert {most for _, most in found} == {"7"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"interface": 'wg0"; drop'}, "interface"),
        ({"interface": "much-too-long-name"}, "interface"),
        ({"user": "root; accept"}, "user"),
        ({"user": 0}, "user"),
        ({"subordinates": {"first": 4294967000, "count": 65536}}, "end above"),
        ({"subordinates": {"first": 0, "count": 1}}, "subordinates"),
        ({"laptops": ["10.1.0.2"]}, "in none of networks"),
        ({"laptops": []}, "laptops"),
        ({"networks": ["10.0.0.1/24"]}, "networks"),
        ({"networks": []}, "networks"),
        ({"api_port": 53}, "a port of DNS"),
        ({"rsync_port": 8080}, "must differ"),
        ({"api_port": 65536}, "api_port"),
        ({"resolvers": ["0.0.0.0"]}, "no address of a name server"),
        ({"resolvers": ["ff02::fb"]}, "no address of a name server"),
        ({"allowed": ["0.0.0.0/0"]}, "allow_private"),
        ({"allowed": ["10.0.0.0/8"]}, "which no job reaches"),
        ({"ssh": "everybody"}, "ssh"),
        ({"max_flows": 15}, "max_flows"),
        ({"max_flows": 2**20 + 1}, "max_flows"),
        ({"new_flows": 0}, "new_flows"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        made(**changes)


@pytest.mark.parametrize("missing", ["subordinates", "resolvers"])
def test_needed(missing: str) -> None:
    """Without the ids the rules would miss a job, so there is no default to forget."""
    with pytest.raises(ValidationError, match=missing):
        Boundary(**{key: value for key, value in LEAST.items() if key != missing})


def test_template_and_parameters_must_fit() -> None:
    text = TEMPLATE.read_text()
    with pytest.raises(RulesetError, match="@surprise@"):
        render(text + "@surprise@", made())
    with pytest.raises(RulesetError, match="lacks @network_rules@"):
        render(text.replace("@network_rules@", ""), made())


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "boundary.json"
    file.write_text(json.dumps(LEAST))
    assert boundary.main([str(TEMPLATE), str(file)]) == 0
    assert capsys.readouterr().out == render(TEMPLATE.read_text(), made())
    assert boundary.main([str(TEMPLATE)]) == 2
    assert "usage" in capsys.readouterr().err
    for content in ('{"resolvers": []}', "[1]", "{", '{"colour": 1}'):
        file.write_text(content)
        assert boundary.main([str(TEMPLATE), str(file)]) == 78
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.count("\n") == 1
