"""One rule for each kind of id, and every copy of it agrees."""

from __future__ import annotations

import re

import pytest

from flashpods import rsync_hook, uploads
from flashpods.adapters.files import ids
from flashpods.api import schemas
from flashpods.client import push
from flashpods.errors import NotFound
from flashpods.jobs import names


def accepts_upload(text: str) -> set[bool]:
    """Return what the copies say: one answer if they agree."""
    found = {
        names.UPLOAD_ID.match(text) is not None,
        rsync_hook.UPLOAD_ID.fullmatch(text) is not None,
        push._UPLOAD_ID.match(text) is not None,
        re.search(schemas.UPLOAD_ID.removesuffix("$") + r"\Z", text) is not None,
        ids.is_upload_id(text),
    }
    try:
        uploads.check_upload_id(text)
    except NotFound:
        return found | {False}
    return found | {True}


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("upload_" + "a" * 12, True),
        ("upload_" + "A-_9" * 16, True),
        ("upload_" + "a" * 11, False),
        ("upload_" + "a" * 65, False),
        ("upload_" + "a" * 12 + "\n", False),
        ("upload_" + "a" * 11 + ".", False),
        ("upload_" + "a" * 11 + "/", False),
        ("upload_" + "a" * 11 + "é", False),
        ("upload_" + "a" * 11 + "\u0663", False),
        (" upload_" + "a" * 12, False),
        ("Upload_" + "a" * 12, False),
        ("upload_", False),
        ("", False),
    ],
)
def test_an_upload_id(text: str, good: bool) -> None:
    assert accepts_upload(text) == {good}


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("0123456789abcdef", True),
        ("0123456789ABCDEF", False),
        ("0123456789abcde", False),
        ("0123456789abcdef0", False),
        ("0123456789abcdef\n", False),
        ("0123456789abcdeg", False),
        ("\u0660123456789abcdef", False),
        ("..", False),
        ("", False),
    ],
)
def test_a_job_id(text: str, good: bool) -> None:
    assert ids.is_job_id(text) is good
    assert (re.search(schemas.JOB_ID.removesuffix("$") + r"\Z", text) is not None) is good
    if good:
        assert names.job_id(text) == text
        return
    with pytest.raises(ValueError, match="is not a job id"):
        names.job_id(text)


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("a", True),
        ("9.-_", True),
        ("a" * 64, True),
        ("a" * 65, False),
        (".a", False),
        ("-a", False),
        ("_a", False),
        ("a/b", False),
        ("a\n", False),
        ("é", False),
        ("", False),
    ],
)
def test_a_project(text: str, good: bool) -> None:
    assert (names.PROJECT.match(text) is not None) is good
    assert (rsync_hook.BASE.fullmatch(f"/.bases/{text}") is not None) is good
    assert (re.search(schemas.PROJECT.removesuffix("$") + r"\Z", text) is not None) is good
