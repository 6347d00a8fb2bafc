import hashlib

ready()

with subtest("lines have their time, stdout and stderr as they came"):
    job = submit("echo one; echo two >&2; echo three")
    ended(job)
    page = get(f"/jobs/{job}/output?tail=3")
    assert [line.partition("] ")[2] for line in page["output"].splitlines()] == [
        "one",
        "two",
        "three",
    ], page
    assert page["lines"] == 3 and page["truncated"] is False, page

with subtest("a tail is the end"):
    job = submit("seq 1 2000")
    ended(job)
    page = get(f"/jobs/{job}/output?tail=2")
    shown = [line.partition("] ")[2] for line in page["output"].splitlines()]
    assert shown == ["1999", "2000"], page
    refused("GET", f"/jobs/{job}/output?tail=0", None, 400, "invalid_request")

with subtest("an artifact comes back whole, by its sha256"):
    job = submit(
        "seq 1 100000 >/artifacts/numbers; ln -s /etc/passwd /artifacts/leak; "
        "ln -s numbers /artifacts/same"
    )
    row = ended(job)
    assert row["status"] == "completed", row
    listed = {a["name"]: a for a in get(f"/jobs/{job}/artifacts")["artifacts"]}
    numbers = "".join(f"{i}\n" for i in range(1, 100001)).encode()
    wanted = hashlib.sha256(numbers).hexdigest()
    assert listed["numbers"]["sha256"] == wanted, listed
    assert listed["numbers"]["size_bytes"] == len(numbers), listed
    url = shlex.quote(f"{API}/jobs/{job}/artifacts/numbers")
    assert laptop.succeed(f"{curl(url)} | sha256sum").split()[0] == wanted
    assert laptop.succeed(curl("-r 0-7", url)) == "1\n2\n3\n4\n"

with subtest("a link out of the directory is left out, with a warning; one within is its target"):
    assert "leak" not in listed, listed
    assert any("leak" in warning for warning in row["warnings"]), row
    assert listed["same"]["sha256"] == wanted, listed

with subtest("names that are no names are refused"):
    refused(
        "GET", f"/jobs/{job}/artifacts/..%2F..%2Fetc%2Fpasswd", None, 400, "invalid_artifact_name"
    )
    refused("GET", f"/jobs/{job}/artifacts/none", None, 404, "artifact_not_found")

with subtest("follow sends what comes, until the end"):
    job = submit("for i in 1 2 3; do echo tick $i; sleep 0.5; done")
    url = shlex.quote(f"{API}/jobs/{job}/output?follow=true")
    stream = laptop.succeed(curl("-N", url))
    assert [f"tick {i}" in stream for i in (1, 2, 3)] == [True] * 3, stream
