"""Memory limits of control groups: the broker detects the limit, and stops and starts within it."""
import pathlib
import re
import struct
import threading
import time

from broker import Broker, http_get
from control_group import ControlGroup
from wire import OFFSET_COMMIT, Wire, eventually, text

TOPIC = "committed"
GROUPS, PARTITIONS = 4_000, 100
LIMIT_BYTES = 128 << 20
# Requests in flight.
IN_FLIGHT = 50
TOO_MUCH = 28  # INVALID_COMMIT_OFFSET_SIZE
METADATA = "m" * 1_000


def commit_body(group, partitions, offset, metadata=""):
    offsets = b"".join(struct.pack(">iq", partition, offset) + text(metadata) for partition in partitions)
    return text(group) + struct.pack(">i", -1) + text("") + struct.pack(">qi", -1, 1) + text(TOPIC) + struct.pack(">i", len(partitions)) + offsets


def commit_codes(wire):
    """Error codes of the oldest commit that was sent and not answered."""
    reader = wire.answer()
    assert reader.take("i") == 1
    reader.text()
    return {reader.take("ih")[1] for _ in range(reader.take("i"))}


def name(n):
    return f"group-{n:05}"


def commit_all(broker, offset):
    with Wire(broker.bootstrap, 60) as wire:
        for first in range(0, GROUPS, IN_FLIGHT):
            for n in range(first, first + IN_FLIGHT):
                wire.send(OFFSET_COMMIT, 2, commit_body(name(n), range(PARTITIONS), offset + n))
            codes = [commit_codes(wire) for _ in range(IN_FLIGHT)]
            assert all(found == {0} for found in codes), codes


def check_all(broker, offset):
    with Wire(broker.bootstrap, 60) as wire:
        for n in range(0, GROUPS, 97):
            found = wire.committed(name(n), TOPIC, range(PARTITIONS))
            assert found == dict.fromkeys(range(PARTITIONS), offset + n), f"{name(n)}: {found}"


class Peak(threading.Thread):
    """The peak resident memory of a process, until it ends."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.path, self.kib = pathlib.Path(f"/proc/{pid}/status"), 0
        self.start()

    def run(self):
        while True:
            try:
                found = re.search(r"VmHWM:\s+(\d+)", self.path.read_text())
            except OSError:
                return
            if found is None:
                return
            self.kib = max(self.kib, int(found[1]))
            time.sleep(0.002)

    def mib(self):
        return self.kib >> 10


def stops_and_starts(rounds):
    with ControlGroup(LIMIT_BYTES) as group, Broker(prefix=group.prefix()) as broker:
        with Wire(broker.bootstrap) as wire:
            wire.create_topic(TOPIC, PARTITIONS)
        peaks, peak = [], Peak(broker.pid())
        for turn in range(rounds):
            commit_all(broker, turn)
            ran = peak.mib()
            if turn % 3 == 2:
                broker.kill()
            else:
                code, _seconds = broker.stop()
                assert code == 0, f"stop {turn}: exit {code}, {group.kills()} killed for memory; {broker.log_tail(500)}"
            stopped = peak.mib()
            broker.start(60)
            peak = Peak(broker.pid())
            check_all(broker, turn)
            peaks.append((ran, stopped, peak.mib()))
        assert group.kills() == 0, f"{group.kills()} were killed for memory"
        ran, stopped, started = (max(column) for column in zip(*peaks))
        return f"{GROUPS} groups with {PARTITIONS} offsets in {LIMIT_BYTES >> 20} MiB: {ran} MiB running, {stopped} with the stop, {started} with the start"


def the_limit_is_seen(levels):
    """The limit of the group, or of an ancestor, applies; the log says so."""
    with ControlGroup(512 << 20, levels) as group, Broker(prefix=group.prefix()) as broker:
        log = broker.log_path.read_text()
        assert "budget_mib=128" in log and str(group.limit_file) in log, log
        broker.stop()


def groups_are_bounded(limit_bytes):
    """Beyond the limit of groups nothing is added, existing offsets can be committed again, and a restart changes nothing."""
    with Broker(settings={"groups.bytes.max": limit_bytes}) as broker:
        with Wire(broker.bootstrap, 60) as wire:
            wire.create_topic(TOPIC, PARTITIONS)
            taken = 0
            while (codes := commit(wire, name(taken))) == {0}:
                taken += 1
                assert taken * PARTITIONS * len(METADATA) < limit_bytes, "no bound"
            assert codes == {TOO_MUCH}, codes
            assert taken * PARTITIONS * len(METADATA) > limit_bytes * 3 // 4, f"refused after {taken} groups"
            assert metric(broker, "millstream_groups_refused_total") == 1
            assert limit_bytes * 3 // 4 < metric(broker, "millstream_groups_bytes") <= limit_bytes
        assert broker.stop()[0] == 0
        broker.start()
        with Wire(broker.bootstrap, 60) as wire:
            assert commit(wire, name(0)) == {0}, "an offset that is there cannot be committed again"
            assert commit(wire, name(taken)) == {TOO_MUCH}
            wire.delete_topic(TOPIC)
            wire.create_topic(TOPIC, PARTITIONS)
            eventually(lambda: commit(wire, name(taken)) == {0}, "offsets of a topic that is gone make room")
        return f"{taken} groups"


def commit(wire, group):
    wire.send(OFFSET_COMMIT, 2, commit_body(group, range(PARTITIONS), 1, METADATA))
    return commit_codes(wire)


def metric(broker, name):
    lines = http_get(broker.http, "/metrics")[1].splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def run(report, scale, _control):
    report.case("the limit of a control group is seen", the_limit_is_seen, 1)
    report.case("the limit of a control group above is seen", the_limit_is_seen, 2)
    report.case("stops and starts with many groups", stops_and_starts, scale([6], [20])[0])
    report.case("a bound on what groups hold", groups_are_bounded, scale([8 << 20], [64 << 20])[0])
