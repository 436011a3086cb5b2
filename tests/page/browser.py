"""Headless Chromium, driven through two pipes: pages, script results, console output and network requests."""
import base64
import fcntl
import json
import os
import pathlib
import select
import shutil
import subprocess
import tempfile
import time

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--remote-debugging-pipe"]
ANSWER_SECONDS_MAX = 30.0
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


class Browser:
    """One browser with a new profile, and one page. `problems` and `requests` are those of the open page."""

    def __init__(self):
        program = next(filter(None, map(shutil.which, PROGRAMS)), None)
        if program is None:
            raise FileNotFoundError("chromium is not installed; tests/install installs it")
        self.profile = tempfile.mkdtemp(prefix="millstream-page-")
        self.problems, self.requests, self._number, self._text = [], [], 0, b""
        to_browser, self._out = _pipe()
        self._in, from_browser = _pipe()
        self.process = subprocess.Popen([program, *FLAGS, f"--user-data-dir={self.profile}"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL, close_fds=False, start_new_session=True,
                                        preexec_fn=lambda: (os.dup2(to_browser, 3), os.dup2(from_browser, 4)))
        os.close(to_browser)
        os.close(from_browser)
        self._session = None
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait(10)
        os.close(self._in)
        os.close(self._out)
        shutil.rmtree(self.profile, ignore_errors=True)

    def ask(self, method, **parameters):
        """The result of one command; events meanwhile are recorded."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": parameters} | ({"sessionId": self._session} if self._session else {})
        os.write(self._out, json.dumps(command).encode() + b"\0")
        deadline = time.monotonic() + ANSWER_SECONDS_MAX
        while True:
            message = self._message(deadline, method)
            if message.get("id") == self._number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            self._note(message)

    def _message(self, deadline, method):
        while b"\0" not in self._text:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._in], [], [], left)[0]:
                raise TimeoutError(f"the browser does not answer {method}")
            chunk = os.read(self._in, 1 << 20)
            if not chunk:
                raise RuntimeError(f"the browser ended before it answered {method}")
            self._text += chunk
        text, self._text = self._text.split(b"\0", 1)
        return json.loads(text)

    def _note(self, message):
        kind, about = message.get("method"), message.get("params", {})
        if kind == "Runtime.exceptionThrown":
            self.problems.append(about["exceptionDetails"].get("exception", {}).get("description") or about["exceptionDetails"]["text"])
        elif kind == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning", "assert"):
            self.problems.append(f"console: {[argument.get('value') for argument in about['args']]}")
        elif kind == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
            self.problems.append(f"log: {about['entry']['text']}")
        elif kind == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])

    def open(self, path, width, theme="light"):
        """Opens a file at this width, in the light or dark theme, and waits until the plots are drawn."""
        self.problems, self.requests = [], []
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        self.ask("Page.navigate", url=pathlib.Path(path).resolve().as_uri())
        drawn = "document.readyState === 'complete' && [...document.querySelectorAll('.frame')].every((frame) => frame.querySelector('svg'))"
        deadline = time.monotonic() + ANSWER_SECONDS_MAX
        while not self.value(drawn) or self.value("location.href") == "about:blank":
            if time.monotonic() > deadline:
                raise TimeoutError(f"the page is not drawn: {self.problems}")
            time.sleep(0.05)
        # Two frames later everything that reacts to sizes has reacted.
        self.value("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")

    def value(self, script):
        """The value of a script, once available."""
        result = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{script}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def screenshot(self, path):
        """A screenshot of the whole page."""
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        picture = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        pathlib.Path(path).write_bytes(base64.b64decode(picture["data"]))


def _pipe():
    """A pipe whose ends are neither 3 nor 4, which the browser's ends become."""
    ends = os.pipe()
    moved = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return moved
