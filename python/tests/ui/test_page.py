"""What a person does on the page, and what it must never do."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser import Page

from flashpods.api.ui import STATIC
from flashpods_dev.stack import MiniStack

PATCH = """diff --git a/src/parse.c b/src/parse.c
index 3b18e51..a1f0c2d 100644
--- a/src/parse.c
+++ b/src/parse.c
@@ -1,5 +1,6 @@ int parse(const char *text)
 int parse(const char *text)
 {
-    return atoi(text);
+    char *end;
+    return (int)strtol(text, &end, 10);
 }
"""
HOSTILE = "echo '<img src=x onerror=alert(1)>' # <script>alert(1)</script>"
LINES = 40


def submit(client: httpx.Client, command: str, **fields: Any) -> str:
    body = {"type": "worker", "command": command, "cpus": 1, "memory_gb": 1, **fields}
    answer = client.post("/jobs", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["job_id"])


def ended(client: httpx.Client, job_id: str) -> dict[str, Any]:
    while True:
        answer = client.get(f"/jobs/{job_id}", params={"wait": 30})
        if answer.status_code == 429:
            time.sleep(1)
            continue
        job: dict[str, Any] = answer.json()
        if job["completed_at"]:
            return job


def test_a_wrong_token_is_refused_and_not_kept(page: Page) -> None:
    page.type("#token", "short")
    page.press("Enter", 13)
    page.until_text("[role=alert]", "16 to 512")
    page.type("#token", "-but-now-long-enough-to-be-one")
    page.press("Enter", 13)
    page.until_text("[role=alert]", "does not know this token")
    assert page.js("sessionStorage.length") == 0
    assert page.js("document.activeElement.id") == "token"
    assert page.js("document.querySelector('nav').hidden")


def test_the_token_is_in_this_tabs_storage_and_in_no_address(
    inside_page: Page, stack: MiniStack, token: str
) -> None:
    assert inside_page.js("sessionStorage.getItem('flashpods-token')") == token
    assert inside_page.js("localStorage.length") == 0
    assert inside_page.js("document.cookie") == ""
    assert token not in inside_page.js("location.href")
    assert token not in inside_page.js("document.documentElement.outerHTML")
    inside_page.click("nav a[href='#/host']")
    inside_page.until("document.querySelectorAll('svg.chart path').length >= 3")
    assert not [url for url in inside_page.requested if token in url]
    assert {
        url for url in inside_page.requested if not url.startswith(f"{stack.api_url}/")
    } == set()
    inside_page.click("#leave")
    inside_page.until("document.querySelector('#token')")
    assert inside_page.js("sessionStorage.length") == 0


def test_a_token_that_was_rotated_away_asks_for_the_new_one(inside_page: Page) -> None:
    inside_page.js("sessionStorage.setItem('flashpods-token', 'x'.repeat(32))")
    inside_page.until_text("[role=alert]", "does not take this token any more")
    assert inside_page.js("sessionStorage.length") == 0


def test_jobs_are_listed_as_text_whatever_they_hold(
    inside_page: Page, client: httpx.Client
) -> None:
    job_id = submit(client, HOSTILE)
    row = f"tr:has(a[href='#/jobs/{job_id}'])"
    inside_page.until_text(row, "completed")
    assert "<script>alert(1)</script>" in inside_page.text(row)
    inside_page.click(f"a[href='#/jobs/{job_id}']")
    inside_page.until_text("#output", "<img src=x onerror=alert(1)>")
    assert inside_page.js("document.querySelectorAll('img').length") == 0
    assert inside_page.dialogs == []


def test_the_list_is_filtered_and_paged(inside_page: Page, client: httpx.Client) -> None:
    for _ in range(32):
        submit(client, "exit 1")
        time.sleep(0.02)
    inside_page.js("(f => { f.value = 'failed'; f.dispatchEvent(new Event('change')) })(filter)")
    statuses = "[...document.querySelectorAll('#jobs tbody .badge')].map(b => b.textContent)"
    inside_page.until(f"{statuses}.length === 30 && {statuses}.every(s => s === 'failed')")
    first = inside_page.text("#jobs tbody tr:first-child a")
    inside_page.until("[...document.querySelectorAll('.end button')].at(-1).disabled === false")
    inside_page.js("[...document.querySelectorAll('.end button')].at(-1).click()")
    inside_page.until(f"!document.querySelector('#jobs').innerText.includes('{first}')")
    inside_page.js("document.querySelector('.end button').click()")
    inside_page.until_text("#jobs", first)


def test_output_is_live_and_a_job_can_be_cancelled(inside_page: Page, client: httpx.Client) -> None:
    job_id = submit(client, r"printf '\033[32mgreen\033[0m\n'; exec sleep 600")
    inside_page.js(f"location.hash = '#/jobs/{job_id}'")
    inside_page.until_text("#output", "green")
    assert "[32m" not in inside_page.text("#output")
    inside_page.until_text("dl.facts", "running")
    assert client.get(f"/jobs/{job_id}").json()["status"] == "running"
    inside_page.click("button.danger")
    assert inside_page.dialogs == ["Cancel this job? It can't be started again."]
    inside_page.until_text("dl.facts", "cancelled")
    inside_page.until_text("section .bar", "complete")


def test_output_goes_on_after_a_restart_of_the_api(
    inside_page: Page, client: httpx.Client, stack: MiniStack
) -> None:
    loop = f"i=0; while [ $i -lt {LINES} ]; do echo line-$i; i=$((i+1)); sleep 0.2; done"
    job_id = submit(client, loop)
    inside_page.js(f"location.hash = '#/jobs/{job_id}'")
    inside_page.until_text("#output", "line-3")
    stack.api.restart()
    inside_page.until_text("section .bar", "complete")
    ended(client, job_id)
    shown = re.findall(r"line-(\d+)", inside_page.text("#output"))
    assert [int(n) for n in shown] == list(range(LINES)), "nothing lost, nothing doubled"
    inside_page.until_text("#state", "Live")


def test_artifacts_and_the_diff(inside_page: Page, client: httpx.Client) -> None:
    job_id = submit(client, f"cat > /artifacts/changes.patch <<'EOF'\n{PATCH}EOF")
    assert ended(client, job_id)["status"] == "completed"
    inside_page.js(f"location.hash = '#/jobs/{job_id}'")
    inside_page.until_text("main", "2 lines added, 1 removed")
    kinds = inside_page.js("[...document.querySelectorAll('#diff span')].map(e => e.className)")
    assert kinds == [*["file"] * 4, "place", "same", "same", "removed", "added", "added", "same"]
    saved = (
        "new Promise(resolve => { HTMLAnchorElement.prototype.click = function () {"
        " resolve([this.download, this.protocol]) };"
        " document.querySelector('td button').click() })"
    )
    inside_page.js(f"window.saved = {saved}; 0")
    assert inside_page.js("window.saved") == ["changes.patch", "blob:"]


def test_capacity_and_disk_over_time(inside_page: Page, client: httpx.Client) -> None:
    job_id = submit(client, "exec sleep 600", cpus=3, memory_gb=2)
    inside_page.click("nav a[href='#/host']")
    inside_page.until_text("main", "3 of 32")
    inside_page.until("document.querySelectorAll('svg.chart path.line').length >= 5")
    labels = inside_page.js(
        "[...document.querySelectorAll('svg.chart')].map(e => e.getAttribute('aria-label'))"
    )
    assert labels[0] == "CPUs reserved: now reserved 3 of 32"
    assert re.fullmatch(
        r"Disks used: now work [\d.]+ %, artifacts .* %, logs .* % of 100 %", labels[2]
    )
    for part in ("database", "podman", "disk", "identity", "Version"):
        assert part in inside_page.text("main")
    client.delete(f"/jobs/{job_id}")


def test_it_is_used_without_a_mouse_and_read_aloud(inside_page: Page) -> None:
    for address in ("#/jobs", "#/host"):
        inside_page.js(f"location.hash = '{address}'")
        inside_page.until_text("#state", "Live")
        assert inside_page.js("document.querySelectorAll('h1').length") == 1
        assert inside_page.js("document.activeElement.id") == "main"
        unnamed = inside_page.js(
            "[...document.querySelectorAll('button, a, input, select, svg.chart')].filter(e =>"
            " !(e.textContent.trim() || e.labels?.length || e.getAttribute('aria-label')))"
            ".map(e => e.outerHTML)"
        )
        assert unnamed == []
        assert inside_page.js("document.querySelector('nav [aria-current]').hash") == address
        heads = "[...document.querySelectorAll('th')].every(e => e.scope === 'col')"
        assert inside_page.js(heads)
    assert inside_page.js("document.documentElement.lang") == "en"


@pytest.mark.parametrize("width", [360, 1180])
def test_nothing_is_wider_than_the_window(inside_page: Page, width: int) -> None:
    inside_page.size(width, 800)
    for address in ("#/jobs", "#/host"):
        inside_page.js(f"location.hash = '{address}'")
        inside_page.until_text("#state", "Live")
        assert inside_page.js("document.documentElement.scrollWidth") <= width


# --------------------------------------------------------------------------- colours


def palettes() -> list[dict[str, str]]:
    """Return the light palette, and the dark one, by name."""
    css = (STATIC / "app.css").read_text()
    blocks = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    light, dark = (dict(re.findall(r"--([a-z-]+): (#[0-9a-f]+)", block)) for block in blocks)
    return [light, {**light, **dark}]


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    digits = colour[1:] if len(colour) == 7 else "".join(c * 2 for c in colour[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("palette", palettes(), ids=["light", "dark"])
def test_text_is_readable_on_what_it_is_on(palette: dict[str, str]) -> None:
    pairs = [
        (text, ground)
        for ground in ("card", "page")
        for text in ("text", "soft", "accent", "good", "bad", "warn")
    ]
    pairs += [("text", "added"), ("text", "removed"), ("code-text", "code")]
    for text, ground in pairs:
        light, dark = sorted((luminance(palette[text]), luminance(palette[ground])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)


# --------------------------------------------------------------------------- pictures


def test_pictures(
    inside_page: Page, client: httpx.Client, pictures: Path, stack: MiniStack
) -> None:
    """Leave pictures of a host at work in .dev/ui; those in docs/ui are such."""
    build = (
        'for f in lex parse eval emit link; do echo "[cc] src/$f.c"; sleep 0.1; done;'
        " echo 'running 212 tests'; sleep 0.2; echo '212 passed'; exec sleep 600"
    )
    running = submit(client, build, cpus=4, memory_gb=8)
    for command in ("make -j4 test", "cargo build --release", "true", "exit 2"):
        submit(client, command, cpus=2)
        time.sleep(0.1)
    inside_page.js("location.hash = '#/jobs'")
    inside_page.until_text(f"tr:has(a[href='#/jobs/{running}'])", "running")
    for scheme in ("light", "dark"):
        inside_page.scheme(scheme)
        inside_page.js("location.hash = '#/jobs'")
        inside_page.until_text("#jobs", running)
        inside_page.picture(pictures / f"jobs-{scheme}.png")
        inside_page.js(f"location.hash = '#/jobs/{running}'")
        inside_page.until_text("#output", "212 passed")
        inside_page.until_text("dl.facts", "running")
        inside_page.picture(pictures / f"job-{scheme}.png")
        inside_page.js("location.hash = '#/host'")
        inside_page.until("document.querySelectorAll('svg.chart path.line').length >= 5")
        inside_page.picture(pictures / f"host-{scheme}.png")
    assert len(list(pictures.glob("*.png"))) >= 6
    client.delete(f"/jobs/{running}")
