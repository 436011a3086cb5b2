"""A log damaged anywhere, repaired, and then served: everything that the doctor reported as kept is present, and the broker works."""
import json
import pathlib
import random
import shutil
import subprocess
import tempfile
import time

import walfile
from broker import Broker, StartFailed, binary, free_port, http_get
from inject import injected
from wire import Wire

TOPICS = ("apple", "birch", "cedar", "drift")
VALUE = b"|%s|" % (b"v" * 60)
# Enough that runs are written before there is any checkpoint.
BULK, BULK_BYTES = 40, 100_000
START_SECONDS, STOP_SECONDS_MAX = 15, 10.0
FRAME_HEAD_BYTES = 40


def run_doctor(data, *options):
    """(exit code, output, complaints) of `millstream doctor` on a folder."""
    done = subprocess.run([binary(), "doctor", "--data-dir", str(data), *options], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    return done.returncode, done.stdout, done.stderr


def group_name(number):
    return f"shard-{number}" if number else "metadata"


class Made:
    """A data directory as a kill -9 left it, its records, and the location of each: its entry of the log, or a run. young:
    everything is in the log. flushed: runs were written, no checkpoint. old: with clean stops."""

    def __init__(self, folder, kind):
        self.kind, self.folder, self.copies, self.records = kind, folder / kind, 0, {}
        self.folder.mkdir()
        self.data, self.count = self.folder / "data", 0
        settings = {"memtable.bytes": 1 << 20, "wal.checkpoint.bytes": 1 << 30} if kind == "flushed" else {}
        broker = Broker(self.data, settings=settings).start()
        try:
            with Wire(broker.bootstrap) as wire:
                [wire.create_topic(name) for name in TOPICS]
                self._write(wire, 40)
                if kind == "flushed":
                    for n in range(BULK):
                        self._record(wire, TOPICS[n % 2], b"v" * BULK_BYTES)
                    self._wait_for_run()
                    self._write(wire, 20)
            for _ in range(2 if kind == "old" else 0):
                assert broker.stop()[0] == 0, "clean stop"
                broker.start()
                with Wire(broker.bootstrap) as wire:
                    self._write(wire, 20)
            walfile.wait_for_seal(self.data)
        finally:
            broker.kill()
        self.frames = [json.loads(line) for line in subprocess.run(
            [binary(), "log", "dump", "--data-dir", str(self.data), "--output", "json"], check=True, capture_output=True, text=True).stdout.splitlines()]
        self.entries = [frame for frame in self.frames if frame["kind"] == "entry"]
        self.places = self._places()

    def _wait_for_run(self):
        deadline = time.monotonic() + 20
        while not list(self.data.glob("tables/run-*")):
            assert time.monotonic() < deadline, "no run is written"
            time.sleep(0.05)

    def _record(self, wire, topic, value=VALUE):
        key = b"key-%s-%05d." % (topic.encode(), self.count)
        self.count += 1
        self.records[key] = (topic, wire.produce(topic, 0, [(key, key + value)]), key + value)

    def _write(self, wire, count):
        for n in range(count):
            self._record(wire, TOPICS[n % len(TOPICS)])

    def _places(self):
        """{key: (group, index) or "run"}"""
        runs = b"".join(path.read_bytes() for path in self.data.glob("tables/run-*"))
        logs = {path.name: path.read_bytes() for path in walfile.files(self.data)}
        found = {}
        for frame in self.entries:
            at = frame["offset"]
            content = logs[frame["file"]][at:at + FRAME_HEAD_BYTES + frame["payload_bytes"]]
            found |= {key: (frame["group"], frame["index"]) for key in self.records if key in content}
        found |= {key: "run" for key in self.records if key in runs}
        assert len(found) == len(self.records), "a record is nowhere"
        assert ("run" in found.values()) == (self.kind != "young"), "the folder is not what it should be"
        has_checkpoints = bool(list(self.data.glob("tables/checkpoint-*")))
        assert has_checkpoints == (self.kind == "old"), "checkpoints"
        return found

    def copy(self):
        self.copies += 1
        path = self.folder / f"copy-{self.copies}"
        subprocess.run(["cp", "-a", "--sparse=always", str(self.data), str(path)], check=True)
        return path

    def of(self, group):
        return [frame for frame in self.entries if frame["group"] == group]

    def busiest_shard(self):
        shards = {frame["group"] for frame in self.entries if frame["group"]}
        return max(sorted(shards), key=lambda group: len(self.of(group)))


def rot(*frames):
    """More wrong bits than can be corrected: in the head and in the content of each frame."""
    def damage(data):
        for frame in frames:
            with open(data / "wal" / frame["file"], "r+b") as file:
                file.seek(frame["offset"] + 20)
                file.write(b"rotten!!" * 3)
    return damage


def hole(frame, blocks=1):
    """Zeros the blocks of a frame."""
    def damage(data):
        with open(data / "wal" / frame["file"], "r+b") as file:
            file.seek(frame["offset"] // walfile.BLOCK_BYTES * walfile.BLOCK_BYTES)
            file.write(bytes(blocks * walfile.BLOCK_BYTES))
    return damage


def both(*damages):
    return lambda data: [damage(data) for damage in damages]


def keys_of(wire):
    """{topic: [(offset, key, value)]} of all present records."""
    topics = wire.metadata()
    leaderless = [name for name, leaders in topics.items() if -1 in leaders.values()]
    assert not leaderless, f"no leader: {leaderless}"
    return {name: list(wire.read_all(name, 0)) for name in sorted(topics)}


def check_kept(made, found, lost, known):
    """Everything that was not reported as lost is present, once, in its topic unless topics are lost, at its offset. Groups that
    left no trace in the doctor's report (not `known`) may have lost everything."""
    at = {}
    for topic, records in found.items():
        assert topic in TOPICS or topic.startswith("recovered-"), f"topic {topic} was never made"
        for offset, key, value in records:
            assert key in made.records and value == made.records[key][2], f"{topic} at {offset}: {key} is not what was written"
            assert key not in at, f"{key} is in {at[key]} and in {topic}"
            at[key] = (topic, offset)
    for key, (topic, offset, _) in made.records.items():
        place = made.places[key]
        kept = place == "run" or known(group_name(place[0])) and place[1] < lost.get(group_name(place[0]), 1 << 60)
        assert not kept or key in at, f"{key} ({place}) is gone; lost from: {lost}"
        if key in at:
            assert at[key][1] == offset, f"{key} was at {offset} and is at {at[key][1]}"
            assert at[key][0] == topic or "metadata" in lost, f"{key} of {topic} is in {at[key][0]}"
    return len(at)


def check_goes_on(wire, found):
    """Old topics and a new one accept records, after their existing ones, and serve them."""
    wire.create_topic("anew")
    for topic in (*found, "anew"):
        before = found.get(topic, [])
        offset = wire.produce(topic, 0, [(b"again", b"and again")])
        assert offset > max((record[0] for record in before), default=-1), f"{topic}: {offset} was given before"
        after = list(wire.read_all(topic, 0))
        assert after == [*before, (offset, b"again", b"and again")], f"{topic}: {len(before)} records and one more are {len(after)}"


def lost_from(groups):
    """{group: the first lost index}, and the same for possible losses, from the doctor's report."""
    gone, doubtful = {}, {}
    for group in groups:
        firsts = [span["first"] for span in (group["missing"], group["behind_missing"]) if span]
        gone |= {group["group"]: min(firsts)} if firsts else {}
        doubtful |= {} if group["uncertain_from"] is None else {group["group"]: group["uncertain_from"]}
    return gone, doubtful


def damaged_repaired_served(made, damage):
    copy = made.copy()
    try:
        damage(copy)
        code, printed, said = run_doctor(copy, "--output", "json")
        assert code == 1, f"the doctor finds nothing: {printed[-300:]} {said}"
        report = json.loads(printed)
        gone, doubtful = lost_from(report["log"]["groups"])
        named = {group["group"] for group in report["log"]["groups"]}
        refused(copy)
        code, printed, said = run_doctor(copy, "--repair")
        assert code == 0 and printed.endswith("sound\n"), f"exit {code}: {printed[-400:]} {said}"
        left = [path.name for path in copy.iterdir() if "repair" in path.name or path.name.endswith(".new")]
        assert not left, f"left behind: {left}"
        with_broker = Broker(copy)
        try:
            with_broker.start(START_SECONDS)
            assert http_get(with_broker.http, "/health/ready", 5) == (200, "ready\n")
            with Wire(with_broker.bootstrap) as wire:
                found = keys_of(wire)
                kept = check_kept(made, found, doubtful | gone, lambda group: group in named or not report["log"]["others_uncertain"])
                check_goes_on(wire, found)
                served = keys_of(wire)
            assert with_broker.stop()[0] == 0, "it does not stop in order"
            with_broker.start(START_SECONDS)
            with Wire(with_broker.bootstrap) as wire:
                assert keys_of(wire) == served, "one more start, and it holds something else"
            assert with_broker.stop()[0] == 0, "it does not stop in order"
        finally:
            with_broker.kill()
        code, printed, said = run_doctor(copy)
        assert code == 0, f"served, and not sound: {printed[-300:]} {said}"
        return f"{kept} of {len(made.records)} records kept, lost from {gone or 'nowhere'}"
    finally:
        shutil.rmtree(copy)


def refused(data):
    """A broker does not start in this state: it exits with 1 and gives advice."""
    broker = Broker(data)
    try:
        broker.start(START_SECONDS)
    except StartFailed as failed:
        assert "exit 1" in str(failed) and "millstream doctor" in str(failed), failed
        return
    finally:
        broker.kill()
    raise AssertionError("it starts on a damaged log")


def nothing_is_lost(made, damage):
    note = damaged_repaired_served(made, damage)
    assert note.startswith(f"{len(made.records)} of ") and note.endswith("nowhere"), note
    return note


def all_is_lost(made):
    """Nothing is left that could show the lost records: neither the doctor's report nor its repair may claim that all is well."""
    copy = made.copy()
    try:
        [(copy / "wal" / name).unlink() for name in {frame["file"] for frame in made.frames}]
        refused(copy)
        code, printed, _ = run_doctor(copy)
        assert code == 1 and "a repair may lose" in printed, printed[-300:]
        return printed.splitlines()[-1]
    finally:
        shutil.rmtree(copy)


def cases(report, made, rounds):
    """Damage at the important entries, and anywhere."""
    name, shard = made.kind, made.busiest_shard()
    firsts = [made.of(group)[0] for group in sorted({frame["group"] for frame in made.entries})]
    of_metadata, of_shard = made.of(0), made.of(shard)
    # The first entry can be derived from the other groups', or from the node's identity file: nothing is lost with it.
    founding = nothing_is_lost if made.kind != "old" else damaged_repaired_served
    report.case(f"{name}: the metadata group's first entry", founding, made, rot(of_metadata[0]))
    report.case(f"{name}: the first entry of {group_name(shard)}", founding, made, rot(of_shard[0]))
    report.case(f"{name}: the first entry of every group", founding, made, rot(*firsts))
    for what, frames in (("metadata", of_metadata), (group_name(shard), of_shard)):
        for place in sorted({1, 2, len(frames) // 2, len(frames) - 1} & set(range(len(frames)))):
            report.case(f"{name}: entry {frames[place]['index']} of {what}", damaged_repaired_served, made, rot(frames[place]))
    report.case(f"{name}: all of the metadata group", damaged_repaired_served, made, rot(*of_metadata))
    report.case(f"{name}: all of {group_name(shard)}", damaged_repaired_served, made, rot(*of_shard))
    report.case(f"{name}: all entries", damaged_repaired_served, made, rot(*made.entries[:-1]))
    if made.kind == "young":
        report.case(f"{name}: all files but those made ahead", all_is_lost, made)
    report.case(f"{name}: a hole where the groups begin", damaged_repaired_served, made, hole(firsts[0], 3))
    for seed in range(rounds):
        chance = random.Random(seed)
        some = chance.sample(made.entries[:-1], chance.randint(1, 4))
        report.case(f"{name}: anywhere, seed {seed}", damaged_repaired_served, made, both(rot(*some), hole(chance.choice(made.entries[:-1]))))


def without_members(made):
    """A group without any trace of its members, and no identity file: reported by doctor and broker, and never invented."""
    copy = made.copy()
    try:
        firsts = [frame for frame in made.entries if frame["index"] == 0]
        rot(*firsts)(copy)
        (copy / "identity").unlink()
        for options in ((), ("--repair",), ()):
            code, printed, said = run_doctor(copy, *options)
            assert code == 1 and "nothing says who belongs to it" in printed, f"exit {code}: {printed[-300:]} {said}"
        broker = Broker(copy)
        try:
            broker.start(START_SECONDS)
        except StartFailed as failed:
            assert "exit 1" in str(failed) and "has lost its membership" in str(failed), failed
            return "exit 1 with its reason"
        finally:
            broker.kill()
        raise AssertionError("it starts")
    finally:
        shutil.rmtree(copy)


def another_node(made):
    """A store of another node: refused at once."""
    copy = made.copy()
    try:
        done = subprocess.run([binary(), "serve", "--data-dir", str(copy), "--node-id", "2", "--kafka-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0"],
                              capture_output=True, text=True, timeout=START_SECONDS, stdin=subprocess.DEVNULL)
        assert done.returncode == 1 and "belongs to node 1, and this is node 2" in done.stderr, f"exit {done.returncode}: {done.stderr[-300:]}"
        return "exit 1 with its reason"
    finally:
        shutil.rmtree(copy)


def stopped_while_opening(made):
    """SIGTERM during the recovery of the store ends the broker cleanly; until then readiness gives the reason."""
    copy, http = made.copy(), f"127.0.0.1:{free_port()}"
    broker = Broker(copy, prefix=injected("pread64,preadv", "delay_enter=700000"), http_addr=http)
    try:
        broker._launch()
        deadline, answer = time.monotonic() + START_SECONDS, None
        while answer is None:
            assert time.monotonic() < deadline, "HTTP never answers"
            try:
                answer = http_get(http, "/health/ready", 5)
            except OSError:
                time.sleep(0.05)
        assert answer[0] == 503 and "its store is being opened" in answer[1], answer
        code, seconds = broker.stop(STOP_SECONDS_MAX)
        assert code == 0, f"exit {code} after {seconds:.1f} s"
        return f"exit 0 after {seconds:.1f} s"
    finally:
        broker.kill()
        shutil.rmtree(copy)


def run(report, scale, _control):
    folder = pathlib.Path(tempfile.mkdtemp(prefix="millstream-repair-"))
    try:
        for kind in ("young", "flushed", "old"):
            made = Made(folder, kind)
            cases(report, made, scale(2, 40))
            if kind == "young":
                report.case("no membership is left", without_members, made)
                report.case("a store of another node", another_node, made)
                report.case("SIGTERM while the store is opened", stopped_while_opening, made)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
