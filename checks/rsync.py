import re

ready()
URL = "rsync://10.0.0.1/uploads"


def tree(commands: str) -> None:
    laptop.succeed(f"rm -rf /tmp/tree && mkdir /tmp/tree && cd /tmp/tree && {commands}")


def push(upload: str, *options: str) -> str:
    return f"rsync -a {' '.join(options)} /tmp/tree/ {URL}/{upload}/"


def finalized(upload: str) -> tuple[int, Any]:
    """Finalize it; the daemon knows a moment later than the client that a transfer is over."""
    end = time.monotonic() + 60
    while True:
        status, answer = ask("POST", f"/uploads/{upload}/finalize")
        if answer.get("error") != "upload_in_progress" or time.monotonic() > end:
            return status, answer


with subtest("a pushed tree is what a job sees, read-only"):
    tree("echo text >file; mkdir sub; echo deep >sub/file; ln -s file link; chmod 755 file")
    _, answer = ask("POST", "/uploads", {})
    upload = answer["upload_id"]
    laptop.succeed(push(upload))
    status, answer = finalized(upload)
    assert status == 200 and answer["file_count"] == 3, answer
    lines = run("cat file sub/file link; touch new 2>&1 || true; stat -c %a file", files_id=upload)
    assert lines[:3] == ["text", "deep", "text"], lines
    assert "Read-only" in lines[3], lines

with subtest("what is finalized can't be written to, nor used twice"):
    laptop.fail(push(upload))
    refused("POST", f"/uploads/{upload}/finalize", None, 409, "upload_already_consumed")
    body = {"type": "worker", "command": "true", "files_id": upload}
    refused("POST", "/jobs", body, 409, "upload_already_consumed")

with subtest("one that is not finalized is no job's"):
    _, answer = ask("POST", "/uploads", {})
    upload = answer["upload_id"]
    laptop.succeed(push(upload))
    body = {"type": "worker", "command": "true", "files_id": upload}
    refused("POST", "/jobs", body, 409, "upload_not_finalized")

with subtest("nothing can be listed or read"):
    laptop.fail(f"rsync {URL}/")
    laptop.fail(f"rsync -a {URL}/{upload}/ /tmp/stolen/")

with subtest("no link leads the host out of the tree, no device or setuid survives"):
    tree("ln -s /etc/passwd out; ln -s ../../.. up; echo x >set; chmod 6755 set; mkfifo fifo")
    _, answer = ask("POST", "/uploads", {})
    upload = answer["upload_id"]
    laptop.execute(push(upload))
    assert finalized(upload)[0] == 200
    lines = run("stat -c '%a %n' set; ls; cat out 2>&1 || true", files_id=upload)
    assert lines[0] == "755 set", lines
    assert "fifo" not in lines, lines

with subtest("an id that is none is refused"):
    laptop.fail(push("..%2Fescape"))
    laptop.fail(push("no_upload"))

with subtest("only a push's options are taken"):
    laptop.fail(push(upload, "--copy-links", "--backup", "--backup-dir=/etc"))
    laptop.fail(f"rsync -a --link-dest=/etc /tmp/tree/ {URL}/upload_abcdefghijkl/")


def reserved() -> str:
    _, answer = ask("POST", "/uploads", {})
    return str(answer["upload_id"])


most = int(host.succeed("grep -om1 -e '--max-bytes [0-9]*' /etc/flashpods-rsyncd.conf").split()[1])

with subtest("a push over its quota of bytes is ended while it arrives"):
    tree(f"truncate -s {most * 3 // 2} big")
    upload = reserved()
    laptop.fail(push(upload, "--whole-file"))
    found = re.search(r"holds (\d+) bytes, the limit is", laptop.fail(f"{push(upload)} 2>&1"))
    assert found and most < int(found[1]) < most * 1.05, found  # all that it came to
    refused("POST", f"/uploads/{upload}/finalize", None, 507, "insufficient_storage")
    assert ask("DELETE", f"/uploads/{upload}")[0] == 204

with subtest("a large file is replaced, although old and new together are over the quota"):
    upload = reserved()
    for letter in "ab":
        tree(f"yes {letter} | head -c {most * 6 // 10} >big || true")
        laptop.succeed(push(upload, "--whole-file"))
    status, answer = finalized(upload)
    assert status == 200 and answer["size_bytes"] == most * 6 // 10, answer
    assert ask("DELETE", f"/uploads/{upload}")[0] == 204
