"""kill -9 of the broker while every client produces, reads in a group and commits; it comes back on the same port.

In the end no acknowledged record is lost, no record of an idempotent producer is duplicated, every partition is in its producer's
order, the group has read all of it in order, from its committed offsets, and no client hangs.
"""
import concurrent.futures
import functools
import pathlib
import subprocess
import tempfile
import threading
import time

from clients import TOOL
from common import PARTITIONS, key, value
from groups import Program, filled, writable
from stillness import Stillness
from wire import Wire, eventually

CODECS_IN_TURN = ("lz4", "none", "zstd", "snappy", "gzip")
PER_SECOND, TICK_SECONDS = 100, 0.05
# Rejoining takes a session timeout (6 s) and the client's retry interval; all clients share the machine.
PROGRESS_SECONDS_MAX, DRAIN_SECONDS_MAX = 60.0, 60.0
# How long after the broker is ready it is killed, and how long it is away; the first kill comes while second members join.
KILLS = ((0.5, 1.0), (None, 0.0), (0.7, 1.5), (None, 3.0))
PERF_RECORDS, PERF_PER_SECOND = 6000, 300


def read_log(bootstrap, topic):
    """Every (partition, offset, key, value) of the topic, with its checksums checked."""
    command = ["kcat", "-q", "-C", "-b", bootstrap, "-t", topic, "-o", "beginning", "-e", "-f", "%p|%o|%k|%s\n",
               "-X", "check.crcs=true", "-X", "fetch.wait.max.ms=20"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=True)
    return sorted((int(p), int(o), k, v) for p, o, k, v in (line.split("|", 3) for line in done.stdout.splitlines()))


class KillCase:
    """One client's producer and two members of its group, with all their events."""

    def __init__(self, client, prefix, codec, settings):
        self.client, self.name, self.codec, self.settings = client, client.name, codec, settings
        self.topic, self.group = f"{prefix}-kills-{client.name}", f"{prefix}-kills-{client.name}"
        self.asked, self.acked, self.refused = 0, [], []
        self.events, self.read_max, self.mark = [], -1, -1
        self.producer, self.members, self.stop_asking, self.asking = None, [], threading.Event(), None

    def start(self, bootstrap):
        with Wire(bootstrap) as wire:
            wire.create_topic(self.topic, PARTITIONS)
            eventually(lambda: writable(wire, self.topic), "the new topic has leaders")
        self.producer = Program(self.client, self._command(self.client.producer, bootstrap), self._produced)
        self.producer.fed = self.client.ask is not None
        if self.producer.fed:
            self.asking = threading.Thread(target=self._ask, daemon=True)
            self.asking.start()
        self.join(bootstrap)

    def join(self, bootstrap):
        """One more member."""
        heard = functools.partial(self._heard, len(self.members))
        self.members.append(Program(self.client, self._command(self.client.member, bootstrap), heard))
        self.members[-1].fed = False

    def _command(self, command, bootstrap):
        return filled(command, bootstrap=bootstrap, topic=self.topic, group=self.group, codec=self.codec, settings=self.settings, per_second=PER_SECOND)

    def _ask(self):
        """Sends the producer records at a steady pace, until it is asked to stop."""
        while not self.stop_asking.wait(TICK_SECONDS):
            try:
                for _ in range(int(PER_SECOND * TICK_SECONDS)):
                    self.producer.process.stdin.write(self.client.ask(self.asked % PARTITIONS, self.asked))
                    self.asked += 1
                self.producer.process.stdin.flush()
            except OSError:  # it has ended; `progressed` says so
                return

    def _produced(self, verb, *what):
        (self.acked if verb == "acked" else self.refused).append(what)

    def _heard(self, member, verb, *what):
        self.events.append((member, verb, *what))
        if verb == "read":
            self.read_max = max(self.read_max, int(what[2].split()[1]))

    def look(self):
        """From now on `progressed` waits for a record that is produced later."""
        self.mark = self.asked if self.client.ask else max((number for _, _, number in self.acked), default=-1)

    def progressed(self):
        """Whether a record that was produced after `look` has been read by the group."""
        return all(program.running() for program in [self.producer, *self.members]) and self.read_max > self.mark

    def standing(self):
        """The state, for a client without progress."""
        changes = [event for event in self.events if event[1] in ("assigned", "revoked")][-4:]
        return f"record {self.mark} is not read; {len(self.acked)} acknowledged, {self.read_max} read, last changes {changes}, said {[list(m.said)[-2:] for m in self.members]}"

    def finish(self, bootstrap):
        """Stops the producer, lets the group read to the end, and checks everything; returns a summary."""
        self.stop_asking.set()
        if self.asking:
            self.asking.join(10)
        code = self.producer.leave(DRAIN_SECONDS_MAX)
        assert code == 0 or self.client.leave_by and not self.producer.fed, f"its producer ended with {code}: {list(self.producer.said)[-3:]}"
        assert not self.refused, f"{len(self.refused)} sends failed, first: {self.refused[0]}"
        log = read_log(bootstrap, self.topic)
        again = self._check_log(log)
        wanted = {(p, o) for p, o, _, _ in log}
        eventually(lambda: self.running() and wanted <= self._places_read(), lambda: f"{len(wanted - self._places_read())} of {len(wanted)} are not read", DRAIN_SECONDS_MAX)
        ends = {p: sum(1 for place in log if place[0] == p) for p in range(PARTITIONS)}
        with Wire(bootstrap) as wire:
            # A producer that chooses its partitions may leave one empty: nothing is read and committed there.
            committed = lambda: {p: max(o, 0) for p, o in wire.committed(self.group, self.topic, range(PARTITIONS)).items()}  # noqa: E731
            eventually(lambda: committed() == ends, lambda: f"committed {committed()} of {ends}", DRAIN_SECONDS_MAX)
        reads = self._check_reads({(p, o): k or f"key {v}" for p, o, k, v in log})
        [member.leave() for member in self.members]
        return f"{len(log)} records, {again} of them written again, {reads - len(log)} read again"

    def running(self):
        return all(member.running() for member in self.members)

    def _places_read(self):
        return {tuple(event[2:4]) for event in list(self.events) if event[1] == "read"}

    def _check_log(self, log):
        """Compares the topic's content with what was requested and acknowledged; returns the number of duplicates."""
        seen, following, newest, again = {}, [0] * PARTITIONS, [-1] * PARTITIONS, 0
        for p, o, k, v in log:
            assert o == following[p], f"{p}/{o} where {following[p]} follows"
            following[p] += 1
            number = int(k.split()[1]) if k else int(v)
            assert not k or v == value(number).decode(), f"{p}/{o}: {k} has another value: {v[:60]}"
            if number in seen:
                assert not self.client.idempotent, f"{k or v} is at {p}/{o} and at {seen[number]}"
                again += 1
                continue
            assert number > newest[p], f"{p}/{o} holds {number}, behind {newest[p]}"
            seen[number], newest[p] = (p, o), number
        at = {(p, o): k or f"key {v}" for p, o, k, v in log}
        for p, o, number in self.acked:
            wanted = at.get((p, o)) if number is None else key(number).decode()
            assert at.get((p, o)) == wanted is not None, f"acknowledged at {p}/{o}: {number}, there is {at.get((p, o))}"
        lost = set(range(self.asked)) - seen.keys()
        assert not lost, f"{len(lost)} of {self.asked} are not there, first {min(lost)}"
        return again

    def _check_reads(self, at):
        """What the members read: each record intact, each partition in order, from the committed offset."""
        floor, following, reads = {}, {}, 0
        for member, verb, *what in self.events:
            if verb in ("assigned", "revoked"):
                following = {place: o for place, o in following.items() if place[0] != member}
            elif verb == "committed":
                floor.update(what[0])
            elif verb == "read":
                p, o, k = what
                reads += 1
                assert at[p, o] == k, f"a member read {k} at {p}/{o}, there is {at[p, o]}"
                expected = following.get((member, p))
                assert expected in (o, None) or not self.client.tells_assigned, f"a member read {p}/{o} where {expected} follows"
                assert expected is not None or o >= floor.get(p, 0), f"a member reads again from {p}/{o}, {floor[p]} is committed"
                following[member, p] = o + 1
        return reads

    def end(self):
        self.stop_asking.set()
        [program.kill() for program in [self.producer, *self.members] if program]


class PerfCase:
    """Kafka's perf tools, which send a fixed number of records and verify the count."""
    name = "perf tools"

    def __init__(self, prefix):
        self.topic, self.processes = f"{prefix}-kills-perf", []

    def start(self, bootstrap):
        with Wire(bootstrap) as wire:
            wire.create_topic(self.topic, 1)
            eventually(lambda: wire.list_offset(self.topic, 0) == 0, "the new topic has a leader")
        server = ["--bootstrap-server", bootstrap, "--topic", self.topic, "--num-records", str(PERF_RECORDS)]
        self._run("producer-perf", *server, "--record-size", "500", "--throughput", str(PERF_PER_SECOND), "--command-property", "acks=all")
        self._run("consumer-perf", *server, "--timeout", "60000")

    def _run(self, *words):
        self.processes.append(subprocess.Popen([TOOL, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True))

    def join(self, _bootstrap):
        """They have no members that share the work."""

    def look(self):
        """They report at the end only."""

    def progressed(self):
        return True

    def standing(self):
        return "at work"

    def finish(self, bootstrap):
        producer, consumer = (process.communicate(timeout=DRAIN_SECONDS_MAX)[0] for process in self.processes)
        assert f"{PERF_RECORDS} records sent" in producer, producer[-300:]
        with Wire(bootstrap) as wire:
            assert wire.list_offset(self.topic, 0) == PERF_RECORDS, f"{wire.list_offset(self.topic, 0)} records of {PERF_RECORDS}"
        counts = [int(row[4]) for row in (line.split(",") for line in consumer.splitlines()) if len(row) >= 10 and row[4].strip().isdigit()]
        assert counts and counts[-1] >= PERF_RECORDS, consumer[-300:]
        return f"{PERF_RECORDS} records"

    def end(self):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait(10)


class Kills:
    """All cases at once against one broker, which is killed as KILLS says."""

    def __init__(self, broker, clients, prefix, with_perf):
        settings = pathlib.Path(tempfile.gettempdir()) / f"{prefix}-retries.properties"
        # The verifiable producer is meant for brokers under observation: it retries only if configured to.
        settings.write_text("retries=2147483647\nenable.idempotence=true\n")
        self.broker, self.settings, self.outcomes = broker, settings, {}
        codecs = (CODECS_IN_TURN[n % len(CODECS_IN_TURN)] for n in range(len(clients)))
        self.cases = [KillCase(client, prefix, codec, settings) for client, codec in zip(clients, codecs)]
        self.cases += [PerfCase(prefix)] if with_perf else []
        self.slowest = dict.fromkeys((case.name for case in self.cases), 0.0)

    def _each(self, step):
        """Runs a step of all cases at once; failed cases are skipped from then on."""
        with concurrent.futures.ThreadPoolExecutor(len(self.cases) or 1) as pool:
            doing = {case: pool.submit(step, case) for case in self.cases}
        for case, done in doing.items():
            if error := done.exception():
                self.outcomes[case.name] = (False, f"{type(error).__name__}: {error}")
                case.end()
        self.cases = [case for case in self.cases if not doing[case].exception()]
        return {case.name: done.result() for case, done in doing.items() if not done.exception()}

    def _all_go_on(self):
        """Waits until each client's group has read what was produced from now on."""
        started = time.monotonic()
        [case.look() for case in self.cases]

        def wait(case):
            eventually(case.progressed, case.standing, PROGRESS_SECONDS_MAX)
            self.slowest[case.name] = max(self.slowest[case.name], time.monotonic() - started)
        self._each(wait)

    def _kill(self, after_seconds, away_seconds):
        if after_seconds is None:
            self._all_go_on()
        else:
            time.sleep(after_seconds)
        self.broker.kill()
        time.sleep(away_seconds)
        self.broker.start()

    def run(self):
        """By client whether all guarantees of the module hold for it, and a summary."""
        try:
            self._each(lambda case: case.start(self.broker.bootstrap))
            self._all_go_on()
            self.slowest = dict.fromkeys(self.slowest, 0.0)
            self._each(lambda case: case.join(self.broker.bootstrap))
            for kill in KILLS:
                self._kill(*kill)
            self._all_go_on()
            for name, note in self._each(lambda case: case.finish(self.broker.bootstrap)).items():
                self.outcomes[name] = (True, f"{note}, going on within {self.slowest[name]:.1f} s")
            return self.outcomes
        finally:
            [case.end() for case in self.cases]
            self.settings.unlink(missing_ok=True)


def run_kills(report, broker, clients, prefix, with_perf):
    """One case per client. Cases that failed while the machine stalled, for longer than clients wait, are run once more."""
    with Stillness() as watch:
        outcomes = Kills(broker, clients, prefix, with_perf).run()
    failed = {name for name, (passed, _) in outcomes.items() if not passed}
    if failed and watch.disturbed:
        print(f"     kills of {', '.join(sorted(failed))}: the machine stood still for {watch.longest_s:.1f} s, once more", flush=True)
        for name in sorted(failed):
            print(f"     {name}: {outcomes[name][1]}", flush=True)
        outcomes |= Kills(broker, [client for client in clients if client.name in failed], f"{prefix}-again", PerfCase.name in failed).run()
    for name, (passed, note) in outcomes.items():
        report.check(f"{name} kills", passed, note, note)
