"""How commands end on a signal, and when the reader of their standard output is slow or goes away.

docs/command-line.md has the table: exit code 0 for commands that only end on a signal, 128 plus the signal's number for others;
what was reported as delivered, printed or committed is.
"""
import json
import os
import re
import select
import signal
import subprocess
import time

import wire
from broker import binary

SECONDS_MAX = 30
LINE_BYTES = 100
# Records of one batch: few enough that the pipe holds several batches.
BATCH_RECORDS = 100


def eventually(is_so, what):
    """Waits until the condition holds; returns its value."""
    return wire.eventually(is_so, what, SECONDS_MAX, 0.02)


def fresh(name):
    """An unused name: a case may run twice."""
    return f"{name}-{time.monotonic_ns()}"


class Running:
    """A `process` that does not outlive its case."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)


class Command(Running):
    """A running command; `stderr_text` is its standard error once it has ended."""

    def __init__(self, broker, *words, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL):
        self.stderr_text = ""
        self.process = subprocess.Popen([binary(), *words], stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, text=True,
                                        env=broker.environment(), start_new_session=True)

    def end(self, by=None):
        """Sends a signal, if one is given, and waits for the end; returns the exit code."""
        if by:
            self.process.send_signal(by)
        self.stderr_text = self.process.communicate(timeout=SECONDS_MAX)[1]
        return self.process.returncode


def millstream(broker, *words, text=None):
    """The output of a command that must succeed."""
    done = subprocess.run([binary(), *words], input=text, capture_output=True, text=True, timeout=60, env=broker.environment())
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


def fill(broker, topic, batches):
    """Writes lines of one length in batches; returns the lines."""
    lines = [f"{n:0{LINE_BYTES - 1}}" for n in range(batches * BATCH_RECORDS)]
    millstream(broker, "topic", "create", topic, "--partitions", "1")
    for at in range(0, len(lines), BATCH_RECORDS):
        millstream(broker, "produce", topic, text="".join(line + "\n" for line in lines[at:at + BATCH_RECORDS]))
    return lines


def group(broker, name):
    """State of a group, its number of members, and the committed offset of its one partition."""
    done = subprocess.run([binary(), "group", "describe", name, "--output", "json", "--bootstrap", broker.bootstrap],
                          capture_output=True, text=True, timeout=60)
    if done.returncode:
        return None, 0, None
    shown = json.loads(done.stdout)
    committed = [partition["offset"] for partition in shown["offsets"]]
    return shown["state"], len(shown["members"]), committed[0] if committed else None


def waits_for_its_reader(pipe):
    """Whether a pipe is full: its other end, opened once more, accepts no byte."""
    other_end = os.open(f"/proc/self/fd/{pipe}", os.O_WRONLY | os.O_NONBLOCK)
    try:
        return not select.select([], [other_end], [], 0)[1]
    finally:
        os.close(other_end)


def ends_by_signals(broker):
    """Each command by Ctrl-C and by SIGTERM, in the middle of its work."""
    count = 0
    for by, cut in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        topic = fresh(f"ended-by-{by}")
        lines = fill(broker, topic, 2)
        for words, wanted in ((["--follow", "--from-beginning"], 0), (["--follow", "--from-beginning", "--limit", "1000"], cut),
                              (["--follow", "--from-beginning", "--group", topic], 0), (["--group", f"{topic}-once"], cut)):
            with Command(broker, "consume", topic, *words, stdout=subprocess.PIPE) as consume:
                read = [consume.process.stdout.readline().strip() for _ in lines]
                code = consume.end(by)
                assert read == lines and code == wanted, f"{words}: exit {code}, not {wanted}; {consume.stderr_text}"
                assert ("200 records were printed" in consume.stderr_text) == (wanted != 0), f"{words}: {consume.stderr_text!r}"
                count += 1
        for name in (topic, f"{topic}-once"):
            assert group(broker, name) == ("Empty", 0, len(lines)), f"{name}: {group(broker, name)}"
        count += produce_ends(broker, f"{topic}-produced", by, cut) + bench_ends(broker, by, cut)
    return f"{count} commands"


def produce_ends(broker, topic, by, cut):
    millstream(broker, "topic", "create", topic, "--partitions", "1")
    with Command(broker, "produce", topic, stdin=subprocess.PIPE) as produce:
        produce.process.stdin.write("one\ntwo\nhalf a li")
        produce.process.stdin.flush()
        eventually(lambda: millstream(broker, "consume", topic) == "one\ntwo\n", "both arrive")
        # Not `end`, which would close its input.
        produce.process.send_signal(by)
        code = produce.process.wait(SECONDS_MAX)
        output = produce.process.stderr.read()
        assert code == cut and "2 records produced" in output and "interrupted behind line 2" in output, f"exit {code}: {output}"
    assert millstream(broker, "consume", topic) == "one\ntwo\n", "half a line was sent"
    return 1


def bench_ends(broker, by, cut):
    before = millstream(broker, "topic", "list")
    with Command(broker, "bench", "latency", "--seconds", "600", "--warmup", "0") as bench:
        eventually(lambda: millstream(broker, "topic", "list") != before, "a topic is made")
        code = bench.end(by)
        assert code == cut and "is not complete" in bench.stderr_text, f"exit {code}: {bench.stderr_text}"
    assert millstream(broker, "topic", "list") == before, "a topic is left"
    return 1


def undelivered_is_failed(broker):
    """A lost record takes precedence over the signal in the exit code."""
    topic = fresh("lost")
    with Command(broker, "produce", topic, "--create", "--timeout", "5", stdin=subprocess.PIPE) as produce:
        produce.process.stdin.write("one\n")
        produce.process.stdin.flush()
        eventually(lambda: topic in millstream(broker, "topic", "list") and millstream(broker, "consume", topic) == "one\n", "one arrives")
        millstream(broker, "topic", "delete", topic)
        produce.process.stdin.write("two\n")
        produce.process.stdin.flush()
        # Now it has been read.
        stuck = produce.process.stderr.readline()
        assert "do not get through" in stuck, stuck
        produce.process.send_signal(signal.SIGINT)
        code = produce.process.wait(SECONDS_MAX)
        output = produce.process.stderr.read()
        assert code == 1 and "1 record produced" in output and "1 of 2 records was not delivered" in output, f"exit {code}: {output}"


def readers_that_go(broker):
    """The command ends at once and silently, its group has no member left, and continues after the printed records."""
    topic = fresh("left")
    fill(broker, topic, 20)
    for words in (["consume", topic], ["consume", topic, "--follow", "--from-beginning"]):
        with Command(broker, *words, stdout=subprocess.PIPE) as consume:
            subprocess.run(["head", "-5"], stdin=consume.process.stdout, check=True, stdout=subprocess.DEVNULL)
            consume.process.stdout.close()
            assert (consume.process.wait(SECONDS_MAX), consume.process.stderr.read()) == (0, ""), words
    with Command(broker, "consume", topic, "--group", topic, stdout=subprocess.PIPE) as consume:
        pipe = consume.process.stdout.fileno()
        eventually(lambda: waits_for_its_reader(pipe), "the pipe is full")
        assert len(os.read(pipe, 5 * LINE_BYTES + LINE_BYTES // 2)) == 5 * LINE_BYTES + LINE_BYTES // 2
        consume.process.stdout.close()
        assert (consume.process.wait(SECONDS_MAX), consume.process.stderr.read()) == (0, "")
    state, members, committed = group(broker, topic)
    assert (state, members, committed) == ("Empty", 0, 5), f"{state}, {members} members, {committed} committed, and five were read"
    # One that waits for more, while nothing arrives that could be written.
    with Command(broker, "consume", topic, "--group", f"{topic}-waiting", "--from-beginning", "--follow", stdout=subprocess.PIPE) as consume:
        for _ in range(2000):
            consume.process.stdout.readline()
        consume.process.stdout.close()
        assert (consume.process.wait(SECONDS_MAX), consume.process.stderr.read()) == (0, "")
    found = group(broker, f"{topic}-waiting")
    assert found == ("Empty", 0, 2000), found


def interrupted_pipelines(broker):
    """Ctrl-C ends a command and its reader at the same time: whichever is first, the member leaves the group and loses nothing."""
    topic = fresh("piped")
    fill(broker, topic, 20)
    for turn in range(6):
        by = (signal.SIGINT, signal.SIGTERM)[turn % 2]
        name = f"{topic}-{turn}"
        with subprocess.Popen(["bash", "-c", f"{binary()} consume {topic} --group {name} | sleep {SECONDS_MAX}"], env=broker.environment(),
                              stderr=subprocess.DEVNULL, start_new_session=True) as pipeline:
            eventually(lambda: group(broker, name)[:2] == ("Stable", 1), "it reads")
            os.killpg(pipeline.pid, by)
            pipeline.wait(SECONDS_MAX)
        left = eventually(lambda: (found := group(broker, name))[1] == 0 and found, "the group is left")
        assert left == ("Empty", 0, 0), f"by {by}: {left}"


def readers_that_sleep(broker):
    """Only what the pipe has accepted is committed, and a command that is blocked on its reader still ends on a signal."""
    topic = fresh("slow")
    lines = fill(broker, topic, 20)
    with Command(broker, "consume", topic, "--group", topic, stdout=subprocess.PIPE) as consume:
        pipe = consume.process.stdout.fileno()
        eventually(lambda: waits_for_its_reader(pipe), "the pipe is full")
        found = group(broker, topic)
        assert found[:2] == ("Stable", 1), f"it is no member while it waits: {found}"
        consume.process.send_signal(signal.SIGTERM)
        code = consume.process.wait(SECONDS_MAX)
        read = consume.process.stdout.read().count("\n")
        output = consume.process.stderr.read()
    state, members, committed = group(broker, topic)
    printed = int(re.search(r"(\d+) records were printed", output)[1])
    assert (code, state, members) == (143, "Empty", 0), f"exit {code}, {state}, {members} members: {output}"
    # The rest of the pipe belongs to a page that was not accepted as a whole.
    assert 0 < committed == printed <= read < committed + BATCH_RECORDS, f"{committed} committed, {printed} reported, {read} in the pipe"
    rest = millstream(broker, "consume", topic, "--group", topic).splitlines()
    assert rest == lines[committed:], f"it goes on with {rest[:1]}, not behind {committed}"
    return f"{committed} records in the pipe are committed"
