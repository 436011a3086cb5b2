"""Consumer groups with real clients: two members share the partitions, one is killed, one leaves, one comes back.

Every record of a topic must be read by the group once: each member commits what it read before the next change.
"""
import os
import re
import signal
import subprocess
import threading
import time

from common import PARTITIONS, key, value
from wire import KafkaError, Wire, eventually

ROUND_RECORDS = 120
# The members' session timeout is 6 s; joining takes up to 3 s more, and eight clients share the machine.
CHANGE_SECONDS_MAX = 45.0
KCAT_REBALANCE = re.compile(r"^% Group \S+ rebalanced .*: (assigned|revoked): (.*)$")


class Member:
    """One running group member and what it told."""

    def __init__(self, command):
        self.assigned, self.read, self.committed, self.said = None, [], False, []
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        text=True, start_new_session=True)
        self.reader = threading.Thread(target=self._listen, daemon=True)
        self.reader.start()

    def _listen(self):
        for line in self.process.stdout:
            words = line.split()
            rebalance = KCAT_REBALANCE.match(line)
            if rebalance:
                found = {int(p) for p in re.findall(r"\[(\d+)\]", rebalance[2])}
                self.assigned = found if rebalance[1] == "assigned" else (self.assigned or set()) - found
            elif words[:1] == ["assigned"]:
                self.assigned = {int(p) for p in words[1:]}
            elif words[:1] == ["read"]:
                self.committed = False
                self.read.append((int(words[1]), int(words[2]), " ".join(words[3:])))
            elif words == ["committed"]:
                self.committed = True
            else:
                self.said.append(line.strip())

    def running(self):
        assert self.process.poll() is None, f"a member ended: {self.said[-3:]}"
        return True

    def leave(self, by_signal):
        """Asks it to leave the group and waits until it has ended."""
        if by_signal:
            self.process.send_signal(signal.SIGTERM)
        else:
            self.process.stdin.close()
        self.process.wait(15)

    def kill(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)


class GroupCase:
    """The story of one client's group; `resume` goes on with it after something happened to the broker."""

    def __init__(self, name, command, prefix):
        self.name, self.command = name, command
        self.topic, self.group = f"{prefix}-group-{name}", f"{prefix}-{name}"
        self.by_signal = command[0] == "kcat"
        self.written, self.members = 0, []

    def _start(self, bootstrap):
        filled = [part.format(bootstrap=bootstrap, topic=self.topic, group=self.group) for part in self.command]
        self.members.append(Member(filled))
        return self.members[-1]

    def _write(self, bootstrap):
        """Writes one more round and gives what must be read of it."""
        first, self.written = self.written, self.written + ROUND_RECORDS
        with Wire(bootstrap) as wire:
            for p in range(PARTITIONS):
                numbers = [i for i in range(first, self.written) if i % PARTITIONS == p]
                wire.produce(self.topic, p, [(key(i), value(i)) for i in numbers])
        return sorted((i % PARTITIONS, i // PARTITIONS, key(i).decode()) for i in range(first, self.written))

    def _share(self, members):
        """Waits until the members share all partitions, none of them twice."""
        def shared():
            sets = [member.assigned for member in members if member.running()]
            return all(sets) and sorted(p for found in sets for p in found) == list(range(PARTITIONS))
        eventually(shared, lambda: f"assigned {[m.assigned for m in members]}", CHANGE_SECONDS_MAX)

    def _reads(self, members, wanted, before):
        """Waits until the members have read `wanted` beyond the counts `before`, and checks that it is that, once."""
        def read():
            return sorted(record for member, count in zip(members, before) for record in member.read[count:])
        eventually(lambda: all(m.running() for m in members) and len(read()) >= len(wanted), lambda: f"read {len(read())} of {len(wanted)}", CHANGE_SECONDS_MAX)
        if not self.by_signal:  # kcat commits by itself, at the latest when it loses its partitions
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
            eventually(lambda: _writable(wire, self.topic), "the new topic has leaders")
        wanted = self._write(bootstrap)
        first = self._start(bootstrap)
        self._share([first])
        self._reads([first], wanted, [0])
        second = self._start(bootstrap)
        self._share([first, second])
        before = [len(first.read), 0]
        self._reads([first, second], self._write(bootstrap), before)
        if self.by_signal:  # kcat does not say when it has committed, so that it is not killed
            second.leave(self.by_signal)
        else:
            second.kill()
        self._share([first])
        before = [len(first.read)]
        self._reads([first], self._write(bootstrap), before)
        first.leave(self.by_signal)
        self.resume(bootstrap)

    def resume(self, bootstrap):
        """A member of the same group reads only what is new, and its commits are the broker's offsets."""
        try:
            wanted = self._write(bootstrap)
            again = self._start(bootstrap)
            self._share([again])
            self._reads([again], wanted, [0])
            again.leave(self.by_signal)
            with Wire(bootstrap) as wire:
                found = wire.committed(self.group, self.topic, range(PARTITIONS))
            assert found == dict.fromkeys(range(PARTITIONS), self.written // PARTITIONS), f"committed {found} of {self.written // PARTITIONS} each"
        finally:
            self.end()

    def end(self):
        for member in self.members:
            member.kill()
        self.members.clear()


def _writable(wire, topic):
    """Whether each partition takes an offset request; a new topic's leaders may need a moment."""
    try:
        return all(wire.list_offset(topic, p) == 0 for p in range(PARTITIONS))
    except KafkaError:
        return False


def run_all(report, cases, verb, step, bootstrap):
    """Runs one step of each client's story, all clients at once: most of the time is waiting for timeouts."""
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
