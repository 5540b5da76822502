"""A headless Chromium that is driven over its DevTools pipe: real keys, clicks and downloads, no Python package."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --remote-debugging-pipe"
# The browser reads commands from descriptor 3 and writes to 4.
START = "import os, sys; a, b, *line = sys.argv[1:]; os.dup2(int(a), 3); os.dup2(int(b), 4); os.execv(line[0], line)"
CONTROL = 2  # bit of `modifiers`


class Tab:
    """One page of a browser. Every call waits for its answer; the browser is killed after `limit` seconds."""

    def __init__(self, home: Path, limit: float = 120):
        read, self._commands = os.pipe()
        self._answers, write = os.pipe()
        line = [sys.executable, "-c", START, str(read), str(write), PROGRAM, *FLAGS.split(), f"--user-data-dir={home}"]
        environment = {**os.environ, "HOME": str(home)}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(line, env=environment, pass_fds=(read, write), **quiet)
        os.close(read)
        os.close(write)
        self._timer = threading.Timer(limit, self._process.kill)
        self._timer.start()
        self._count, self._rest, self._session = 0, b"", {}
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._session = {"sessionId": session}

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Send a command of the DevTools protocol; return its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": arguments, **self._session}
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._count:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            if not (data := os.read(self._answers, 1 << 16)):
                raise RuntimeError("the browser has ended")
            self._rest += data
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression, as JSON. A page's content security policy does not apply."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until a JavaScript expression is true."""
        while not self.run(condition):
            time.sleep(0.02)

    def open(self, url: str) -> None:
        """Open a page and wait until it is loaded."""
        self.call("Page.navigate", url=url)
        self.wait(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    def press(self, key: str, code: str = "", **more: Any) -> None:
        """Press a key: `key` and `code` as in a KeyboardEvent; a key of one character also types it."""
        text = {"text": key} if len(key) == 1 and not more else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=code, **text, **more)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=code)

    def tap(self, selector: str, touch: bool = False) -> None:
        """Click or touch the middle of an element."""
        place = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{place}.scrollIntoView({{block: 'center'}})")
        x, y = self.run(
            f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({place}.getBoundingClientRect())"
        )
        if touch:
            self.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
            self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        else:
            for kind in ("mousePressed", "mouseReleased"):
                self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, path: Path) -> None:
        """Write what the tab shows as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        """End the browser, which writes its data first."""
        with contextlib.suppress(RuntimeError, OSError):
            self._session = {}
            self.call("Browser.close")
            self._process.wait(20)
        self._timer.cancel()
        self._process.kill()
        self._process.wait()
        os.close(self._commands)
        os.close(self._answers)


@contextlib.contextmanager
def tab(home: Path) -> Iterator[Tab]:
    """A tab of a browser that keeps its data in `home`, and its downloads in `home`/Downloads."""
    opened = Tab(home)
    try:
        opened.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(home / "Downloads"))
        yield opened
    finally:
        opened.close()
