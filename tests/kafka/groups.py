"""Consumer groups with real clients: two members share the partitions, one is killed, one leaves, one comes back.

Every record of a topic must be read by the group once: each member commits what it read before the next change.
"""
import collections
import os
import signal
import subprocess
import threading
import time

from common import PARTITIONS, key, value
from wire import KafkaError, Wire, eventually

ROUND_RECORDS = 120
# The members' session timeout is 6 s; joining takes up to 3 s more, and eight clients share the machine.
CHANGE_SECONDS_MAX = 45.0


class Program:
    """One of a client's programs, running: `heard` gets each event, in the client's own format."""

    def __init__(self, client, command, heard):
        self.client, self.heard, self.said = client, heard, collections.deque(maxlen=20)
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        text=True, start_new_session=True)
        self.reader = threading.Thread(target=self._listen, daemon=True)
        self.reader.start()

    def _listen(self):
        for line in self.process.stdout:
            if event := self.client.hear(line):
                self.heard(*event)
            else:
                self.said.append(line.strip())

    def running(self):
        assert self.process.poll() is None, f"a program of {self.client.name} ended: {list(self.said)[-8:]}"
        return True

    def leave(self, seconds_max=15):
        """Asks it to end and waits for it; returns its exit code."""
        if self.client.leave_by and not self.fed:
            self.process.send_signal(self.client.leave_by)
        self.process.stdin.close()
        code = self.process.wait(seconds_max)
        self.reader.join(seconds_max)
        return code

    def kill(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)


class Member(Program):
    """One running group member and its events."""
    fed = False

    def __init__(self, client, command):
        self.assigned, self.read, self.committed = None, [], False
        super().__init__(client, command, self._on_event)

    def _on_event(self, verb, *what):
        if verb == "read":
            self.committed = False
            self.read.append(what)
        elif verb == "assigned":
            self.assigned = what[0]
        elif verb == "revoked":
            self.assigned = (self.assigned or set()) - what[0]
        elif verb == "committed":
            self.committed = True


class GroupCase:
    """The scenario of one client's group; `resume` continues it after an event at the broker."""

    def __init__(self, client, prefix):
        self.client, self.name = client, client.name
        self.topic, self.group = f"{prefix}-group-{client.name}", f"{prefix}-{client.name}"
        self.written, self.members = 0, []

    def _start(self, bootstrap):
        self.members.append(Member(self.client, filled(self.client.member, bootstrap=bootstrap, topic=self.topic, group=self.group)))
        return self.members[-1]

    def _write(self, bootstrap):
        """Writes one more round and returns what must be read of it."""
        first, self.written = self.written, self.written + ROUND_RECORDS
        with Wire(bootstrap) as wire:
            for p in range(PARTITIONS):
                numbers = [i for i in range(first, self.written) if i % PARTITIONS == p]
                wire.produce(self.topic, p, [(key(i), value(i)) for i in numbers])
        return sorted((i % PARTITIONS, i // PARTITIONS, key(i).decode()) for i in range(first, self.written))

    def _share(self, members):
        """Waits until the members share all partitions, without overlap."""
        def shared():
            sets = [member.assigned for member in members if member.running()]
            return all(sets) and sorted(p for found in sets for p in found) == list(range(PARTITIONS))
        eventually(shared, lambda: f"assigned {[m.assigned for m in members]}", CHANGE_SECONDS_MAX)

    def _reads(self, members, wanted, before):
        """Waits until the members have read `wanted` beyond the counts `before`, and checks that it is exactly that."""
        def read():
            return sorted(record for member, count in zip(members, before) for record in member.read[count:])
        eventually(lambda: all(m.running() for m in members) and len(read()) >= len(wanted), lambda: f"read {len(read())} of {len(wanted)}", CHANGE_SECONDS_MAX)
        if self.client.tells_committed:  # kcat commits by itself, at the latest when it loses its partitions
            eventually(lambda: all(m.committed for m in members if m.read), "a commit of what was read", CHANGE_SECONDS_MAX)
        assert read() == wanted, f"read {len(read())} records, not those {len(wanted)} that were written, each once"

    def run(self, bootstrap):
        try:
            self._story(bootstrap)
        finally:
            self.end()

    def _story(self, bootstrap):
        with Wire(bootstrap) as wire:
            wire.create_topic(self.topic, PARTITIONS)
            eventually(lambda: writable(wire, self.topic), "the new topic has leaders")
        wanted = self._write(bootstrap)
        first = self._start(bootstrap)
        self._share([first])
        self._reads([first], wanted, [0])
        second = self._start(bootstrap)
        self._share([first, second])
        before = [len(first.read), 0]
        self._reads([first, second], self._write(bootstrap), before)
        if self.client.tells_committed:
            second.kill()
        else:  # kcat does not say when it has committed, so that it is not killed
            second.leave()
        self._share([first])
        before = [len(first.read)]
        self._reads([first], self._write(bootstrap), before)
        first.leave()
        self.resume(bootstrap)

    def resume(self, bootstrap):
        """A new member of the same group reads only new records, and its commits are the broker's offsets."""
        try:
            wanted = self._write(bootstrap)
            again = self._start(bootstrap)
            self._share([again])
            self._reads([again], wanted, [0])
            again.leave()
            with Wire(bootstrap) as wire:
                found = wire.committed(self.group, self.topic, range(PARTITIONS))
            assert found == dict.fromkeys(range(PARTITIONS), self.written // PARTITIONS), f"committed {found} of {self.written // PARTITIONS} each"
        finally:
            self.end()

    def end(self):
        for member in self.members:
            member.kill()
        self.members.clear()


def filled(command, **values):
    """Fills in the command's {placeholders}; other braces stay."""
    for name, filling in values.items():
        command = [part.replace(f"{{{name}}}", str(filling)) for part in command]
    return command


def writable(wire, topic):
    """Whether each partition answers an offset request; a new topic's leaders may need a moment."""
    try:
        return all(wire.list_offset(topic, p) == 0 for p in range(PARTITIONS))
    except KafkaError:
        return False


def run_all(report, cases, verb, step, bootstrap):
    """Runs one step of each client's scenario, all clients at once: most of the time is spent waiting for timeouts."""
    outcomes = {}

    def one(case):
        started = time.monotonic()
        try:
            getattr(case, step)(bootstrap)
            outcomes[case.name] = (True, f"({time.monotonic() - started:.1f} s)")
        except Exception as error:  # one client's failure is not another's
            outcomes[case.name] = (False, f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=one, args=(case,)) for case in cases]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    for case in cases:
        passed, note = outcomes[case.name]
        report.check(f"{case.name} {verb}", passed, note, note)
    return [case for case in cases if outcomes[case.name][0]]
