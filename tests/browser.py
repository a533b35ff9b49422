"""Drives a headless Chromium over two pipes, by the DevTools protocol."""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-background-networking", "--disable-extensions"),
    *("--hide-scrollbars", "--remote-debugging-pipe"),
)
LAUNCH = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
PATIENCE = 300  # seconds that a browser may live


def find():
    """The path of a browser, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Tab:
    """One page of a browser; `events` collects all that it tells unasked."""

    def __init__(self, write, read):
        self._write, self._read = write, read
        self._number, self._buffer, self._session = 0, b"", None
        self.events = []
        target = self("Target.createTarget", url="about:blank")["targetId"]
        attached = self("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self(f"{domain}.enable")

    def __call__(self, method, **arguments):
        """Asks for something and waits for the answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": arguments}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self.events.append(answer)

    def open(self, path):
        self("Page.navigate", url=path.absolute().as_uri())
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
            self.events.append(self._receive())

    def evaluate(self, expression):
        """The value of an expression of JavaScript."""
        found = self("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key, code, text=""):
        for kind in ("keyDown", "keyUp"):
            self(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                windowsVirtualKeyCode=code,
                text=text if kind == "keyDown" else "",
            )

    def told(self, method):
        """The parameters of the events of one kind."""
        return [e["params"] for e in self.events if e.get("method") == method]

    def _receive(self):
        while b"\0" not in self._buffer:
            chunk = os.read(self._read, 1 << 16)
            assert chunk, "the browser has ended"
            self._buffer += chunk
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)


def _pipe():
    """The ends of a pipe, out of the way of file descriptors 3 and 4."""
    low = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in low]
    for end in low:
        os.close(end)
    return high


@contextlib.contextmanager
def tab(profile):
    """A tab of a browser of its own, which is ended with the block.

    It reads from file descriptor 3 and writes to 4.
    """
    to_read, write = _pipe()
    read, to_write = _pipe()
    command = [find(), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, write)
        stack.callback(os.close, read)
        ends = str(to_read), str(to_write)
        process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, *ends, *command],
            pass_fds=(to_read, to_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        stack.callback(process.wait)
        stack.callback(os.killpg, process.pid, signal.SIGKILL)
        os.close(to_read)
        os.close(to_write)
        watch = threading.Timer(PATIENCE, os.killpg, (process.pid, signal.SIGKILL))
        watch.start()
        stack.callback(watch.cancel)
        yield Tab(write, read)
