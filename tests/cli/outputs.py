"""Outputs that are blocked, closed or full: a broker keeps running and stops cleanly, a command ends with a reason."""
import fcntl
import os
import pathlib
import signal
import subprocess
import tempfile
import time

import wire
from broker import STOP_SECONDS_MAX, binary, free_port, http_get

SECONDS_MAX = 30
# Size of a pipe without a reader: the smallest possible.
PIPE_BYTES = 4096
# Exit code of a command that cannot write its result.
FAILED = 1
# Exit codes of a process that was ended by SIGABRT, in a shell's and in Python's form.
ABORTED = (134, -signal.SIGABRT)


class Serving:
    """A broker with outputs of its own, killed at the end."""

    def __init__(self, stdout, stderr, *more, environment=None):
        self.folder = tempfile.TemporaryDirectory(prefix="millstream-outputs-")
        self.kafka, self.http = (f"127.0.0.1:{free_port()}" for _ in range(2))
        words = [binary(), "serve", "--data-dir", f"{self.folder.name}/data", "--kafka-addr", self.kafka, "--http-addr", self.http, *more]
        self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, start_new_session=True,
                                        env=dict(os.environ, **(environment or {})))

    def __enter__(self):
        wire.eventually(self.is_ready, f"the broker is ready; exit code {self.process.poll()}", SECONDS_MAX)
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        self.folder.cleanup()

    def is_ready(self):
        assert self.process.poll() is None, f"exit {self.process.returncode}"
        try:
            return http_get(self.http, "/health/ready")[0] == 200
        except OSError:
            return False

    def works(self, topic):
        with wire.Wire(self.kafka) as link:
            link.create_topic(topic)
            assert link.produce(topic, 0, [(b"key", b"value")]) == 0
            assert [value for _offset, _key, value in link.read_all(topic, 0)] == [b"value"]

    def metric(self, name):
        lines = http_get(self.http, "/metrics")[1].splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))

    def stops(self):
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(STOP_SECONDS_MAX)
        assert code == 0, f"exit {code}"
        return time.monotonic() - started


def small_pipe():
    """Both ends of a small pipe."""
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return read, write


def logs_that_are_not_read():
    """Standard error is a full pipe: the broker keeps running, dropped lines are counted, and reported once the pipe is read again."""
    read, write = small_pipe()
    with Serving(subprocess.DEVNULL, write, environment={"RUST_LOG": "trace,openraft=trace"}) as serving:
        os.close(write)
        for n in range(3):
            serving.works(f"t{n}")
        # Each request is a few lines.
        def dropped():
            serving.works(f"more-{time.monotonic_ns()}")
            return serving.metric("millstream_log_dropped_lines_total") > 0
        wire.eventually(dropped, "lines are dropped", SECONDS_MAX, 0)
        seconds = serving.stops()
    os.close(read)
    return f"stopped in {seconds:.1f} s"


def logs_that_are_read_again():
    read, write = small_pipe()
    with Serving(subprocess.DEVNULL, write, environment={"RUST_LOG": "trace,openraft=trace"}) as serving:
        os.close(write)
        def dropped():
            serving.works(f"t-{time.monotonic_ns()}")
            return serving.metric("millstream_log_dropped_lines_total") > 0
        wire.eventually(dropped, "lines are dropped", SECONDS_MAX, 0)
        found, text = b" log lines dropped", b""
        deadline = time.monotonic() + SECONDS_MAX
        while found not in text:
            assert time.monotonic() < deadline, "the number of dropped lines is not reported"
            text = text[-100:] + os.read(read, 65536)
        os.close(read)
        serving.works("closed")
        serving.stops()


def full_and_closed_outputs():
    """Standard output and error on a full device, closed by their reader, and closed from the start."""
    count = 0
    with open("/dev/full", "wb") as full:
        for stdout, stderr in ((full, full), (subprocess.DEVNULL, full), (full, subprocess.DEVNULL)):
            with Serving(stdout, stderr) as serving:
                serving.works("t")
                serving.stops()
                count += 1
    read, write = os.pipe()
    os.close(read)
    with Serving(write, write) as serving:
        os.close(write)
        serving.works("t")
        serving.stops()
    return f"{count + 1} brokers"


def broken_starts():
    """A broker that cannot start exits with its code, whether or not the reason can be printed."""
    read, write = os.pipe()
    os.close(read)
    with open("/dev/full", "wb") as full, tempfile.NamedTemporaryFile() as file:
        for stderr in (full, write):
            done = subprocess.run([binary(), "serve", "--data-dir", f"{file.name}/data", "--kafka-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0"],
                                  stdout=stderr, stderr=stderr, timeout=SECONDS_MAX)
            assert done.returncode == FAILED, f"exit {done.returncode}"
    os.close(write)


def commands(broker):
    """Each kind of result on a full device is an error with a reason; a reader that goes away is not an error."""
    topic = f"outputs-{time.monotonic_ns()}"
    run = lambda *words, **outputs: subprocess.run([binary(), *words], env=broker.environment(), stdin=subprocess.DEVNULL, timeout=SECONDS_MAX, **outputs)
    assert run("topic", "create", topic).returncode == 0
    subprocess.run([binary(), "produce", topic], input=b"one\n" * 5000, check=True, env=broker.environment(), timeout=SECONDS_MAX)
    printing = [["--help"], ["--version"], ["topic", "list"], ["topic", "list", "--output", "json"], ["topic", "describe", topic],
                ["consume", topic], ["group", "list", "--output", "json"], ["cluster", "status"], ["cluster", "log-level"],
                ["completions", "bash"], ["man"], ["top", "--count", "1"]]
    with open("/dev/full", "wb") as full:
        for words in printing:
            done = run(*words, stdout=full, stderr=subprocess.PIPE)
            reason = done.stderr.decode()
            assert done.returncode == FAILED and "No space left" in reason, f"{words}: exit {done.returncode}: {reason!r}"
            assert run(*words, stdout=full, stderr=full).returncode == FAILED, words
        for words in (["topic", "list", "--nonsense"], ["topic", "describe", "no-such-topic"], ["nonsense"]):
            assert run(*words, stdout=full, stderr=full).returncode in (1, 2), words
    for words in printing:
        for command in (f"{binary()} {' '.join(words)} | true", f"{binary()} {' '.join(words)} 2>&1 | head -1"):
            done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], env=broker.environment(), capture_output=True, timeout=SECONDS_MAX)
            assert (done.returncode, done.stderr) == (0, b""), f"{command}: exit {done.returncode}: {done.stderr}"
    return f"{len(printing)} commands"


def hang_ups():
    """SIGHUP does not end the broker: the configuration is reloaded."""
    with tempfile.TemporaryDirectory(prefix="millstream-hang-up-") as folder:
        file, log = pathlib.Path(folder) / "millstream.toml", pathlib.Path(folder) / "log"
        file.write_text('"num.partitions" = 2\n"connections.max" = 100\n')
        with open(log, "wb") as stderr, Serving(subprocess.DEVNULL, stderr, "--config", str(file)) as serving:
            def partitions():
                name = f"t-{time.monotonic_ns()}"
                with wire.Wire(serving.kafka) as link:
                    link.create_topic(name, -1)
                    return len(link.metadata(name)[name])

            def hang_up(said):
                before = log.read_text().count(said)
                serving.process.send_signal(signal.SIGHUP)
                wire.eventually(lambda: log.read_text().count(said) > before, lambda: f"'{said}' in {log.read_text()}", SECONDS_MAX)

            assert partitions() == 2
            file.write_text('"num.partitions" = 3\n"connections.max" = 200\n')
            hang_up("configuration reloaded")
            assert "connections.max" in log.read_text().split("requires a restart")[1].splitlines()[0]
            assert partitions() == 3
            file.write_text("nonsense = = 1\n")
            hang_up("configuration not reloaded")
            assert partitions() == 3
            serving.stops()
