"""One rule for each kind of id, and every copy of it agrees."""

from __future__ import annotations

import re
import time

import pytest

from flashpods import rsync_request, uploads
from flashpods.adapters.files import ids
from flashpods.api import schemas
from flashpods.client import push
from flashpods.errors import NotFound
from flashpods.jobs import names


def accepts_upload(text: str) -> set[bool]:
    """Return what the copies say: one answer if they agree."""
    found = {
        names.UPLOAD_ID.match(text) is not None,
        rsync_request.UPLOAD_ID.fullmatch(text) is not None,
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
    assert (rsync_request.BASE.fullmatch(f"/.bases/{text}") is not None) is good
    assert (re.search(schemas.PROJECT.removesuffix("$") + r"\Z", text) is not None) is good


DIGEST = "@sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    "reference",
    [
        "ubuntu",
        "ubuntu:22.04",
        "library/ubuntu",
        "localhost/x/y:z",
        "localhost:5000/x",
        "reg.example:5000/a/b" + DIGEST,
        "reg.example:5000/a/b:v1" + DIGEST,
        "LOCALHOST:5000/x",
        "10.0.0.1:5000/x",
        "[::1]:5000/x",
        "a.b-c.example/x",
        "x:_",
        "x:" + "t" * 128,
        "a__b/c.d/e--f/g_h",
        "docker:27-dind",
        "docker/dind",
        "dir",
        "dir/x:1",
        "example/dir:1",
        "oci" + DIGEST,
        "deadbeef",
        "a" * 255,
    ],
)
def test_an_image(reference: str) -> None:
    assert names.valid_image(reference)


@pytest.mark.parametrize(
    "reference",
    [
        # what Podman takes for a transport, or for an image's id
        "dir:x",
        "dir:/etc",
        "dir:5000/x",
        "oci:x",
        "oci:/etc:x",
        "oci-archive:x",
        "docker-archive:x",
        "docker-archive:/tmp/x.tar:y",
        "docker-daemon:x",
        "docker://ubuntu",
        "docker://reg.example/x:1",
        "containers-storage:x",
        "containers-storage:[overlay@/x]y",
        "ostree:x",
        "sif:x",
        "tarball:x",
        "atomic:x",
        "sha256:" + "0" * 64,
        "0" * 64,
        "https://reg.example/x",
        # what is no reference
        "",
        ".",
        "..",
        "/x",
        "x/",
        "a//b",
        "a/../b",
        "../x",
        "-v",
        "--privileged",
        "-a.example/x",
        "a-.example/x",
        "a..example/x",
        "a_b.example:5000/x",
        "[::1/x",
        "[x]/y",
        "Ubuntu",
        "reg.example/X",
        "a___b",
        "a-/b",
        "_a",
        "a.",
        "x:",
        "x:.a",
        "x:-a",
        "x:y:z",
        "x:" + "t" * 129,
        "reg.example:/x",
        "reg.example:500000/x",
        "x@",
        "x@sha256:1",
        "x@sha256:" + "A" * 64,
        "x@sha512:" + "0" * 128,
        "x" + DIGEST + DIGEST,
        "x" + DIGEST + ":1",
        "x y",
        " x",
        "x ",
        "x\n",
        "x\0",
        "x?y=z",
        "x#y",
        "x%0a",
        "$(id)",
        "é",
        "x:\u0663",
        "a" * 256,
    ],
)
def test_no_image(reference: str) -> None:
    assert not names.valid_image(reference)


def test_an_image_is_judged_in_linear_time() -> None:
    began = time.process_time()
    for part in ("a", "a-", "a.", "a_", "a/", "a.a/", "[:", "0:", "a@"):
        names.valid_image(part * (names.MOST_IMAGE // len(part)))
    assert time.process_time() - began < 1
