"""A headless Chromium through chromedriver's HTTP interface: as much of WebDriver as the checks need, without a package for it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")

REQUIRED = "SVDPROJ_BROWSER"
"""With `required` in this environment variable, a machine without a browser fails the tests that it would otherwise skip."""

_START_SECONDS = 60


def missing_programs() -> list[str]:
    """What has to be installed before the checks can run."""
    found = {"chromium": CHROMIUM, "chromedriver": CHROMEDRIVER}
    return [name for name, path in found.items() if path is None]


def excuse(missing: list[str]) -> NoReturn:
    """Skip the test that wants these programs, or fail it where a browser is required."""
    message = f"needs {' and '.join(missing)} (Debian: chromium, chromium-driver)"
    if os.environ.get(REQUIRED) == "required":
        pytest.fail(message)
    pytest.skip(message)


class Browser:
    """One browser window.

    Args:
        session: address of the WebDriver session.
    """

    def __init__(self, session: str) -> None:
        self.session = session

    def open(self, url: str, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Load a page in a window of this size and colour scheme, and wait for it."""
        self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.devtools("Emulation.setEmulatedMedia", features=scheme)
        self._post("/url", url=url)
        # A page of another process may be made before it knows the scheme; when it is loaded again, it knows.
        self.run("localStorage.clear();")
        self.console()
        self._post("/refresh")

    def run(self, script: str) -> Any:
        """The value of a JavaScript function body; promises are waited for."""
        return self._post("/execute/sync", script=script, args=[])

    def console(self) -> list[str]:
        """Errors in the console since the last call, network ones included."""
        return [entry["message"] for entry in self._post("/se/log", type="browser") if entry["level"] == "SEVERE"]

    def screenshot(self, path: Path) -> None:
        """Write a PNG of the window."""
        path.write_bytes(b64decode(_request(f"{self.session}/screenshot")))

    def devtools(self, command: str, **parameters: Any) -> Any:
        """The result of a command of the DevTools protocol."""
        return self._post("/goog/cdp/execute", cmd=command, params=parameters)

    def _post(self, path: str, **body: Any) -> Any:
        return _request(self.session + path, body)


@contextmanager
def open_browser() -> Iterator[Browser]:
    """A browser, ended with the context.

    Raises:
        RuntimeError: chromedriver does not answer.
    """
    port = _free_port()
    driver = subprocess.Popen(
        [str(CHROMEDRIVER), f"--port={port}", "--silent"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(address)
        options = {
            "binary": CHROMIUM,
            # As root there is no sandbox, and small machines have little shared memory.
            "args": ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"],
        }
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = _request(f"{address}/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        browser = Browser(f"{address}/session/{session}")
        # The theme remembers the scheme of the first page; every page here is a first one.
        browser.devtools("Page.addScriptToEvaluateOnNewDocument", source="try { localStorage.clear() } catch {}")
        try:
            yield browser
        finally:
            _request(f"{address}/session/{session}", method="DELETE")
    finally:
        driver.terminate()
        driver.wait()


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address under which a folder is served to this machine."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            # Browsers ask for it by themselves; a page that names no icon is no worse for it.
            if self.path == "/favicon.ico":
                self.send_response(204)
                self.end_headers()
            else:
                super().do_GET()

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _request(url: str, body: dict[str, Any] | None = None, method: str | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urlopen(request, timeout=120) as response:
            return json.load(response)["value"]
    except HTTPError as error:
        raise RuntimeError(f"{url}: {json.load(error)['value']['message']}") from None


def _wait_until_ready(address: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        try:
            if _request(f"{address}/status")["ready"]:
                return
        except URLError:
            time.sleep(0.1)
    raise RuntimeError(f"chromedriver ({CHROMEDRIVER}) did not answer within {_START_SECONDS} s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
