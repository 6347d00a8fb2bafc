"""Chromium by its DevTools protocol, over a pair of pipes (chromedevtools.github.io)."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PATIENCE = 60.0  # seconds for anything to be seen; on an idle machine it takes one
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",  # Chromium's needs another user than root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
# The protocol is on descriptors 3 and 4; bash moves ours there.
MOVE = 'r=$1 w=$2; shift 2; exec "$@" 3<&"$r" 4>&"$w"'


class Browser:
    """A headless Chromium; a context manager that leaves no process."""

    def __init__(self, profile: Path) -> None:
        self._profile = profile
        self._number = 0
        self._rest = b""
        self._pages: dict[str, Page] = {}

    def __enter__(self) -> Self:
        child_reads, self._writes = os.pipe()
        self._reads, child_writes = os.pipe()
        command = ["chromium", f"--user-data-dir={self._profile}", *ARGUMENTS, "about:blank"]
        with (self._profile / "log").open("wb") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", MOVE, "move", str(child_reads), str(child_writes), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(child_reads, child_writes),
                start_new_session=True,
            )
        os.close(child_reads)
        os.close(child_writes)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError, AssertionError):
            self.call("Browser.close")
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, 9)
            self._process.wait(20)
        os.close(self._reads)
        os.close(self._writes)

    @contextlib.contextmanager
    def tab(self) -> Iterator[Page]:
        """Open a tab in a context of its own: with a storage of its own."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        where = {"url": "about:blank", "browserContextId": context}
        target = self.call("Target.createTarget", **where)["targetId"]
        attach = {"targetId": target, "flatten": True}
        session = self.call("Target.attachToTarget", **attach)["sessionId"]
        page = self._pages[session] = Page(self, session)
        page.prepare()
        try:
            yield page
        finally:
            del self._pages[session]
            self.call("Target.disposeBrowserContext", browserContextId=context)

    def send(self, method: str, session: str | None = None, **parameters: Any) -> int:
        """Begin a call; return its number."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._writes, json.dumps(message).encode() + b"\0")
        return self._number

    def call(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        """Make a call and return its result; events that come meanwhile reach their tabs."""
        number = self.send(method, session, **parameters)
        end = time.monotonic() + PATIENCE
        while True:
            answer = self._next(end)
            assert answer is not None, f"Chromium does not answer {method}"
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self._event(answer)

    def listen(self, seconds: float) -> None:
        """Take in events for a while."""
        end = time.monotonic() + seconds
        while (answer := self._next(end)) is not None:
            self._event(answer)

    def _event(self, event: dict[str, Any]) -> None:
        page = self._pages.get(event.get("sessionId", ""))
        if page is not None and "method" in event:
            page.take(event["method"], event["params"])

    def _next(self, end: float) -> Any:
        """Return the next message; None when time is up."""
        while b"\0" not in self._rest:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self._reads], [], [], left)[0]:
                return None
            data = os.read(self._reads, 2**20)
            assert data, "Chromium has ended"
            self._rest += data
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)


class Page:
    """A tab. ``faults`` are its errors; ``requested`` the addresses that it has asked for."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self.faults: list[str] = []
        self.requested: list[str] = []
        self.dialogs: list[str] = []

    def prepare(self) -> None:
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.size(1180, 860)

    def call(self, method: str, **parameters: Any) -> Any:
        return self._browser.call(method, self._session, **parameters)

    def take(self, method: str, event: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.faults.append(json.dumps(event["exceptionDetails"])[:2000])
        elif method == "Log.entryAdded" and event["entry"]["level"] == "error":
            # What the API refuses is said on the page; a policy that is broken is a fault.
            if event["entry"]["source"] != "network":
                self.faults.append(event["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requested.append(event["request"]["url"])
        elif method == "Page.javascriptDialogOpening":
            self.dialogs.append(event["message"])

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def size(self, width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def scheme(self, name: str) -> None:
        """Prefer ``light`` or ``dark``."""
        feature = {"name": "prefers-color-scheme", "value": name}
        self.call("Emulation.setEmulatedMedia", features=[feature])

    def js(self, expression: str) -> Any:
        """Return what an expression, or its promise, comes to."""
        how = {"awaitPromise": True, "returnByValue": True}
        found = self.call("Runtime.evaluate", expression=expression, **how)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, expression: str) -> None:
        """Return once it is true."""
        end = time.monotonic() + PATIENCE
        while not self.js(f"Boolean({expression})"):
            assert time.monotonic() < end, f"never: {expression}\n{self.text()}\n{self.faults}"
            self._browser.listen(0.05)

    def text(self, selector: str = "body") -> str:
        return str(self.js(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def until_text(self, selector: str, text: str) -> None:
        where = f"document.querySelector({json.dumps(selector)})?.innerText"
        self.until(f"{where}?.includes({json.dumps(text)})")

    def click(self, selector: str) -> None:
        """Click in its middle, as a person does; a dialog that opens is accepted."""
        find = f"document.querySelector({json.dumps(selector)})"
        self.until(find)
        place = self.js(
            f"(() => {{ const e = {find}; e.scrollIntoView({{block: 'center'}});"
            " const r = e.getBoundingClientRect();"
            " return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        at = {"x": place[0], "y": place[1], "button": "left", "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type="mousePressed", **at)
        before = len(self.dialogs)
        # Not awaited: it does not return while a dialog that it opens is open.
        self._browser.send("Input.dispatchMouseEvent", self._session, type="mouseReleased", **at)
        self._browser.listen(0.3)
        if len(self.dialogs) > before:
            self.call("Page.handleJavaScriptDialog", accept=True)

    def type(self, selector: str, text: str) -> None:
        self.until(f"document.querySelector({json.dumps(selector)})")
        self.js(f"document.querySelector({json.dumps(selector)}).focus()")
        self.call("Input.insertText", text=text)

    def press(self, key: str, code: int) -> None:
        where = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        typed = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **where, **typed)
        self.call("Input.dispatchKeyEvent", type="keyUp", **where)

    def log_in(self, token: str) -> None:
        self.type("#token", token)
        self.press("Enter", 13)
        self.until("document.querySelector('#jobs')")

    def picture(self, file: Path) -> None:
        """Write what is to be seen as a PNG."""
        shot = self.call("Page.captureScreenshot", format="png")
        file.write_bytes(base64.b64decode(shot["data"]))
