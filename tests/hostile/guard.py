"""What must hold while clients misbehave: starts the well-behaved pair and the attack, and judges."""
import contextlib
import itertools
import json
import multiprocessing
import os
import pathlib
import resource
import shutil
import struct
import subprocess
import sys
import threading
import time

from broker import Broker, http_get
from wire import Wire, eventually

MEMORY_MIB = 256
# Latency limits of the pair, which shares two cores with the attack. Without it latencies are a few milliseconds.
ACK_P99_MS_MAX = 150
END_P99_MS_MAX = 200
# Limit of any single reply, even at the start of the attack.
LONGEST_MS_MAX = 1000
# Limit of health and metrics, during any attack.
PROBE_MS_MAX = 1000
PROBE_EVERY_S = 0.1
# On a busy machine these limits scale with the latencies that a pair and probes see at the same time at a broker without an attack.
# probes see at the same time at a broker that is not attacked.
CONTROL_FACTOR = 5
ATTACK_SECONDS_MAX = 90
SETTLE_SECONDS_MAX = 15
PROBE_SECONDS_MAX = 20
_topics = itertools.count()


def start_broker(prefix=(), **settings):
    """A broker with little memory, so that excess use shows."""
    more = {key.replace("_", "."): value for key, value in settings.items()}
    return Broker(prefix=prefix, settings={"memory.bytes": MEMORY_MIB << 20, "num.partitions": 1} | more).start()


def end(broker):
    """Kills a broker and deletes its files."""
    broker.kill()
    shutil.rmtree(broker.data_dir, ignore_errors=True)
    broker.log_path.unlink(missing_ok=True)


def status_mib(pid, field):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"no {field}")


def descriptors(pid):
    """Open sockets; the broker's open files are not counted."""
    found = 0
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            found += os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:")
    return found


def p99(values):
    return sorted(values)[len(values) * 99 // 100] if values else float("inf")


def raise_descriptors(wanted):
    """Raises this process's limit of open descriptors, as far as the machine permits."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    assert hard >= wanted, f"this machine allows {hard} open files, {wanted} are needed"


def _child(function, args, results):
    # Attackers get a lower priority than the measured processes.
    os.nice(10)
    try:
        results.put((True, function(*args)))
    except BaseException as error:
        results.put((False, f"{type(error).__name__}: {error}"))


class Attack:
    """Processes that each run `function(*args)`; `finish` returns their results."""

    def __init__(self, function, argument_lists):
        context = multiprocessing.get_context("fork")
        self.results = context.Queue()
        self.processes = [context.Process(target=_child, args=(function, args, self.results), daemon=True) for args in argument_lists]
        [process.start() for process in self.processes]

    def finish(self):
        try:
            found = [self.results.get(timeout=ATTACK_SECONDS_MAX) for _ in self.processes]
        finally:
            for process in self.processes:
                process.join(1)
                process.kill()
        for good, result in found:
            assert good, f"the attack itself failed: {result}"
        return [result for _, result in found]


@contextlib.contextmanager
def pair(broker):
    """The well-behaved pair; its results are in the dictionary after the block."""
    topic, found = f"pair-{next(_topics)}", {}
    with Wire(broker.bootstrap) as wire:
        wire.create_topic(topic)
    program = str(pathlib.Path(__file__).with_name("pair.py"))
    process = subprocess.Popen([sys.executable, "-B", program, broker.bootstrap, topic], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n", "the pair does not start"
        yield found
        output, _ = process.communicate(timeout=60)
        found.update(json.loads(output), topic=topic)
    finally:
        process.kill()
        process.wait()


class Probes:
    """Requests health and metrics repeatedly while its block runs: the milliseconds of each response."""

    def __init__(self, http):
        self.http, self.ms, self.failure = http, [], None
        self.stopping, self.thread = threading.Event(), threading.Thread(target=self.run, daemon=True)

    def run(self):
        paths = itertools.cycle(["/health/live", "/metrics"])
        while not self.stopping.wait(PROBE_EVERY_S) and self.failure is None:
            path, started = next(paths), time.monotonic()
            try:
                status, _text = http_get(self.http, path, PROBE_SECONDS_MAX)
                assert status == 200, f"status {status}"
            except (OSError, AssertionError) as error:
                self.failure = f"{path}: {error}"
            self.ms.append((time.monotonic() - started) * 1000)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.thread.join()

    def longest(self):
        return max(self.ms, default=0)


class Watch:
    """A well-behaved pair and probes of one broker."""

    def __init__(self, broker):
        self.broker, self.seen, self.probes = broker, None, Probes(broker.http)

    @contextlib.contextmanager
    def running(self):
        with pair(self.broker) as self.seen, self.probes:
            yield

    def figures(self):
        """Name: (milliseconds, limit)."""
        ack, end = self.seen["ack_ms"], self.seen["end_ms"]
        return {"ack p99": (p99(ack), ACK_P99_MS_MAX), "end to end p99": (p99(end), END_P99_MS_MAX),
                "longest": (max(ack + end, default=float("inf")), LONGEST_MS_MAX), "longest probe": (self.probes.longest(), PROBE_MS_MAX)}


def too_slow(watch, control):
    """What exceeded its limit, or a multiple of the latency without an attack."""
    usual = control.figures()
    return [f"{name} {ms:.0f} ms, {usual[name][0]:.0f} ms without an attack"
            for name, (ms, ms_max) in watch.figures().items() if ms > max(ms_max, CONTROL_FACTOR * usual[name][0])]


def scan(broker, seen):
    """Everything acknowledged to the pair is present, in order."""
    with Wire(broker.bootstrap) as wire:
        there = {offset: struct.unpack(">qd", key)[0] for offset, key, _ in wire.read_all(seen["topic"], 0)}
    lost = [number for offset, number in seen["acknowledged"] if there.get(offset) != number]
    assert not lost, f"{len(lost)} of {len(seen['acknowledged'])} acknowledged records are not there, the first is {lost[0]}"


class Guard:
    """Attacks one broker, case after case, and checks everything that was acknowledged at the end."""

    def __init__(self, report, broker):
        self.report, self.broker, self.seen = report, broker, []
        self.control = start_broker()

    def case(self, name, attack, *argument_lists, expect=None, memory_mib_max=MEMORY_MIB):
        """One attack: `attack(*args)` runs in a process for each of the lists, beside the pair. `expect` judges their results and returns a note."""
        self.report.case(name, self._case, attack, argument_lists or [()], expect, memory_mib_max)

    def _case(self, attack, argument_lists, expect, memory_mib_max):
        assert self.broker.alive(), f"the broker is not running: {self.broker.log_tail(300)}"
        pid = self.broker.pid()
        before_mib, before_links = status_mib(pid, "VmRSS"), descriptors(pid)
        pathlib.Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak counts from here
        watch, control = Watch(self.broker), Watch(self.control)
        with control.running(), watch.running():
            results = Attack(attack, argument_lists).finish()
        assert self.broker.alive(), f"the broker ended: {self.broker.log_tail(300)}"
        peak_mib, seen = status_mib(pid, "VmHWM"), watch.seen
        self.seen.append(seen)
        note = (f"RSS {before_mib:.0f}, at most {peak_mib:.0f}, then {status_mib(pid, 'VmRSS'):.0f} MiB; "
                f"ack p99 {p99(seen['ack_ms']):.1f} ms, end to end {p99(seen['end_ms']):.1f} ms of {len(seen['ack_ms'])}, "
                f"longest {max(seen['ack_ms'] + seen['end_ms'], default=0):.0f} ms, probe {watch.probes.longest():.0f} ms")
        assert seen["failure"] is None, f"the well-behaved pair: {seen['failure']}; {note}"
        assert seen["read"] == len(seen["acknowledged"]) > 0, f"{seen['read']} of {len(seen['acknowledged'])} records were read; {note}"
        assert peak_mib <= memory_mib_max, f"more than {memory_mib_max} MiB; {note}"
        assert watch.probes.failure is None, f"a probe failed: {watch.probes.failure}; {note}"
        slow = too_slow(watch, control)
        assert not slow, f"others had to wait too long: {', '.join(slow)}; {note}"
        eventually(lambda: descriptors(pid) <= before_links, lambda: f"{descriptors(pid)} connections are open, {before_links} were before", SETTLE_SECONDS_MAX)
        scan(self.broker, seen)
        extra = expect(self.broker, results) if expect else ""
        return f"{note}{'; ' + extra if extra else ''}"

    def close(self):
        """Everything is still present at the end, and after a kill -9."""
        def all_there():
            for _ in range(2):
                for seen in self.seen:
                    scan(self.broker, seen)
                self.broker.kill()
                self.broker.start()
            return f"{sum(len(seen['acknowledged']) for seen in self.seen)} acknowledged records"

        self.report.case("nothing acknowledged is lost, after a kill -9 too", all_there)
        end(self.broker)
        end(self.control)
