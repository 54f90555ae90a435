"""A real browser, driven over a pipe: its own protocol, nothing between.

    with Browser(program, folder) as browser:
        page = browser.open(path, width=1200)
        page.click("nav a:nth-child(2)")
        page.ask("document.title"), page.errors, page.requests

Every message is JSON with a zero byte behind it; what comes without an `id` is an event, and is kept.
"""

import base64
import fcntl
import json
import os
import select
import subprocess
import time

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--remote-debugging-pipe"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
    *("--disable-default-apps", "--no-default-browser-check", "--disable-dev-shm-usage"),
)
SECONDS = 60


class Browser:
    """See the module; `folder` is its own, and empty."""

    def __init__(self, program, folder):
        to_it, self.to = os.pipe()
        self.come, from_it = os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (to_it, from_it)]
        start = f'exec "$@" 3<&{ends[0]} 4>&{ends[1]} 2>/dev/null'
        command = ["bash", "-c", start, "bash", program, *FLAGS, f"--user-data-dir={folder}", "about:blank"]
        self.process = subprocess.Popen(command, pass_fds=ends, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        for end in (to_it, from_it, *ends):
            os.close(end)
        self.events, self._left, self._number = [], b"", 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.call("Browser.close")
            self.process.wait(20)
        except (OSError, TimeoutError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        os.close(self.to)
        os.close(self.come)

    def call(self, method, session=None, **parameters):
        """One command; answers its result."""
        self._number += 1
        told = {"id": self._number, "method": method, "params": parameters} | (
            {"sessionId": session} if session else {}
        )
        os.write(self.to, json.dumps(told).encode() + b"\0")
        end = time.monotonic() + SECONDS
        while True:
            answer = self._message(end - time.monotonic())
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self.events.append(answer)

    def _message(self, seconds):
        while b"\0" not in self._left:
            if not select.select([self.come], [], [], max(0, seconds))[0]:
                raise TimeoutError("the browser does not answer")
            more = os.read(self.come, 1 << 20)
            if not more:
                raise OSError("the browser ended")
            self._left += more
        line, self._left = self._left.split(b"\0", 1)
        return json.loads(line)

    def open(self, path, width=1200, height=900, dark=False):
        """A page of a file, loaded."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        for part in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{part}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 700}
        page.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.call("Emulation.setEmulatedMedia", features=[scheme])
        page.call("Page.navigate", url=path.as_uri())
        page.wait("document.readyState === 'complete'")
        return page


class Page:
    """One tab."""

    def __init__(self, browser, session):
        self.browser, self.session = browser, session

    def call(self, method, **parameters):
        return self.browser.call(method, self.session, **parameters)

    def ask(self, expression):
        """The value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, expression):
        end = time.monotonic() + SECONDS
        while not self.ask(expression):
            assert time.monotonic() < end, expression
            time.sleep(0.02)

    def place(self, selector, number=0):
        """The middle of an element, brought into view."""
        found = self.ask(
            f"(() => {{ const e = document.querySelectorAll({json.dumps(selector)})[{number}];"
            "if (!e) return null; e.scrollIntoView({block: 'center'}); const b = e.getBoundingClientRect();"
            "return [b.x + b.width / 2, b.y + b.height / 2] })()"
        )
        assert found, f"nothing is {selector}"
        return found

    def click(self, selector, number=0):
        """As a hand does it."""
        x, y = self.place(selector, number)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def point(self, selector, number=0):
        x, y = self.place(selector, number)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def shot(self, path, whole=False):
        """A picture of what is shown, or of the whole page."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))
        return path

    def _events(self, *methods):
        self.ask("0")  # what happened until now has arrived
        own = [event for event in self.browser.events if event.get("sessionId") == self.session]
        return [event["params"] for event in own if event["method"] in methods]

    @property
    def errors(self):
        """What the console says went wrong."""
        logged = [entry["entry"] for entry in self._events("Log.entryAdded")]
        said = self._events("Runtime.consoleAPICalled")
        return [
            *(str(each) for each in self._events("Runtime.exceptionThrown")),
            *(entry["text"] for entry in logged if entry["level"] in ("error", "warning")),
            *(str(each["args"]) for each in said if each["type"] in ("error", "warning", "assert")),
        ]

    @property
    def requests(self):
        """What was fetched; an image that is in the page is not."""
        urls = [each["request"]["url"] for each in self._events("Network.requestWillBeSent")]
        return [url for url in urls if not url.startswith("data:")]
