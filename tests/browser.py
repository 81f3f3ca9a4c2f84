"""Chromium without a window, spoken to through two pipes (the DevTools protocol), so that it needs no package."""

import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 120


def chromium() -> str:
    """The program; a test without it is skipped."""
    names = (os.environ.get("RAYDUAL_CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, filter(None, names))), None)
    return found or pytest.skip("no Chromium: `apt-get install chromium`, or name one in RAYDUAL_CHROMIUM")


class Browser:
    """A browser with one tab; `events` are all that it told beside answers."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._numbers, self._read, self.events = itertools.count(1), b"", list[dict]()
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self.ask(f"{domain}.enable")

    _session: str | None = None

    def ask(self, method: str, **parameters: Any) -> dict:
        """The answer to a command."""
        number = next(self._numbers)
        session = {"sessionId": self._session} if self._session else {}
        command = {"id": number, "method": method, "params": parameters, **session}
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        while True:
            message = self._next()
            if message.get("id") == number:
                assert "error" not in message, (method, message["error"])
                return message["result"]
            self.events.append(message)

    def _next(self) -> dict:
        end = time.monotonic() + PATIENCE
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._answers], [], [], max(0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            self._read += os.read(self._answers, 1 << 20)
        message, _, self._read = self._read.partition(b"\0")
        return json.loads(message)

    def show(self, page: Path, width: int, height: int, scheme: str) -> None:
        """Open a page in a window of a size, light or dark, and wait until every figure that moves is there."""
        self.events.clear()
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.ask("Page.navigate", url=page.as_uri())
        end = time.monotonic() + PATIENCE
        still = "document.querySelector('.plot > svg')"
        while not self.run(f"document.readyState === 'complete' && !({still}?.scrollIntoView(), {still})"):
            assert time.monotonic() < end, "figures are missing"
            time.sleep(0.1)
        self.run("scrollTo(0, 0)")

    def run(self, script: str) -> Any:
        """What a line of JavaScript gives."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def complaints(self) -> list[str]:
        """Errors and warnings on the console, exceptions, and what was asked of other places."""
        found = []
        for event in self.events:
            method, told = event["method"], event["params"]
            if method == "Runtime.exceptionThrown":
                details = told["exceptionDetails"]
                found.append(details.get("exception", {}).get("description", details["text"]))
            if method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning"):
                found.append(" ".join(str(one.get("value")) for one in told["args"]))
            if method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
                found.append(told["entry"]["text"])
            if method == "Network.requestWillBeSent" and not told["request"]["url"].startswith(("file:", "data:")):
                found.append(f"asked for {told['request']['url']}")
        return found

    def tree(self) -> list[tuple[str, str]]:
        """(role, name) of what a screen reader is given."""
        nodes = self.ask("Accessibility.getFullAXTree")["nodes"]
        return [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser of its own, gone afterwards with all that it wrote."""
    program = chromium()
    theirs_in, commands = os.pipe()
    answers, theirs_out = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe"]
        line = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}'
        process = subprocess.Popen(
            ["bash", "-c", line, program, *options, f"--user-data-dir={profile}"],
            pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            yield Browser(commands, answers)
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.close(commands)
            os.close(answers)
