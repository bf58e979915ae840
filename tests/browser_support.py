"""Headless Chromium, steered over a pipe (Chrome DevTools Protocol), without other packages."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)


class Browser:
    """One page of a running Chromium.

    Attributes:
        messages: errors of the page.
        requests: the addresses that it asked for.
    """

    def __init__(self, to_browser: int, from_browser: int, downloads: Path) -> None:
        self._to, self._from = to_browser, from_browser
        self._buffer, self._number, self._session = b"", 0, None
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.downloads = downloads
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        folder = str(downloads)
        self.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=folder)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "DOM", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command's result; events that come before are kept in ``messages`` or ignored."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._to, json.dumps(command).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            received = os.read(self._from, 1 << 20)
            assert received, "Chromium ended"
            self._buffer += received
        text, _, self._buffer = self._buffer.partition(b"\0")
        event = json.loads(text)
        parameters = event.get("params", {})
        entry = parameters.get("entry", {})
        if event.get("method") == "Log.entryAdded" and entry["level"] == "error":
            self.messages.append(f"{entry['text']} {entry.get('url', '')}")
        elif event.get("method") == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif event.get("method") == "Runtime.exceptionThrown":
            self.messages.append(str(parameters["exceptionDetails"]))
        return event

    def open(self, url: str) -> None:
        """Go to a page and wait until it is loaded."""
        self.messages.clear()
        self.requests.clear()
        self.send("Page.navigate", url=url)
        self.wait(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page; promises are awaited."""
        answer = self.send(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, expression: str, seconds: float = 60) -> Any:
        """Wait until an expression is true; gives its value."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := self.value(expression):
                return found
            time.sleep(0.05)
        text = self.value("document.body.innerText")
        raise AssertionError(f"never true: {expression}\n{text}\n{self.messages}")

    def choose_file(self, selector: str, path: Path) -> None:
        """Choose a file in an <input type="file">."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def downloaded(self, name: str, seconds: float = 20) -> bytes:
        """The content of a download, which is removed."""
        path, end = self.downloads / name, time.monotonic() + seconds
        while not path.is_file() or path.with_name(f"{name}.crdownload").exists():
            assert time.monotonic() < end, f"{name} was not downloaded"
            time.sleep(0.05)
        content = path.read_bytes()
        path.unlink()
        return content

    def look(self, width: int, height: int, scheme: str = "light") -> None:
        """Set the window's size and the preferred colours."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.send("Emulation.setEmulatedMedia", features=features)

    def screenshot(self, path: Path, **options: Any) -> None:
        """Write a picture of the window."""
        answer = self.send("Page.captureScreenshot", **options)
        path.write_bytes(base64.b64decode(answer["data"]))


@contextlib.contextmanager
def chromium(folder: Path, *options: str) -> Iterator[Browser]:
    """Start Chromium with a profile of its own in ``folder``; it ends with the block."""
    downloads = folder / "downloads"
    downloads.mkdir(parents=True)
    command = [CHROMIUM, "--headless=new", "--remote-debugging-pipe", "--no-first-run"]
    command += [f"--user-data-dir={folder / 'profile'}", "--disable-gpu", *options]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--no-sandbox")  # Chromium has none for root
    browser_reads, we_write = os.pipe()
    we_read, browser_writes = os.pipe()

    # Chromium reads commands from descriptor 3 and answers on 4.
    pipes = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (browser_reads, browser_writes)]
    script = f'exec 3<&{pipes[0]} 4>&{pipes[1]}; exec "$@"'
    process = subprocess.Popen(
        ["bash", "-c", script, "bash", *command],
        pass_fds=pipes,
        stdout=subprocess.DEVNULL,
        stderr=(folder / "chromium.log").open("wb"),
    )
    for end in (browser_reads, browser_writes, *pipes):
        os.close(end)
    try:
        yield Browser(we_write, we_read, downloads)
    finally:
        os.close(we_write)  # it ends when the pipe does
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(we_read)
