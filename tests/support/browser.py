"""Headless Chromium, driven through a pipe by its DevTools protocol: content, console and requests of a page."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium (Debian, Ubuntu: apt-get install chromium)"
)
"""Also makes a test an integration test (conftest.py)."""
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu")


def browse(*arguments: str) -> str:
    """Output of headless Chromium for a page, ten seconds of virtual time after it was opened."""
    assert CHROMIUM
    options = (*OPTIONS, "--virtual-time-budget=10000", "--window-size=1400,1000")
    return subprocess.run(
        [CHROMIUM, *options, *arguments], capture_output=True, text=True, check=True, timeout=120
    ).stdout


class Page:
    """One open page. `messages`: events of the browser since it was opened."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, os.fdopen(from_browser, "rb", buffering=0)
        self._number, self._rest, self._session = 0, b"", None
        self.messages: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Result of a command of the DevTools protocol."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self.messages.append(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            data = self._from.read(1 << 16)
            assert data, "the browser has exited"
            self._rest += data
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def open(self, url: str, width: int = 1280, height: int = 900, scheme: str = "light") -> None:
        """Load the page in a window of this size (below 600 px: a phone's) and colour scheme: light or dark."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.messages.clear()
        self.call("Page.navigate", url=url)
        while not self.events("Page.loadEventFired"):
            self.messages.append(self._read())

    def events(self, method: str) -> list[dict[str, Any]]:
        """Parameters of the events of this kind."""
        return [message["params"] for message in self.messages if message.get("method") == method]

    def errors(self) -> list[str]:
        """Errors and warnings of the console, exceptions of scripts."""
        self.evaluate("0")  # earlier events have arrived by then
        logged = [e["entry"] for e in self.events("Log.entryAdded")] + self.events("Runtime.exceptionThrown")
        said = [e for e in self.events("Runtime.consoleAPICalled") if e["type"] in ("error", "warning")]
        return [json.dumps(entry) for entry in logged + said]

    def requests(self) -> list[str]:
        """Requested URLs, without data: URLs."""
        self.evaluate("0")
        urls = [event["request"]["url"] for event in self.events("Network.requestWillBeSent")]
        return [url for url in urls if not url.startswith("data:")]

    def evaluate(self, script: str) -> Any:
        """The value of an expression, awaited."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str, times: int = 1) -> None:
        """Press a key such as Tab or ArrowRight on the focused element."""
        code = {"Tab": 9, "ArrowLeft": 37, "ArrowRight": 39, "Home": 36, "End": 35}[key]
        for kind in ("keyDown", "keyUp") * times:
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def click(self, x: float, y: float) -> None:
        """Click with the left button."""
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """PNG of the whole page, or of the window."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))


def high_pipe() -> list[int]:
    """A pipe whose two ends have numbers above 9."""
    ends = os.pipe()
    moved = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return moved


@contextmanager
def browser() -> Iterator[Page]:
    """A fresh Chromium with one page."""
    assert CHROMIUM
    # Chromium reads commands from descriptor 3 and answers on 4.
    (read_command, write_command), (read_answer, write_answer) = high_pipe(), high_pipe()

    def connect() -> None:
        os.dup2(read_command, 3)
        os.dup2(write_answer, 4)

    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [CHROMIUM, *OPTIONS, "--remote-debugging-pipe", f"--user-data-dir={profile}"],
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            preexec_fn=connect,
            pass_fds=(3, 4),
            start_new_session=True,
        )
        os.close(read_command)
        os.close(write_answer)
        try:
            yield Page(write_command, read_answer)
        finally:
            os.close(write_command)  # Chromium exits
            try:
                process.wait(10)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
