"""A full disk: produce is refused with a retriable error, everything else continues, and free space ends the refusal."""
import json
import re
import socket
import subprocess

from confluent_kafka import Consumer, TopicPartition

from broker import Broker, binary, http_get
from crash import PARTITIONS, make_topic
from load import Load, check
from loopfs import LoopFs
from wire import EARLIEST, KafkaError, Wire, batch, eventually

# Errors that every client retries: REQUEST_TIMED_OUT, NOT_ENOUGH_REPLICAS. Sarama does not retry others.
RETRIABLE = {7, 19}
COMMITS = 200
DISK_MIB = 640
SMALL_DISK_MIB = 110
# More than the broker has files at its start, and than fit into one block of inodes.
INODES = 128
LOW_BYTES = 160 << 20
# The broker checks the disk once a second.
LOOK_SECONDS_MAX = 5
RECORD = b"x" * 500_000
# Built once: a checksum over half a megabyte takes Python as long as the broker takes for everything else.
BATCH = batch([(b"big", RECORD)])
SETTINGS = {"disk.low.bytes": LOW_BYTES, "memtable.bytes": 16 << 20, "wal.checkpoint.bytes": 64 << 20}


def fill_until_refused(wire, topic):
    """Produces large records until one is refused; returns (number accepted, the error code)."""
    for taken in range(DISK_MIB * 4):
        try:
            wire.produce(topic, 0, BATCH)
        except KafkaError as refused:
            return taken, refused.code
    raise AssertionError("the disk is never full")


def still_serves(broker, topic, taken):
    """Reads, offsets and metadata work while produce is refused."""
    with Wire(broker.bootstrap) as wire:
        assert wire.list_offset(topic, 0) == taken, "end offset"
        for offset in (0, taken // 2, taken - 1):
            code, _high, data = wire.fetch(topic, 0, offset)
            assert code == 0 and RECORD[:1000] in data, f"fetch at {offset}: error {code}, {len(data)} bytes"
        assert topic in wire.metadata(), "metadata"


def commits(broker, topic, offsets):
    """Offsets are committed, and still present afterwards."""
    settings = {"bootstrap.servers": broker.bootstrap, "group.id": "full-disk", "enable.auto.commit": False}
    consumer = Consumer(settings)
    try:
        for offset in offsets:
            consumer.commit(offsets=[TopicPartition(topic, 0, offset)], asynchronous=False)
        (found,) = consumer.committed([TopicPartition(topic, 0)], timeout=10)
        assert found.offset == offsets[-1], f"committed {offsets[-1]}, found {found.offset}"
    finally:
        consumer.close()


def refused(broker, topic):
    """A produce while the disk is full is refused, or not answered; never acknowledged."""
    with Wire(broker.bootstrap, 5) as wire:
        try:
            offset = wire.produce(topic, 0, [(b"more", b"more")])
        except KafkaError as error:
            assert error.code in RETRIABLE, f"refused with error {error.code}, which clients do not retry"
        except socket.timeout:
            pass
        else:
            raise AssertionError(f"acknowledged at {offset}")


def in_turn(report, broker, title, steps):
    """One case per step; after a failure the broker's log has the details."""
    for name, step in steps:
        if not report.case(f"{title}: {name}", step):
            print(f"     broker: {broker.log_tail(600)}", flush=True)


def operators_see(broker, why):
    """Health, metrics and `cluster status` report that writes are refused, and `why`; or that all is well, if that is None."""
    status, text = http_get(broker.http, "/health/ready")
    assert (status == 200) == (why is None) and (why or "ready") in text, f"/health/ready: {status} {text}"
    assert http_get(broker.http, "/health/live")[0] == 200, "it is not live"
    page = http_get(broker.http, "/metrics")[1].splitlines()
    for line in (f"millstream_ready {int(why is None)}", f"millstream_writes_refused {int(why is not None)}"):
        assert line in page, f"/metrics has no '{line}'"
    done = subprocess.run([binary(), "cluster", "status", "--bootstrap", broker.bootstrap, "--output", "json"],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
    status = json.loads(done.stdout)
    assert (done.returncode, status["healthy"], len(status["refusing_writes"])) == ((1, False, 1) if why else (0, True, 0)), f"{done}"
    assert not why or (str(broker.data_dir) in status["refusing_writes"][0] and "disk" in done.stderr), f"{done}"


def sees_that_it_is_low(broker):
    """Whether the broker's last log line about free space says that it is low. Until its next check it accepts what it has reserved space for."""
    words = re.findall(r"free disk space crossed disk.low.bytes low=(\w+)", broker.log_path.read_text())
    return words[-1:] == ["true"]


def accepts(broker, topic):
    try:
        with Wire(broker.bootstrap, 5) as wire:
            wire.produce(topic, 0, [(b"again", b"again")])
        return True
    except (KafkaError, OSError):
        return False


def full_disk(report):
    with LoopFs(DISK_MIB) as disk:
        broker = Broker(disk.mount / "data", settings=SETTINGS, log_path=disk.folder / "broker.log").start()
        state = {}

        def fills():
            operators_see(broker, None)
            state["small"] = make_topic(broker, "small")
            load = Load(broker.bootstrap, state["small"], PARTITIONS, per_second=8000).start()
            load.wait_for(3000)
            state["load"] = load.stop(drain_seconds=20)
            with Wire(broker.bootstrap, 30) as wire:
                wire.create_topic("big", 1)
                state["taken"], code = fill_until_refused(wire, "big")
            assert code in RETRIABLE, f"refused with error {code}, which clients do not retry"
            free = disk.free_bytes()
            return f"refused with error {code} after {state['taken']} records, {free >> 20} MiB left of {DISK_MIB}"

        def serves():
            still_serves(broker, "big", state["taken"])
            commits(broker, "big", range(COMMITS))
            return check(state["load"], broker.bootstrap)

        def last_byte():
            fill_the_rest(disk)
            eventually(lambda: sees_that_it_is_low(broker), "the broker sees that the disk is full", LOOK_SECONDS_MAX)
            operators_see(broker, "disk.low.bytes")
            refused(broker, "big")
            still_serves(broker, "big", state["taken"])
            commits(broker, "big", range(COMMITS, 2 * COMMITS))
            assert broker.alive(), "the broker ended"
            return f"{disk.free_bytes() >> 10} KiB left"

        def stops():
            code, seconds = broker.stop()
            assert code == 0 and seconds < 10, f"exit code {code} after {seconds:.1f} s"
            fill_the_rest(disk)
            broker.start()
            still_serves(broker, "big", state["taken"])
            commits(broker, "big", [3 * COMMITS])
            refused(broker, "big")
            return f"stopped in {seconds:.2f} s, ready after {broker.ready_seconds:.2f} s"

        def restarts():
            broker.kill()
            broker.start()
            still_serves(broker, "big", state["taken"])
            refused(broker, "big")
            return f"ready after {broker.ready_seconds:.2f} s"

        def room():
            (disk.mount / "filler").unlink()
            before = disk.free_bytes()
            with Wire(broker.bootstrap, 30) as wire:
                wire.delete_records("big", 0, state["taken"] // 2)
                assert wire.list_offset("big", 0, EARLIEST) == state["taken"] // 2, "records are not deleted"
                wire.delete_topic("big")
            eventually(lambda: accepts(broker, state["small"]), lambda: f"{disk.free_bytes() >> 20} MiB free and produce is still refused", 60)
            eventually(lambda: http_get(broker.http, "/health/ready")[0] == 200, lambda: http_get(broker.http, "/health/ready")[1], LOOK_SECONDS_MAX)
            operators_see(broker, None)
            return f"{before >> 20} MiB free before, {disk.free_bytes() >> 20} MiB after, without a restart"

        try:
            steps = [("produce is refused with an error that clients retry", fills), ("reads and commits go on", serves), ("no byte left", last_byte),
                     ("a stop in order and a start without room", stops),
                     ("kill -9 and a start without room", restarts), ("deleting makes room, and produce goes on", room)]
            in_turn(report, broker, "full disk", steps)
        finally:
            broker.kill()


def full_at_once(report):
    """Another process takes all space while most of the writes are in memory; then the log has none either."""
    with LoopFs(DISK_MIB) as disk:
        broker = Broker(disk.mount / "data", settings={"disk.low.bytes": 0}, log_path=disk.folder / "broker.log").start()
        state = {}

        def leaves_memory():
            with Wire(broker.bootstrap, 30) as wire:
                wire.create_topic("big", 1)
                for n in range(80):
                    wire.produce("big", 0, [(b"%d" % n, RECORD)])
            eventually(lambda: (disk.mount / "data/reserved").stat().st_size > 80 * len(RECORD), lambda: "the reserve does not grow", 5)
            fill_the_rest(disk)
            state["taken"] = 80 + fill_the_log(broker)
            operators_see(broker, "the log cannot create its next file")
            eventually(lambda: "releasing the reserved space" in broker.log_tail(100_000), lambda: "the reserve is not used", 20)
            still_serves(broker, "big", state["taken"])
            return f"{state['taken']} records taken, {disk.free_bytes() >> 10} KiB left"

        def stops():
            code, seconds = broker.stop()
            assert code == 0 and seconds < 10, f"exit code {code} after {seconds:.1f} s"
            broker.start()
            # Records that were sent without a reply may be present too.
            with Wire(broker.bootstrap) as wire:
                end = wire.list_offset("big", 0)
            assert end in (state["taken"], state["taken"] + 1), f"{end} records, {state['taken']} were acknowledged"
            still_serves(broker, "big", end)
            return f"stopped in {seconds:.2f} s, ready after {broker.ready_seconds:.2f} s"

        try:
            steps = [("memory is written into the reserved room", leaves_memory), ("a stop in order and a start", stops)]
            in_turn(report, broker, "full at once", steps)
        finally:
            broker.kill()


def small_disk(report):
    """A disk hardly larger than the log and memory need: refused with an error, not left without a reply, and no flapping."""
    with LoopFs(SMALL_DISK_MIB) as disk:
        broker = Broker(disk.mount / "data", settings={"disk.low.bytes": 20_000_000}, log_path=disk.folder / "broker.log").start()

        def fills():
            with Wire(broker.bootstrap, 5) as wire:
                wire.create_topic("small", 1)
                wire.create_topic("big", 1)
                taken, code = fill_until_refused(wire, "big")
            assert code == 19, f"refused with error {code} after {taken} records"
            eventually(lambda: sees_that_it_is_low(broker), "the broker sees that the disk is low", LOOK_SECONDS_MAX)
            operators_see(broker, "disk.low.bytes")
            broker.kill()
            broker.start()
            still_serves(broker, "big", taken)
            refused(broker, "big")
            return f"refused after {taken} records, {disk.free_bytes() >> 20} MiB left of {SMALL_DISK_MIB}"

        def room():
            with Wire(broker.bootstrap, 30) as wire:
                wire.delete_topic("big")
            eventually(lambda: accepts(broker, "small"), lambda: f"{disk.free_bytes() >> 20} MiB free and produce is still refused", 30)
            eventually(lambda: http_get(broker.http, "/health/ready") == (200, "ready\n"), lambda: f"{http_get(broker.http, '/health/ready')}", LOOK_SECONDS_MAX)
            words = re.findall(r"free disk space crossed disk.low.bytes low=(\w+)", broker.log_path.read_text())
            # Each of the two brokers saw it become low; the end of that is seen once there is space.
            assert words == ["true", "true", "false"], f"{words}: {broker.log_tail(600)}"
            return f"the mark was crossed {len(words)} times"

        try:
            in_turn(report, broker, "small disk", [("produce is refused", fills), ("deleting makes room, and produce goes on", room)])
        finally:
            broker.kill()


def fill_the_log(broker):
    """Produces until there is no reply any more; returns how many records were acknowledged."""
    with Wire(broker.bootstrap, 5) as wire:
        for taken in range(DISK_MIB * 4):
            try:
                wire.produce("big", 0, [(b"%d" % taken, RECORD)])
            except (KafkaError, OSError):
                return taken
    raise AssertionError("the log is never full")


def fill_the_rest(disk):
    """Fills the file system, down to the last block."""
    with open(disk.mount / "filler", "ab", buffering=0) as filler:
        for size in (1 << 20, 4096):
            try:
                while True:
                    filler.write(bytes(size))
            except OSError:
                continue


def fill_the_inodes(disk):
    """Takes every inode that is left, and hardly a block."""
    for n in range(10_000):
        try:
            (disk.mount / f"inode-{n}").touch()
        except OSError:
            return
    raise AssertionError("inodes never run out")


def refusal_words(broker):
    """What the command line says of a record that is not taken within its time."""
    done = subprocess.run([binary(), "produce", "big", "--bootstrap", broker.bootstrap, "--timeout", "3"],
                          input="x\n", capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, f"{done}"
    return done.stderr


def no_inodes(report):
    """A file system that has room, and takes no further file."""
    with LoopFs(DISK_MIB, INODES) as disk:
        broker = Broker(disk.mount / "data", settings={"disk.low.bytes": 0}, log_path=disk.folder / "broker.log").start()

        def says_so():
            with Wire(broker.bootstrap, 30) as wire:
                wire.create_topic("big", 1)
            fill_the_inodes(disk)
            taken = fill_the_log(broker)
            free = disk.free_bytes() >> 20
            assert free > DISK_MIB // 4, f"{free} MiB are free"
            operators_see(broker, "no inodes left")
            words = refusal_words(broker)
            assert "inode" in words and "disk is full" not in words, words
            still_serves(broker, "big", taken)
            return f"{taken} records taken, {free} MiB left"

        def goes_on():
            for path in disk.mount.glob("inode-*"):
                path.unlink()
            eventually(lambda: accepts(broker, "big"), "inodes are free and produce is still refused", 60)
            eventually(lambda: http_get(broker.http, "/health/ready")[0] == 200, lambda: http_get(broker.http, "/health/ready")[1], LOOK_SECONDS_MAX)

        try:
            in_turn(report, broker, "no inodes", [("health and producers name the inodes, not a full disk", says_so), ("free inodes, and produce goes on", goes_on)])
        finally:
            broker.kill()


def run(report, _scale, _control):
    try:
        full_disk(report)
        full_at_once(report)
        small_disk(report)
        no_inodes(report)
    except Exception as error:  # no file system, or a broker that does not start: what could not be tested counts as failed
        report.fail("full disk", f"{type(error).__name__}: {error}")
