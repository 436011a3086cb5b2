"""Commands that behave differently on a terminal, run on a pseudo-terminal."""
import os
import pty
import re
import select
import signal
import subprocess
import tempfile
import termios
import time

from broker import binary
from endings import Running, fresh

SECONDS_MAX = 30


class Terminal(Running):
    """A command on a terminal of 24 lines and 100 columns."""

    def __init__(self, broker, *words):
        self.ours, self.theirs = pty.openpty()
        termios.tcsetwinsize(self.theirs, (24, 100))
        self.before = termios.tcgetattr(self.theirs)
        self.process = subprocess.Popen([binary(), *words], stdin=self.theirs, stdout=self.theirs, stderr=self.theirs,
                                        env=broker.environment(TERM="xterm"), start_new_session=True)
        self.text = ""

    def read_until(self, *wanted):
        """Reads until all of the texts have appeared."""
        deadline = time.monotonic() + SECONDS_MAX
        while not all(text in self.text for text in wanted):
            left = deadline - time.monotonic()
            assert left > 0, f"{wanted} not shown in {self.text[-1500:]!r}"
            if select.select([self.ours], [], [], min(left, 0.2))[0]:
                self.text += os.read(self.ours, 65536).decode(errors="replace")

    def type(self, keys):
        os.write(self.ours, keys)

    def __exit__(self, *ended):
        super().__exit__(*ended)
        os.close(self.ours)
        os.close(self.theirs)


def top_shows_and_ends(broker):
    with Terminal(broker, "top") as top:
        top.read_until("produce", "LATENCY", "disk", "q ends")
        assert "\x1b[?1049h" in top.text and not termios.tcgetattr(top.theirs)[3] & termios.ICANON, "not the whole terminal"
        top.type(b"q")
        top.read_until("\x1b[?1049l")
        assert top.process.wait(SECONDS_MAX) == 0, "it does not end well"
        assert termios.tcgetattr(top.theirs) == top.before, "the terminal is not as it was"


def produce_shows_progress(broker):
    shown, stopped = fresh("shown"), fresh("stopped")
    with tempfile.NamedTemporaryFile("w", suffix=".lines") as lines:
        lines.write("x" * 99 + "\n" + ("y" * 99 + "\n") * 2999)
        lines.flush()
        with Terminal(broker, "produce", shown, "--create", "--rate", "2000", "--file", lines.name) as produce:
            produce.read_until("[#", " %  ", "records/s", " left")
            produce.read_until(f"3000 records produced to '{shown}'")
            assert produce.process.wait(SECONDS_MAX) == 0, "it does not end well"
        with Terminal(broker, "produce", stopped, "--create", "--rate", "1000", "--file", lines.name) as produce:
            produce.read_until("[#")
            produce.process.send_signal(signal.SIGINT)
            produce.read_until(f"records produced to '{stopped}'", "interrupted behind line")
            assert produce.process.wait(SECONDS_MAX) == 130, "the exit code does not show the interrupt"
            reported = int(re.search(r"(\d+) records produced", produce.text)[1])
    done = subprocess.run([binary(), "consume", stopped, "--bootstrap", broker.bootstrap], capture_output=True, text=True, timeout=60)
    assert len(done.stdout.splitlines()) == reported, f"{reported} reported, {len(done.stdout.splitlines())} there"


def typing_is_interrupted(broker):
    typed = fresh("typed")
    # One partition, so that the lines come back in order.
    lines_of(broker, "topic", "create", typed, "--partitions", "1")
    with Terminal(broker, "produce", typed) as produce:
        produce.read_until("Ctrl-D ends")
        produce.type(b"one\ntwo\nhalf a li")
        deadline = time.monotonic() + SECONDS_MAX
        while lines_of(broker, "consume", typed) != ["one", "two"]:
            assert time.monotonic() < deadline, "what was typed does not arrive"
        produce.process.send_signal(signal.SIGINT)
        produce.read_until(f"2 records produced to '{typed}'", "interrupted behind line 2")
        assert produce.process.wait(SECONDS_MAX) == 130, "the exit code does not show the interrupt"
    assert lines_of(broker, "consume", typed) == ["one", "two"], "half a line was sent"


def measuring_is_interrupted(broker):
    before = lines_of(broker, "topic", "list")
    with Terminal(broker, "bench", "latency", "--seconds", "600", "--warmup", "0") as bench:
        bench.read_until("writing at a fixed rate: ", " of 600000 records")
        assert lines_of(broker, "topic", "list") != before, "no topic was made"
        bench.process.send_signal(signal.SIGINT)
        bench.read_until("interrupted; removing what was made", "is not complete")
        assert bench.process.wait(SECONDS_MAX) == 130, "the exit code does not show the interrupt"
    assert lines_of(broker, "topic", "list") == before, "a topic is left"


def stall_is_reported(broker):
    with Terminal(broker, "bench", "latency", "--seconds", "2", "--warmup", "0") as bench:
        bench.read_until("writing at a fixed rate: ")
        bench.process.send_signal(signal.SIGSTOP)
        time.sleep(0.4)
        bench.process.send_signal(signal.SIGCONT)
        bench.read_until("warning: this process did not run for ")
        assert bench.process.wait(SECONDS_MAX) == 0, "it does not end well"


def lines_of(broker, *words):
    done = subprocess.run([binary(), *words, "--bootstrap", broker.bootstrap], capture_output=True, text=True, timeout=60)
    return done.stdout.splitlines()
