"""Writes that fail, hang or are slow, by strace on the release binary; and checks that the log is opened and synced as documented."""
import contextlib
import pathlib
import re
import shutil
import tempfile
import time

import walfile
from broker import Broker, StartFailed
from crash import PARTITIONS, SMALL, make_topic
from inject import SYNCS, WRITES, injected, strace
from load import Load, check
from wire import Wire, eventually

DELAY_US = 250_000
# Files without a durability guarantee: a lock, reserved space, and a hint for scripts.
NOT_DURABLE = re.compile(r"/(LOCK|reserved|addresses\.json(\.new)?)$")
LOG_FILE = re.compile(r"/wal/wal-[0-9a-f]+\.log$")
OPENED = re.compile(r'open(?:at)?\((?:[^"]*, )?"([^"]+)", ([A-Z_|]+).*\)\s+= (\d+)')
TOUCHED = re.compile(r"(fsync|fdatasync|pwrite\w+)\((\d+)<([^>]+)>.*\)\s+= \d+")
RENAMED = re.compile(r'rename(?:at2?)?\((?:[^"]*)"([^"]+)", (?:[^"]*)"([^"]+)".*\)\s+= 0')


def _whole_lines(text):
    """The calls of a trace, in the order of their ends; interrupted calls are joined."""
    begun = {}
    for line in text.splitlines():
        thread, _, call = line.partition(" ")
        if call.endswith("<unfinished ...>"):
            begun[thread] = call.removesuffix("<unfinished ...>")
        elif resumed := re.match(r"\s*<\.\.\. \w+ resumed>(.*)", call):
            yield begun.pop(thread, "") + resumed[1]
        else:
            yield call


def _events(trace, data_dir):
    """The broker's opens for writing, writes, syncs and renames below its directory, in order."""
    for line in _whole_lines(trace.read_text(errors="replace")):
        if found := OPENED.search(line):
            if re.search(r"O_(WRONLY|RDWR)", found[2]) and found[1].startswith(data_dir):
                yield "open", found[1], found[2], found[3]
        elif found := TOUCHED.search(line):
            if found[3].startswith(data_dir):
                yield "sync" if "sync" in found[1] else "write", found[3], found[2], None
        elif (found := RENAMED.search(line)) and found[2].startswith(data_dir):
            yield "rename", found[1], found[2], None


class Durability:
    """Checks a trace: every write to a log file uses a descriptor opened with O_DIRECT and O_DSYNC; every other file is synced
    before it gets its name; every rename is followed by a sync of its directory."""

    def __init__(self):
        self.flags, self.log_writes, self.renames, self.unsynced, self.unsynced_dirs = {}, 0, 0, {}, {}

    def open(self, path, flags, descriptor):
        self.flags[descriptor] = set(flags.replace("O_SYNC", "O_DSYNC").split("|"))
        if not NOT_DURABLE.search(path) and "O_DSYNC" not in self.flags[descriptor]:
            self.unsynced[path] = flags

    def write(self, path, descriptor, _):
        if LOG_FILE.search(path):
            self.log_writes += 1
            assert {"O_DIRECT", "O_DSYNC"} <= self.flags[descriptor], f"{path} written, but opened {'|'.join(self.flags[descriptor])}"

    def sync(self, path, _descriptor, _):
        self.unsynced.pop(path, None)
        self.unsynced_dirs.pop(path, None)

    def rename(self, path, target, _):
        if not NOT_DURABLE.search(path):
            self.renames += 1
            assert path not in self.unsynced, f"{path} was renamed before it was synced"
            self.unsynced_dirs[str(pathlib.Path(target).parent)] = target

    def verdict(self):
        assert self.log_writes, "no log file was written: the trace is of something else"
        assert not self.unsynced, f"never synced: {self.unsynced}"
        assert not self.unsynced_dirs, f"renamed, but the directory never synced: {self.unsynced_dirs}"
        return f"{self.log_writes} log writes O_DIRECT|O_DSYNC, {self.renames} renames synced"


def check_durability(events):
    found = Durability()
    for kind, *details in events:
        getattr(found, kind)(*details)
    return found.verdict()


def opened_and_synced(fresh):
    folder = fresh()
    trace, data = folder / "trace", folder / "data"
    prefix = strace("-y", "-e", f"trace=open,openat,fsync,fdatasync,rename,renameat,renameat2,{WRITES}", "-s", "0", "-o", str(trace))
    broker = Broker(data, prefix=prefix, settings=SMALL).start()
    try:
        load = Load(broker.bootstrap, make_topic(broker), PARTITIONS, per_second=20_000, value_bytes=1000).start()
        load.wait_for(30_000, 90)
        load.stop(drain_seconds=60)
        code, _ = broker.stop(60)
        assert code == 0, f"exit {code}"
        return check_durability(_events(trace, str(data)))
    finally:
        broker.kill()


def _is_stopped(pid):
    """Whether a thread is stopped in a system call that strace delays."""
    for path in pathlib.Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):  # a thread that has ended
            if path.read_text().rpartition(")")[2].split()[0] == "t":
                return True
    return False


def _at_rest(broker, before):
    """The log's seal, once there is another one than `before` and the delayed write of it has returned."""
    seal = walfile.seal(broker.data_dir)
    return seal if seal != before and not _is_stopped(broker.pid()) else None


def lone_record_seconds(program, count=5):
    """The latency of single records while each write takes DELAY_US longer to return."""
    prefix = injected(WRITES, f"delay_exit={DELAY_US}")
    with Broker(prefix=prefix, program=program) as broker, Wire(broker.bootstrap, 30) as wire:
        wire.create_topic("lone", 1)
        times, seal = [], None
        for n in range(count):
            # The record before, and what is written after it, must not delay this one.
            seal = eventually(lambda before=seal: _at_rest(broker, before), "the log is at rest")
            started = time.monotonic()
            wire.produce("lone", 0, [(b"%d" % n, b"x")])
            times.append(time.monotonic() - started)
        assert len(list(wire.read_all("lone", 0))) == count
        return min(times)


def waits_for_the_write(program):
    fastest = lone_record_seconds(program)
    assert fastest >= DELAY_US / 1e6, f"acknowledged after {fastest * 1e3:.0f} ms, though the write takes {DELAY_US // 1000} ms"
    return f"fastest acknowledgement {fastest * 1e3:.0f} ms with writes of {DELAY_US // 1000} ms"


def control_waits(program):
    fastest = lone_record_seconds(program)
    assert fastest < DELAY_US / 1e6, "the control waits for its write: the check cannot distinguish the two"
    return f"caught: acknowledged after {fastest * 1e3:.1f} ms with writes of {DELAY_US // 1000} ms"


def failing(calls, nth, fresh):
    """The nth such call of a thread fails with EIO: the broker exits with the reason, and nothing acknowledged is lost."""
    broker = Broker(fresh() / "data", settings=SMALL).start()
    load, ended = None, "went on"
    try:
        load = Load(broker.bootstrap, make_topic(broker), PARTITIONS, per_second=8000, value_bytes=500).start()
        load.wait_for(2000)
        broker.stop()
        marked = len(broker.log_path.read_bytes())
        broker.prefix = injected(calls, f"error=EIO:when={nth}")
        try:
            broker.start()
            code = broker.wait_or_none(15.0)
        except StartFailed as refused:
            code = re.search(r"exit (-?\d+)", str(refused))[1]
        if code is not None:
            reason = broker.log_path.read_bytes()[marked:].decode(errors="replace")
            assert int(code) == 1, f"exit {code}, wanted 1: {reason[-300:]}"
            assert re.search(r"input/output error|os error 5", reason, re.IGNORECASE), f"does not say why it ended: {reason[-300:]}"
            ended = "exit 1 with its reason"
        broker.kill()
        broker.prefix = []
        broker.start()
        load.wait_for(500)
        load.stop(drain_seconds=30)
        return ended, check(load, broker.bootstrap)
    finally:
        broker.kill()


def failing_write(nth, fresh):
    ended, note = failing(WRITES, nth, fresh)
    assert ended != "went on", f"write {nth} of each thread failed, and the broker went on"
    return f"{ended}, {note}"


def failing_sync(nth, fresh):
    """A run or the manifest that cannot be synced may be abandoned or may end the broker; it never costs a record."""
    return ", ".join(failing(SYNCS, nth, fresh))


def slow_disk():
    """Each write takes 50 ms longer: nothing is lost, and many records share a write."""
    prefix = injected(WRITES, "delay_enter=50000")
    with Broker(prefix=prefix) as broker:
        load = Load(broker.bootstrap, make_topic(broker), PARTITIONS, per_second=8000).start()
        load.wait_for(100)
        seconds = load.wait_for(8000, 60)
        assert seconds < 20, f"8000 records took {seconds:.1f} s: they do not share their writes"
        load.stop(drain_seconds=60)
        return f"{check(load, broker.bootstrap)}; {8000 / seconds:.0f} records/s with writes of 50 ms"


def run(report, scale, control):
    folder = pathlib.Path(tempfile.mkdtemp(prefix="millstream-storage-"))
    count = iter(range(1000))

    def fresh():
        path = folder / str(next(count))
        path.mkdir()
        return path

    try:
        report.case("opened and synced as promised", opened_and_synced, fresh)
        report.case("no acknowledgement before the write returns", waits_for_the_write, None)
        report.case("control: acknowledged before the sync, delayed write", control_waits, control)
        for nth in scale((1, 3, 40), (1, 2, 3, 5, 9, 20, 40, 80, 160, 320)):
            report.case(f"write {nth} fails", failing_write, nth, fresh)
        for nth in scale((1, 2), (1, 2, 3, 4, 6, 8, 12)):
            report.case(f"sync {nth} fails", failing_sync, nth, fresh)
        report.case("slow disk", slow_disk)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
