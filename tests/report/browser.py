"""A headless Chromium, driven by its DevTools protocol: opens a page, runs expressions in it, notes what goes wrong."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

EXECUTABLE = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """One tab. `faults` collects script errors, console errors, blocked content and requests for more than the file.

    `arguments` are more of Chromium's own.
    """

    def __init__(self, profile: Path, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [
                EXECUTABLE,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                "--remote-debugging-port=0",
                f"--user-data-dir={profile}",
                *arguments,
                "about:blank",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        port_file = profile / "DevToolsActivePort"
        for _ in range(600):
            if port_file.exists() and len(lines := port_file.read_text().split("\n")) > 1:
                break
            time.sleep(0.05)
        self.faults: list[str] = []
        self._calls = 0
        # Between two calls nobody reads what a page goes on telling: no answer to a ping would be seen then.
        unread = {"max_size": None, "max_queue": None, "ping_interval": None}
        self._socket = connect(f"ws://127.0.0.1:{lines[0]}{lines[1]}", proxy=None, **unread)
        self._session = None
        (tab,) = [each for each in self._call("Target.getTargets")["targetInfos"] if each["type"] == "page"]
        self._session = self._call("Target.attachToTarget", targetId=tab["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.wait()

    def open(self, address: str, width: int, height: int = 900, scheme: str = "light") -> None:
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self._call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self._call("Page.navigate", url="about:blank")  # the same address with another fragment would not load anew
        self._call("Page.navigate", url=address)
        self._until_read()

    def _until_read(self) -> None:
        while self.run("document.readyState") != "complete" or self.run("location.href") == "about:blank":
            time.sleep(0.02)

    def run(self, expression: str) -> Any:
        """The JSON value of an expression. Where the page goes meanwhile, of the next one."""
        while True:
            try:
                answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
                break
            except AssertionError as error:
                if "navigated" not in str(error):
                    raise
                self._until_read()
        if "exceptionDetails" in answer:
            raise AssertionError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot")["data"]))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._calls += 1
        message = {"id": self._calls, "method": method, "params": parameters}
        self._socket.send(json.dumps(message | ({"sessionId": self._session} if self._session else {})))
        while True:
            answer = json.loads(self._socket.recv(timeout=300))  # a busy machine's browser takes its time
            if answer.get("id") == self._calls:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                return answer["result"]
            self._note(answer)

    def _note(self, event: dict[str, Any]) -> None:
        about = event.get("params", {})
        match event.get("method"):
            case "Runtime.exceptionThrown":
                self.faults.append(about["exceptionDetails"]["text"])
            case "Runtime.consoleAPICalled" if about["type"] in ("error", "warning"):
                self.faults.append(str(about["args"]))
            case "Log.entryAdded" if about["entry"]["level"] in ("error", "warning"):
                self.faults.append(about["entry"]["text"])
            case "Network.requestWillBeSent" if not about["request"]["url"].startswith(("file:", "about:")):
                self.faults.append(about["request"]["url"])
