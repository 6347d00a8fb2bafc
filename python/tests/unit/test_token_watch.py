"""The token file: which one is read, and that a change is taken up, a fault not."""

from __future__ import annotations

from pathlib import Path

import pytest

from flashpods.api.auth import Authenticator
from flashpods.api.token_watch import TokenWatch
from flashpods.config import Http, locate_token_file
from flashpods.errors import Unauthorized

ONE, TWO = b"token-number-one-of-the-host", b"token-number-two-of-the-host"


def accepts(authenticator: Authenticator, token: bytes) -> bool:
    try:
        authenticator.check([b"Bearer " + token])
    except Unauthorized:
        return False
    return True


def test_the_credential_wins_over_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    http = Http(token_file=tmp_path / "etc" / "some-token")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert locate_token_file(http) == tmp_path / "etc" / "some-token"
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert locate_token_file(http) == tmp_path / "etc" / "some-token"  # of other secrets only
    (tmp_path / "api-token").write_bytes(ONE)
    assert locate_token_file(http) == tmp_path / "api-token"


def test_a_change_is_taken_up_and_a_fault_is_not(tmp_path: Path) -> None:
    file = tmp_path / "token"
    authenticator = Authenticator([ONE])
    watch = TokenWatch(file, authenticator)
    watch.look()  # not there: nothing changes
    assert accepts(authenticator, ONE)
    file.write_bytes(TWO + b"\n" + ONE + b"\n")
    watch.look()
    assert accepts(authenticator, ONE)
    assert accepts(authenticator, TWO)
    file.write_bytes(b"short\n")
    watch.look()
    assert accepts(authenticator, TWO)
    file.unlink()
    watch.look()
    assert accepts(authenticator, TWO)
    file.write_bytes(TWO + b"\n")
    watch.look()
    assert accepts(authenticator, TWO)
    assert not accepts(authenticator, ONE)
