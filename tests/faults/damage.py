"""Bit rot, holes, torn tails and missing files: detected and named, never served, never silently dropped."""
import pathlib
import random
import shutil
import subprocess
import tempfile

import walfile
from broker import Broker, StartFailed, binary
from crash import PARTITIONS, make_topic
from load import Load, compare
from wire import EARLIEST, LATEST, Wire, records_of

# Error codes of a fetch that found damage: CORRUPT_MESSAGE, UNKNOWN_SERVER_ERROR, KAFKA_STORAGE_ERROR.
DAMAGE_CODES = {2, -1, 56}
ROUNDS, ROUND_RECORDS, VALUE_BYTES = 3, 1500, 300


class Store:
    """A data directory with all kinds of files, left by a kill -9 while idle, and the acknowledged records."""

    def __init__(self, folder):
        self.folder, self.data, self.copies = folder, folder / "data", 0
        broker = Broker(self.data).start()
        try:
            # Each clean stop leaves a run and checkpoints; what follows the last one is in the log only.
            topic = make_topic(broker)
            self.load = Load(broker.bootstrap, topic, PARTITIONS, per_second=20_000, value_bytes=VALUE_BYTES).start()
            for _ in range(ROUNDS):
                self.load.wait_for(ROUND_RECORDS)
                assert broker.stop()[0] == 0, "clean stop"
                broker.start()
            self.load.wait_for(ROUND_RECORDS)
            self.load.stop(drain_seconds=30)
            walfile.wait_for_seal(self.data)
        finally:
            broker.kill()

    def copy(self):
        self.copies += 1
        path = self.folder / f"copy-{self.copies}"
        subprocess.run(["cp", "-a", "--sparse=always", str(self.data), str(path)], check=True)
        return path

    def kinds(self):
        """{kind: newest file}, without files that are not part of the store."""
        found = {}
        for path in sorted(self.data.rglob("*")):
            if path.is_file() and path.name not in ("LOCK", "reserved", "addresses.json", "addresses.json.new"):
                kind = path.relative_to(self.data).parts[0] + "/" + path.name.split("-")[0]
                found.setdefault(kind, []).append(path.relative_to(self.data))
        return found

    def logs_in_use(self):
        return [path.relative_to(self.data) for path in walfile.files(self.data) if walfile.segments(path)]


def read_back(broker, topic):
    """({partition: records}, {partition: error code}): what a plain client gets, error responses included."""
    found, errors = {}, {}
    with Wire(broker.bootstrap) as wire:
        for p in range(PARTITIONS):
            found[p], offset = [], wire.list_offset(topic, p, EARLIEST)
            end = wire.list_offset(topic, p, LATEST)
            while offset < end:
                code, _high, data = wire.fetch(topic, p, offset, 256 << 10)
                records = [record for record in records_of(data) if record[0] >= offset] if code == 0 else []
                if not records:
                    errors[p] = code
                    break
                found[p] += records
                offset = records[-1][0] + 1
    return found, errors


def start_or_refuse(data):
    """(broker, "") if it starts, (None, its output) if it refuses."""
    broker = Broker(data)
    try:
        return broker.start(20), ""
    except StartFailed:
        assert b"panicked" not in broker.log_path.read_bytes(), f"panicked: {broker.log_tail()}"
        return None, broker.log_tail()


def outcome(store, data, damaged):
    """The outcome of a damaged directory; raises if wrong records were served or records were silently missing."""
    broker, said = start_or_refuse(data)
    if broker is None:
        assert damaged.name in said, f"refused, but does not name {damaged.name}: {said[-300:]}"
        return "refused"
    try:
        found, errors = read_back(broker, store.load.topic)
        unexpected = {p: code for p, code in errors.items() if code not in DAMAGE_CODES}
        assert not unexpected, f"nothing was given and no damage was reported: {unexpected}"
        findings = compare(store.load, found)
        silent = [place for place in findings.lost if int(place.split("/")[0]) not in errors]
        wrong = silent + findings.twice + findings.altered + findings.gaps + findings.disordered
        assert not wrong, f"{len(wrong)} records lost without a word or wrong, first: {wrong[0]}"
        return f"reported at fetch ({sorted(set(errors.values()))})" if errors else "intact"
    finally:
        broker.kill()


def doctor(data):
    """(exit code, output) of `millstream doctor` on a folder."""
    done = subprocess.run([binary(), "doctor", "--data-dir", str(data)], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    return done.returncode, done.stdout + done.stderr


def damaged_case(store, path, damage, must=None):
    """Damages one file of a copy and checks the outcome with the doctor and the broker."""
    copy = store.copy()
    try:
        damage(copy / path)
        code, said = doctor(copy)
        assert code in (0, 1), f"doctor: exit {code}: {said[-300:]}"
        became = outcome(store, copy, path)
        assert must is None or became.startswith(must), f"{became}, wanted {must}"
        if became != "intact":
            assert code == 1 and path.name in said, f"{became}, but the doctor says (exit {code}): {said[-300:]}"
        return became
    finally:
        shutil.rmtree(copy)


def flip(place):
    """Flips one bit; a negative place counts from the end, a fraction is that part of the file."""
    def damage(path):
        size = path.stat().st_size
        at = int(place * size) if isinstance(place, float) else place % size
        with open(path, "r+b") as file:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 0x10]))
    return damage


def zero(start, length):
    def damage(path):
        with open(path, "r+b") as file:
            file.seek(start)
            file.write(bytes(length))
    return damage


def cut(fraction):
    def damage(path):
        with open(path, "r+b") as file:
            file.truncate(int(path.stat().st_size * fraction))
    return damage


def remove(path):
    path.unlink()


def log_damage(report, store, chance, places):
    """Bits and pages in every part of the log in use. The last segment only records that the one before it is durable."""
    for path in store.logs_in_use():
        segments = walfile.segments(store.data / path)
        report.case(f"bit flip in {path.name} 0", damaged_case, store, path, flip(0))
        for at, end in chance.sample(segments[:-1], min(places, len(segments) - 1)):
            report.case(f"bit flip in {path.name} {at}, a segment's head", damaged_case, store, path, flip(at + 5), "refused")
            inside = chance.randrange(at + walfile.SEGMENT_HEAD.size, end)
            report.case(f"bit flip in {path.name} {inside}, in a frame", damaged_case, store, path, flip(inside), "refused")
            page = inside // walfile.BLOCK_BYTES * walfile.BLOCK_BYTES
            report.case(f"hole in {path.name} {page}", damaged_case, store, path, zero(page, walfile.BLOCK_BYTES), "refused")


def other_damage(report, store, places):
    """Bits, truncation and absence for all other kinds of files."""
    for kind, paths in store.kinds().items():
        if kind == "wal/wal":
            continue
        path = paths[len(paths) // 2]
        for place in places:
            report.case(f"bit flip in {path.name} {place}", damaged_case, store, path, flip(place))
        report.case(f"half of {path.name}", damaged_case, store, path, cut(0.5))
        report.case(f"nothing in {path.name}", damaged_case, store, path, cut(0.0))
        report.case(f"{path.name} missing", damaged_case, store, path, remove)
    for path in store.logs_in_use():
        report.case(f"half of {path.name}", damaged_case, store, path, cut(0.5))
        report.case(f"{path.name} missing", damaged_case, store, path, remove)


def torn_store(folder):
    """A directory left by a kill -9 in the middle of writing."""
    broker = Broker(folder / "data").start()
    try:
        load = Load(broker.bootstrap, make_topic(broker), PARTITIONS, per_second=4000, value_bytes=VALUE_BYTES).start()
        load.wait_for(3000)
        broker.kill()
        load.stop()
        return load
    finally:
        broker.kill()


def tear(path, start, end, chance):
    """What an interrupted write leaves in a file of fixed length: zeros, or old bytes."""
    with open(path, "r+b") as file:
        file.seek(start)
        file.write(chance.choice((bytes(end - start), chance.randbytes(end - start))))


def torn_tails(folder, count, seed):
    """Cuts the last write at many places: the broker starts, and lacks only what was in that write."""
    chance, folder = random.Random(seed), pathlib.Path(tempfile.mkdtemp(dir=folder))
    load, data = torn_store(folder), folder / "data"
    path = [path for path in walfile.files(data) if walfile.segments(path)][-1]
    (at, end), raw = walfile.segments(path)[-1], path.read_bytes()
    whole = _content(folder, data, load.topic, lambda path: None, path)
    assert whole is not None, "the folder as the kill left it does not start"
    # Not the last byte alone: a write that differs in a single bit is rot, and refused.
    places = sorted({at, at + 1, at + 43, end - 8} | set(range(at, end, max(1, (end - at) // count))))
    dropped = 0
    for place in places:
        left = _content(folder, data, load.topic, lambda copy: tear(copy, place, -(-end // 4096) * 4096, chance), path)
        assert left is not None, f"cut at {place} of {at}..{end}: does not start"
        for p in range(PARTITIONS):
            kept = len(left[p])
            assert left[p] == whole[p][:kept], f"cut at {place}: partition {p} holds other records"
            gone = [key for _, key, _ in whole[p][kept:] if key not in raw[at:end]]
            assert not gone, f"cut at {place}: {gone[0]} is gone, and it was not in the last write"
            dropped += len(whole[p]) - kept
    assert dropped, "no cut cost a record: the last write held none, and nothing was tested"
    before = walfile.segments(path)[-2]
    refused = _content(folder, data, load.topic, zero(before[0] + 100, 64), path)
    assert refused is None, "a hole before the last write was taken for a torn tail"
    return f"{len(places)} cuts of the last {end - at} bytes; a hole before them is refused"


def _content(folder, data, topic, damage, path):
    """What a broker serves from a copy with that damage; None if it refuses to start."""
    copy = folder / "copy"
    subprocess.run(["cp", "-a", "--sparse=always", str(data), str(copy)], check=True)
    try:
        damage(copy / path.relative_to(data))
        broker, _said = start_or_refuse(copy)
        if broker is None:
            return None
        try:
            found, errors = read_back(broker, topic)
            assert not errors, errors
            return found
        finally:
            broker.kill()
    finally:
        shutil.rmtree(copy)


def intact_case(store):
    """The control of all damage cases: an untouched copy passes the doctor and has everything."""
    copy = store.copy()
    try:
        code, said = doctor(copy)
        assert code == 0, f"doctor: exit {code}: {said[-300:]}"
        became = outcome(store, copy, pathlib.Path("none"))
        assert became == "intact", became
        return f"{', '.join(f'{len(paths)} {kind}' for kind, paths in store.kinds().items())}"
    finally:
        shutil.rmtree(copy)


def run(report, scale, _control):
    folder = pathlib.Path(tempfile.mkdtemp(prefix="millstream-damage-"))
    try:
        report.case("torn tails", torn_tails, folder, scale(8, 200), 4)
        store = Store(folder)
        if report.case("an untouched copy", intact_case, store):
            log_damage(report, store, random.Random(5), scale(2, 20))
            other_damage(report, store, scale((0, 0.5, -8), (0, 9, 0.2, 0.4, 0.5, 0.6, 0.8, -200, -40, -8, -1)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
