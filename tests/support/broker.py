"""A broker process for a test: started on free ports with its own directory, stopped or killed, and restarted.

Ends only processes that it started itself.
"""
import os
import pathlib
import re
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request

READY = re.compile(r"^millstream ready kafka=(\S+) http=(\S+) node=(\d+)")
READY_SECONDS_MAX = 30.0
STOP_SECONDS_MAX = 12.0
ROOT = pathlib.Path(__file__).resolve().parents[2]


def cache_dir() -> pathlib.Path:
    """The directory for everything that a test run creates outside the checkout."""
    path = pathlib.Path(os.environ.get("MILLSTREAM_CACHE") or pathlib.Path.home() / ".cache/millstream")
    path.mkdir(parents=True, exist_ok=True)
    return path


def binary() -> str:
    """The broker under test: MILLSTREAM_BIN, or the release build that tests/run leaves in the cache."""
    return os.environ.get("MILLSTREAM_BIN") or str(cache_dir() / "bin/millstream")


def free_port():
    """A free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def http_get(address, path, seconds_max=10):
    """Status and text of an HTTP response."""
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=seconds_max) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()


def _runs(pid):
    """Whether a process has a thread that has not ended: the first one alone is a zombie that waits for the others."""
    try:
        threads = list(pathlib.Path(f"/proc/{pid}/task").iterdir())
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return len(threads) > 1 or stat.rpartition(")")[2].split()[0] != "Z"


def _drain(descriptor):
    """Reads a broker's later output, so that it never blocks on a full pipe."""
    try:
        copy = os.dup(descriptor)
    except OSError:
        return
    try:
        while os.read(copy, 65536):
            pass
    except OSError:
        pass
    finally:
        os.close(copy)


class StartFailed(Exception):
    """The broker ended, or printed nothing, before it was ready; has the end of its log."""


class Broker:
    """One broker and its folder. `prefix` runs it under another program (strace); `settings` are --set key=value."""

    def __init__(self, data_dir=None, prefix=(), settings=None, program=None, kafka_addr="127.0.0.1:0", log_path=None, http_addr="127.0.0.1:0"):
        self._own_dir = data_dir is None
        self.data_dir = pathlib.Path(data_dir or tempfile.mkdtemp(prefix="millstream-test-"))
        self.log_path = pathlib.Path(log_path or self.data_dir.with_name(self.data_dir.name + ".log"))
        self.prefix, self.settings = list(prefix), dict(settings or {})
        self.program = program or binary()
        self.kafka_addr, self.http_addr, self.kafka, self.http, self.node = kafka_addr, http_addr, None, None, None
        self.process, self.ready_seconds = None, None

    def start(self, seconds_max=READY_SECONDS_MAX):
        """Starts the broker and waits for its ready line. Later starts reuse the first port, so that clients find it."""
        started = time.monotonic()
        self._launch()
        self._wait_ready(started + seconds_max)
        self.ready_seconds = time.monotonic() - started
        return self

    def start_and_kill_after(self, seconds):
        """A start that is killed after this time, ready or not."""
        self._launch()
        self._code_or_none(seconds)
        self.kill()

    def _launch(self):
        assert self.process is None, "started already"
        command = self.prefix + [self.program, "serve", "--data-dir", str(self.data_dir),
                                 "--kafka-addr", self.kafka or self.kafka_addr, "--http-addr", self.http_addr]
        for key, value in self.settings.items():
            command += ["--set", f"{key}={value}"]
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                                            start_new_session=True)

    def _wait_ready(self, deadline):
        text = b""
        while (left := deadline - time.monotonic()) > 0:
            if not select.select([self.process.stdout], [], [], left)[0]:
                break
            chunk = os.read(self.process.stdout.fileno(), 65536)
            text += chunk
            for line in text.decode(errors="replace").splitlines():
                if match := READY.match(line):
                    self.kafka, self.http, self.node = match[1], match[2], int(match[3])
                    threading.Thread(target=_drain, args=(self.process.stdout.fileno(),), daemon=True).start()
                    return
            if not chunk:
                break
        code = self._code_or_none(1.0)
        self.kill()
        raise StartFailed(f"not ready (exit {code}): {self.log_tail()}")

    @property
    def bootstrap(self):
        """Bootstrap address for Kafka clients."""
        return self.kafka

    def pid(self):
        """The broker's own process id, also under `prefix`."""
        if not self.prefix:
            return self.process.pid
        try:
            children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        except OSError:  # it has ended
            return self.process.pid
        return int(children[0]) if children else self.process.pid

    def environment(self, **more):
        """This process's environment, in which commands use this broker."""
        return dict(os.environ, MILLSTREAM_BOOTSTRAP=self.bootstrap, MILLSTREAM_HTTP_ADDR=self.http, **more)

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def kill(self):
        """SIGKILL: simulates a crash."""
        if self.process is None:
            return
        pid = self.pid()
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._reap(10.0)
        # Under `prefix` it is not our child: its ports and its lock are free once it has ended, not when the prefix has.
        deadline = time.monotonic() + 10.0
        while _runs(pid):
            assert time.monotonic() < deadline, f"{pid} does not end"
            time.sleep(0.005)

    def stop(self, seconds_max=STOP_SECONDS_MAX):
        """SIGTERM; returns (exit code, seconds it took). Raises TimeoutExpired when it does not end in time."""
        started = time.monotonic()
        os.kill(self.pid(), signal.SIGTERM)
        code = self._reap(seconds_max)
        return code, time.monotonic() - started

    def wait(self, seconds_max):
        """Waits for the broker to end by itself; returns its exit code."""
        return self._reap(seconds_max)

    def wait_or_none(self, seconds_max):
        """The exit code if the broker ends by itself within this time, else None."""
        return self._reap(0) if self._code_or_none(seconds_max) is not None else None

    def _code_or_none(self, seconds_max):
        try:
            return self.process.wait(seconds_max)
        except subprocess.TimeoutExpired:
            return None

    def _reap(self, seconds_max):
        code = self.process.wait(timeout=seconds_max)
        self.process.stdout.close()
        self.process = None
        return code

    def log_tail(self, chars_max=1500):
        try:
            return self.log_path.read_text(errors="replace")[-chars_max:].strip()
        except OSError:
            return ""

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, *_):
        self.kill()
        if self._own_dir and kind is None:
            shutil.rmtree(self.data_dir, ignore_errors=True)
            self.log_path.unlink(missing_ok=True)
