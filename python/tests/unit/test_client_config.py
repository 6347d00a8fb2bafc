"""The laptop's configuration file and environment."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked

from flashpods.client.config import DEFAULT_EXCLUDE, ClientConfig
from flashpods.client.errors import ConfigError

TOKEN = {"FLASHPODS_API_TOKEN": "secret-token"}


def load(tmp_path: Path, values: object = None, **env: str) -> ClientConfig:
    path = tmp_path / "config.json"
    if values is not None:
        path.write_text(values if isinstance(values, str) else json.dumps(values))
    return ClientConfig.load(path, {**TOKEN, **env})


def test_defaults(tmp_path: Path) -> None:
    config = load(tmp_path)
    assert config.base_url == "http://10.0.0.1:8080"
    assert config.default_exclude == DEFAULT_EXCLUDE
    assert (config.retry.max_attempts, config.retry.base_delay, config.retry.max_delay) == (
        5,
        1,
        30,
    )
    assert config.rsync_base("rsync://10.0.0.1/uploads") == "rsync://10.0.0.1/uploads"


def test_the_file_and_the_environment_over_it(tmp_path: Path) -> None:
    values = {"api_host": "a.example", "api_port": 81, "default_exclude": ["x"]}
    config = load(tmp_path, values)
    assert config.base_url == "http://a.example:81"
    assert config.default_exclude == ("x",)
    assert load(tmp_path, values, FLASHPODS_HOST="b").base_url == "http://b:81"
    assert load(tmp_path, values, FLASHPODS_PORT="82").base_url == "http://a.example:82"
    url = load(tmp_path, values, FLASHPODS_HOST="b", FLASHPODS_API_URL="http://127.0.0.1:9/")
    assert url.base_url == "http://127.0.0.1:9"


def test_a_host_in_the_environment_beats_an_url_in_the_file(tmp_path: Path) -> None:
    config = load(tmp_path, {"api_url": "http://c:1"}, FLASHPODS_HOST="b")
    assert config.base_url == "http://b:8080"


def test_ipv6(tmp_path: Path) -> None:
    assert load(tmp_path, FLASHPODS_HOST="fd00::1").base_url == "http://[fd00::1]:8080"


@pytest.mark.parametrize(
    ("rsync_host", "url"),
    [
        ("h", "rsync://h:8730/uploads"),
        ("h:1", "rsync://h:1/uploads"),
        ("fd00::1", "rsync://[fd00::1]:8730/uploads"),
        ("[fd00::1]:1", "rsync://[fd00::1]:1/uploads"),
    ],
)
def test_rsync_host_replaces_the_host_of_the_answer(
    tmp_path: Path, rsync_host: str, url: str
) -> None:
    config = load(tmp_path, {"rsync_host": rsync_host})
    assert config.rsync_base("rsync://10.0.0.1:8730/uploads") == url


def test_rsync_url_replaces_all_of_it(tmp_path: Path) -> None:
    config = load(tmp_path, FLASHPODS_RSYNC_URL="rsync://127.0.0.1:9/u/")
    assert config.rsync_base("rsync://10.0.0.1/uploads") == "rsync://127.0.0.1:9/u"


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"api_hots": "x", "zz": 1}, "unknown keys api_hots, zz"),
        ({"token": "never-here"}, "unknown key token"),
        ({"api_port": 0}, "api_port is 0"),
        ({"api_port": True}, "api_port is True"),
        ({"api_port": "8080"}, "api_port is '8080'"),
        ({"api_host": "a b"}, "api_host is 'a b'"),
        ({"api_host": "h/../x"}, "api_host"),
        ({"api_url": "file:///etc"}, "api_url"),
        ({"api_url": "http://a:99999"}, "api_url"),
        ({"api_url": 3}, "api_url"),
        ({"rsync_url": "http://x/"}, "rsync_url"),
        ({"rsync_url": "rsync://a/\nb"}, "rsync_url"),
        ({"default_exclude": "x"}, "default_exclude"),
        ({"default_exclude": [""]}, "default_exclude"),
        ({"default_exclude": ["a\0"]}, "default_exclude"),
        ({"retry_max_attempts": -1}, "retry_max_attempts"),
        ([], "one JSON object"),
        ("{", "config.json"),
    ],
)
def test_refusals_name_the_key(tmp_path: Path, values: object, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, values)
    assert named in caught.value.message
    assert caught.value.code == "invalid_config"
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("port", ["x", "70000", "-1", "٣"])
def test_a_bad_port_in_the_environment(tmp_path: Path, port: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, FLASHPODS_PORT=port)
    assert "FLASHPODS_PORT: api_port" in caught.value.message


def test_the_token_file(tmp_path: Path) -> None:
    file = tmp_path / "t"
    file.write_text("first\nsecond\n")
    env = {"FLASHPODS_API_TOKEN_FILE": str(file)}
    assert ClientConfig.load(tmp_path / "none.json", env).token == "first"
    (tmp_path / "token").write_text("beside\n")
    assert ClientConfig.load(tmp_path / "none.json", {}).token == "beside"
    (tmp_path / "config.json").write_text(json.dumps({"token_file": str(file)}))
    assert ClientConfig.load(tmp_path / "config.json", {}).token == "first"


def test_no_token_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        ClientConfig.load(tmp_path / "none.json", {})
    assert caught.value.code == "missing_token"
    assert "FLASHPODS_API_TOKEN" in caught.value.message
    with pytest.raises(ConfigError) as caught:
        ClientConfig.load(tmp_path / "none.json", {"FLASHPODS_API_TOKEN_FILE": "/nonexistent/t"})
    assert caught.value.code == "missing_token"


@pytest.mark.parametrize("token", ["two words", "x\r\nInjected: 1", "ü", " "])
def test_a_bad_token_is_refused_and_never_shown(tmp_path: Path, token: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, FLASHPODS_API_TOKEN=token)
    assert token.strip() == "" or token not in caught.value.message


def test_the_token_is_in_no_repr(tmp_path: Path) -> None:
    assert "secret-token" not in repr(load(tmp_path))


def test_where_the_file_is(tmp_path: Path) -> None:
    directory = tmp_path / "flashpods"
    directory.mkdir()
    (directory / "config.json").write_text('{"api_port": 5}')
    env = {**TOKEN, "XDG_CONFIG_HOME": str(tmp_path)}
    assert ClientConfig.load(env=env).api_port == 5


class Keyring(KeyringBackend):
    """A keyring in memory."""

    priority = 1.0

    def __init__(self, kept: dict[tuple[str, str], str], *, locked: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # keyring has no types for it
        self.kept = kept
        self.locked = locked

    def get_password(self, service: str, username: str) -> str | None:
        if self.locked:
            raise KeyringLocked("secret detail")
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.kept[service, username] = password


@pytest.fixture
def ring() -> Iterator[Callable[[Keyring], None]]:
    before = keyring.get_keyring()
    yield keyring.set_keyring
    keyring.set_keyring(before)


def test_the_token_from_a_keyring_comes_last(
    tmp_path: Path, ring: Callable[[Keyring], None]
) -> None:
    ring(Keyring({("flashpods", "10.0.0.1"): "kept", ("flashpods", "build.lan"): "other"}))
    env = {"FLASHPODS_CONFIG": str(tmp_path / "config.json")}
    assert ClientConfig.load(env=env).token == "kept"
    assert ClientConfig.load(env={**env, "FLASHPODS_HOST": "build.lan"}).token == "other"
    url = {**env, "FLASHPODS_API_URL": "https://build.lan:8443"}
    assert ClientConfig.load(env=url).token == "other"
    assert ClientConfig.load(env={**env, "FLASHPODS_API_TOKEN": "mine"}).token == "mine"
    with pytest.raises(ConfigError) as raised:
        ClientConfig.load(env={**env, "FLASHPODS_HOST": "elsewhere"})
    assert raised.value.code == "missing_token"


def test_a_locked_keyring_is_told(tmp_path: Path, ring: Callable[[Keyring], None]) -> None:
    ring(Keyring({}, locked=True))
    with pytest.raises(ConfigError, match="unlock") as raised:
        ClientConfig.load(env={"FLASHPODS_CONFIG": str(tmp_path / "config.json")})
    assert raised.value.code == "missing_token"
    assert "secret" not in raised.value.message
