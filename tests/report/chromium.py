"""A headless Chromium to look at pages with, spoken to over a pipe (the DevTools protocol)."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["Page", "find_chromium", "opened"]

# Chromium reads commands from descriptor 3 and answers on 4.
LAUNCH = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SWITCHES = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--use-angle=swiftshader",  # WebGL without a graphics card
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    "--window-size=900,700",
)


def find_chromium() -> str | None:
    """The first Chromium or Chrome on the path."""
    if os.name != "posix":  # pipes are handed over in another way
        return None
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Page:
    """A tab.

    Attributes:
        problems: errors and warnings of the console, and exceptions, as they came.
        requests: addresses that it asked for.
    """

    def __init__(self, to: int, back: int) -> None:
        self.problems: list[str] = []
        self.requests: list[str] = []
        self._to, self._back = to, back
        self._rest, self._number, self._session = b"", 0, ""

    def say(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol; returns its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result

    def open(self, address: str) -> None:
        """Attach to a new tab and go there."""
        target = self.say("Target.createTarget", url="about:blank")["targetId"]
        attached = self.say("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Runtime", "Log", "Network", "Page"):
            self.say(f"{domain}.enable")
        self.go(address)

    def go(self, address: str) -> None:
        """Load another page."""
        self.say("Page.navigate", url=address)
        self.wait("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of an expression in the page, awaited."""
        answer = self.say(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def wait(self, script: str, seconds: float = 120.0) -> Any:
        """Until an expression is true."""
        until = time.monotonic() + seconds
        while not (value := self.run(script)):
            if time.monotonic() > until:
                raise TimeoutError(f"{script} within {seconds} s; {self.problems}")
            time.sleep(0.1)
        return value

    def picture(self, selector: str | None = None) -> bytes:
        """A PNG of an element, or of all that is in view."""
        self._drawn()
        if selector is None:
            shot = self.say("Page.captureScreenshot", format="png")
        else:
            box = self.run(
                f"(() => {{ const e = document.querySelector('{selector}'); e.scrollIntoView();"
                " const r = e.getBoundingClientRect(); return {x: r.x + scrollX,"
                " y: r.y + scrollY, width: r.width, height: r.height, scale: 1}; })()"
            )
            self._drawn()
            shot = self.say("Page.captureScreenshot", format="png", clip=box)
        return base64.b64decode(shot["data"])

    def _drawn(self) -> None:
        """Until what is to be drawn is on the screen."""
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def _next(self, seconds: float = 120.0) -> dict[str, Any]:
        """The next message; events are noted."""
        while b"\0" not in self._rest:
            if not select.select([self._back], [], [], seconds)[0]:
                raise TimeoutError("Chromium does not answer")
            part = os.read(self._back, 1 << 20)
            if not part:
                raise ConnectionError("Chromium has ended")
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        self._note(answer.get("method"), answer.get("params", {}))
        return answer

    def _note(self, event: str | None, said: dict[str, Any]) -> None:
        if event == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning", "assert"):
            self.problems.append(str([arg.get("value") for arg in said["args"]]))
        elif event == "Runtime.exceptionThrown":
            self.problems.append(str(said["exceptionDetails"]))
        elif event == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
            self.problems.append(said["entry"]["text"])
        elif event == "Network.requestWillBeSent":
            self.requests.append(said["request"]["url"][:200])


@contextlib.contextmanager
def opened(program: str, page: Path, *switches: str) -> Iterator[Page]:
    """A page from disk in a Chromium of its own, which ends with the block."""
    (theirs_in, to), (back, theirs_out) = _pipe(), _pipe()
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program, *SWITCHES, *root, *switches, f"--user-data-dir={profile}"]
        process = subprocess.Popen(
            [sys.executable, "-ISc", LAUNCH, str(theirs_in), str(theirs_out), *command],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            tab = Page(to, back)
            tab.open(page.resolve().as_uri())
            yield tab
        finally:
            with contextlib.suppress(OSError, RuntimeError):
                tab._session = ""
                tab.say("Browser.close")
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.close(to)
            os.close(back)


def _pipe() -> tuple[int, int]:
    """Two ends, out of the way of 3 and 4."""
    import fcntl  # Windows has none

    ends = []
    for end in os.pipe():
        ends.append(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10))
        os.close(end)
    return ends[0], ends[1]
