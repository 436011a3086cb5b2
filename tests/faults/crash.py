"""kill -9 under load, and real power loss."""
import random

from broker import Broker
from inject import WRITES, injected
from load import Load, check, compare, read_topic
from loopfs import LoopFs
from wire import Wire

PARTITIONS = 6
ACK_AGAIN_SECONDS_MAX = 5.0
# Small, so that flushes, runs, the manifest and merges happen during the faults and not only the log.
SMALL = {"memtable.bytes": 1 << 20, "wal.checkpoint.bytes": 16 << 20}


def make_topic(broker, name="faults"):
    with Wire(broker.bootstrap) as wire:
        wire.create_topic(name, PARTITIONS)
    return name


def kill_loop(cycles, seed):
    """Repeated kill -9 while idempotent producers write; each time they continue within seconds."""
    chance = random.Random(seed)
    with Broker(settings=SMALL) as broker:
        load = Load(broker.bootstrap, make_topic(broker), PARTITIONS, per_second=20_000).start()
        slowest_start = slowest_ack = 0.0
        for _ in range(cycles):
            load.wait_for(chance.randint(1, 8000))
            broker.kill()
            broker.start()
            slowest_start = max(slowest_start, broker.ready_seconds)
            slowest_ack = max(slowest_ack, load.wait_for(1, ACK_AGAIN_SECONDS_MAX))
        load.stop(drain_seconds=30)
        note = check(load, broker.bootstrap)
        broker.kill()
        broker.start()
        assert check(load, broker.bootstrap) == note, "reads differ after one more start"
        return f"{cycles} kills, {note}; slowest start {slowest_start:.2f} s, then {slowest_ack:.2f} s to the next acknowledgement"


def kill_while_starting(cycles, seed):
    """kill -9 at any moment of a start: recovery itself must be safe to interrupt."""
    chance = random.Random(seed)
    with Broker(settings=SMALL) as broker:
        load = Load(broker.bootstrap, make_topic(broker), PARTITIONS, per_second=20_000).start()
        load.wait_for(20_000)
        for _ in range(cycles):
            broker.kill()
            broker.start_and_kill_after(chance.uniform(0.0, 0.3))
            broker.start()
            load.wait_for(500)
        load.stop(drain_seconds=30)
        return f"{cycles} kills, {check(load, broker.bootstrap)}"


def power_loop(cycles, seed):
    """Repeated loss of everything in the file system that was not durable, under load."""
    chance = random.Random(seed)
    with LoopFs(1024) as disk:
        broker = Broker(disk.mount / "data", settings=SMALL, log_path=disk.folder / "broker.log").start()
        try:
            load = Load(broker.bootstrap, make_topic(broker), PARTITIONS, per_second=20_000).start()
            for _ in range(cycles):
                load.wait_for(chance.randint(1, 20_000))
                cut_power(disk, broker)
                broker.start()
            load.wait_for(100)
            load.stop(drain_seconds=30)
            return f"{cycles} power losses, {check(load, broker.bootstrap)}"
        finally:
            broker.kill()


def cut_power(disk, broker):
    disk.lose_power()
    broker.kill()
    disk.power_on()


def _one_power_loss(program, records, seed):
    """One power loss under load on a disk with delayed writes; returns which acknowledged records a restarted broker has."""
    with LoopFs(1024) as disk:
        slow = injected(WRITES, "delay_enter=20000")
        broker = Broker(disk.mount / "data", program=program, prefix=slow, log_path=disk.folder / "broker.log").start()
        try:
            load = Load(broker.bootstrap, make_topic(broker), PARTITIONS, producers=4, per_second=20_000, value_bytes=1000).start()
            load.wait_for(records + seed)
            cut_power(disk, broker)
            load.stop()
            broker.prefix = []
            broker.start()
            return compare(load, read_topic(broker.bootstrap, load.topic, PARTITIONS))
        finally:
            broker.kill()


def slow_power_loss():
    """The broken build that the control below must catch."""
    findings = _one_power_loss(None, 3000, 0)
    assert not findings.broken() and findings.acknowledged > 0, str(findings)
    return str(findings)


def power_control(program, attempts):
    """A broker that acknowledges before it syncs must be caught by the same check; otherwise the check proves nothing."""
    for attempt in range(1, attempts + 1):
        findings = _one_power_loss(program, 3000, attempt * 97)
        if findings.lost:
            return f"caught at attempt {attempt}: {findings}"
    raise AssertionError(f"{attempts} power losses and nothing lost: the check cannot see a broker that acknowledges before its write")


def run(report, scale, control):
    report.case("kill -9 loop", kill_loop, scale(12, 200), 1)
    report.case("kill -9 while starting", kill_while_starting, scale(5, 50), 2)
    report.case("power loss loop", power_loop, scale(5, 100), 3)
    report.case("power loss while writes are slow", slow_power_loss)
    report.case("control: acknowledged before the sync, power loss", power_control, control, 8)
