"""The measured cases. Each is run once per round and broker, in turn, with Apache Kafka's own tools as the load, or with our own client."""
import os
import time

import measure
from broker import binary
from peers import TOOL
from wire import Wire, eventually

STEP_SECONDS_MAX = 420
CREATE_SECONDS_MAX = 120
SYNC_EACH_BATCH = {"flush.messages": "1"}


class Sizes:
    """How much each case does: the full size is what the figures are about, the quick one checks the kit itself."""

    def __init__(self, quick):
        self.quick = quick
        self.records_1k, self.records_synced, self.records_100b = (300_000, 60_000, 600_000) if quick else (5_000_000, 3_000_000, 10_000_000)
        # Until Java's client has compiled itself its compiler takes one of two processors, and what is measured is who waits for that.
        self.rate_seconds, self.rate_warmup_seconds = (5, 2) if quick else (25, 20)
        self.end_to_end_records = 1000 if quick else 10_000
        self.idle_seconds = 3 if quick else 20
        self.partitions = {"millstream": 1000, "kafka": 500} if quick else {"millstream": 10_000, "kafka": 5_000}
        self.first_load_records = 30_000 if quick else 300_000
        self.kill_load_records = 10_000 if quick else 100_000
        self.scale_rounds_max = 1 if quick else 2


class Session:
    """Both brokers, up and warm, and what the cases leave for each other."""

    def __init__(self, peers, sizes, emit):
        self.peers, self.sizes, self.emit = peers, sizes, emit
        self.kept = {}
        self.count = 0

    def topic(self, peer, partitions, configs=None):
        """A new topic; the settings that only Kafka knows go to Kafka only."""
        self.count += 1
        name = f"bench-{self.count}"
        own = {"file.delete.delay.ms": "1000"} | (configs or {}) if peer.name == "kafka" else {}
        with Wire(peer.bootstrap, CREATE_SECONDS_MAX) as wire:
            wire.create_topic(name, partitions, own)
            eventually(lambda: _led(wire, name, partitions), f"{name} has leaders", CREATE_SECONDS_MAX)
        os.sync()
        time.sleep(1)
        return name

    def drop(self, peer, name):
        with Wire(peer.bootstrap, CREATE_SECONDS_MAX) as wire:
            wire.delete_topic(name)

    def measure(self, case, peer, round_number, command, parse, environment=None, size=None):
        result = measure.run(command, peer.pid, parse, STEP_SECONDS_MAX, environment, size)
        self.emit(case, peer, round_number, result)
        return result


def _led(wire, name, partitions):
    leaders = wire.metadata(name).get(name, {})
    return len(leaders) == partitions and all(leader >= 0 for leader in leaders.values())


def producer_command(peer, topic, records, record_bytes):
    return [TOOL, "producer-perf", "--topic", topic, "--num-records", records, "--record-size", record_bytes, "--throughput", "-1",
            "--bootstrap-server", peer.bootstrap, "--command-property", "acks=all"]


def _produce(session, case, peer, round_number, records, record_bytes, configs=None, keep=False):
    if round_number == 1:  # once for each broker: code that is compiled, files that are allocated, memory that is mapped
        warm = session.topic(peer, 6, configs)
        measure.run(list(map(str, producer_command(peer, warm, max(records // 10, 20_000), record_bytes))), peer.pid, measure.parse_producer, STEP_SECONDS_MAX)
        session.drop(peer, warm)
    topic = session.topic(peer, 6, configs)
    session.measure(case, peer, round_number, list(map(str, producer_command(peer, topic, records, record_bytes))), measure.parse_producer)
    if keep:
        before = session.kept.pop(peer.name, None)
        session.kept[peer.name] = (topic, records)
        topic = before and before[0]
    if topic:
        session.drop(peer, topic)


def produce_1k(session, peer, round_number):
    _produce(session, "produce-1k", peer, round_number, session.sizes.records_1k, 1024, keep=True)


def produce_1k_synced(session, peer, round_number):
    """Kafka configured to sync each batch before it answers, which is what Millstream always does."""
    _produce(session, "produce-1k-synced", peer, round_number, session.sizes.records_synced, 1024, SYNC_EACH_BATCH)


def produce_100b(session, peer, round_number):
    _produce(session, "produce-100b", peer, round_number, session.sizes.records_100b, 100)


def _written(session, peer):
    """A topic that was just written: the one of produce-1k, or a new one."""
    if peer.name not in session.kept:
        topic = session.topic(peer, 6)
        records = session.sizes.records_1k
        measure.run(list(map(str, producer_command(peer, topic, records, 1024))), peer.pid, measure.parse_producer, STEP_SECONDS_MAX)
        session.kept[peer.name] = (topic, records)
    return session.kept[peer.name]


def consume(session, peer, round_number):
    topic, records = _written(session, peer)
    command = [TOOL, "consumer-perf", "--bootstrap-server", peer.bootstrap, "--topic", topic, "--num-records", str(records)]
    session.measure("consume", peer, round_number, command, measure.parse_consumer)


def read_all(session, peer, round_number):
    """The fetch path alone: assigned partitions, no group."""
    topic, records = _written(session, peer)
    session.measure("read-all", peer, round_number, [TOOL, "ReadAll", peer.bootstrap, topic, str(records)], measure.parse_json)


def client_command(peer, case, topic, *more):
    return [binary(), "bench", case, "--topic", topic, *map(str, more), "--bootstrap", peer.bootstrap, "--output", "json", "--progress", "never"]


def _client(session, name, peer, round_number, records, record_bytes, compression="none"):
    """Our own client writes a topic, then reads it: a client that leaves most of the processor to the broker."""
    size = lambda count: (count, count * record_bytes / 2**20)  # noqa: E731
    produce = lambda topic, count: client_command(  # noqa: E731
        peer, "produce", topic, "--records", count, "--size", record_bytes, "--compression", compression)
    if round_number == 1:
        warm, few = session.topic(peer, 6), max(records // 10, 20_000)
        measure.run(produce(warm, few), peer.pid, measure.parse_bench, STEP_SECONDS_MAX, size=size(few))
        session.drop(peer, warm)
    topic = session.topic(peer, 6)
    session.measure(f"client-produce-{name}", peer, round_number, produce(topic, records), measure.parse_bench, size=size(records))
    session.measure(f"client-consume-{name}", peer, round_number, client_command(peer, "consume", topic), measure.parse_bench, size=size(records))
    session.drop(peer, topic)


def client_1k(session, peer, round_number):
    _client(session, "1k", peer, round_number, session.sizes.records_1k, 1024)


def client_100b(session, peer, round_number):
    _client(session, "100b", peer, round_number, session.sizes.records_100b, 100)


def client_1k_lz4(session, peer, round_number):
    _client(session, "1k-lz4", peer, round_number, session.sizes.records_1k, 1024, "lz4")


def _fixed_rate(session, case, peer, round_number, configs=None):
    topic = session.topic(peer, 6, configs)
    rate, sizes = 5000, session.sizes
    records = rate * (sizes.rate_seconds + sizes.rate_warmup_seconds)
    command = [TOOL, "FixedRate", peer.bootstrap, topic, rate, sizes.rate_seconds, sizes.rate_warmup_seconds, 1024]
    session.measure(case, peer, round_number, list(map(str, command)), measure.parse_json, size=(records, records / 1024))
    session.drop(peer, topic)


def fixed_rate(session, peer, round_number):
    _fixed_rate(session, "fixed-rate", peer, round_number)


def fixed_rate_synced(session, peer, round_number):
    _fixed_rate(session, "fixed-rate-synced", peer, round_number, SYNC_EACH_BATCH)


def end_to_end(session, peer, round_number):
    records = session.sizes.end_to_end_records
    topic = session.topic(peer, 1)
    command = [TOOL, "end-to-end", "--bootstrap-server", peer.bootstrap, "--topic", topic, "--num-records", records, "--producer-acks", "all", "--record-size", "1024"]
    session.measure("end-to-end", peer, round_number, list(map(str, command)), measure.parse_end_to_end, size=(records, records / 1024))
    session.drop(peer, topic)


def idle(session, peer, round_number):
    """No requests, after whatever ran before."""
    share = measure.idle_share(peer.pid, session.sizes.idle_seconds)
    session.emit("idle", peer, round_number, {"idle_core_percent": round(share * 100, 2), "rss_mib": round(measure.memory_mib(peer.pid)[0], 1)})


def start(session, peer, round_number):
    """From exec to the first answer on empty data; resident memory five seconds later, and the clean stop."""
    peer.wipe()
    seconds = peer.start()
    ready = measure.Usage(peer.pid)
    time.sleep(min(5, session.sizes.idle_seconds))
    resident = measure.memory_mib(peer.pid)[0]
    stopping = time.monotonic()
    peer.stop()
    session.emit("start", peer, round_number, {"ready_s": round(seconds, 3), "cpu_s": round(ready.user + ready.system, 2), "rss_mib": round(resident, 1),
                                               "stop_s": round(time.monotonic() - stopping, 2)})


def partitions(session, peer, round_number):
    """Many partitions on a broker of its own: making them, what they cost, first records on them, restarts."""
    if round_number > session.sizes.scale_rounds_max:
        return
    count = session.sizes.partitions[peer.name]
    peer.wipe()
    peer.start()
    try:
        result = _many(session, peer, count)
    finally:
        peer.stop()
        peer.wipe()
    session.emit("partitions", peer, round_number, result)


def _many(session, peer, count):
    sizes, topic = session.sizes, "many"
    time.sleep(2)
    before, used = measure.memory_mib(peer.pid)[0], measure.Usage(peer.pid)
    started = time.monotonic()
    with Wire(peer.bootstrap, CREATE_SECONDS_MAX) as wire:
        wire.create_topic(topic, count)
        eventually(lambda: _led(wire, topic, count), "all partitions have leaders", CREATE_SECONDS_MAX, 0.02)
        created = time.monotonic() - started
    user, system = measure.Usage(peer.pid).since(used)
    time.sleep(sizes.idle_seconds / 2)
    share = measure.idle_share(peer.pid, sizes.idle_seconds)
    resident = measure.memory_mib(peer.pid)[0]
    result = {"partitions": count, "create_s": round(created, 3), "create_cpu_s": round(user + system, 2), "added_mib": round(resident - before, 1),
              "added_bytes_per_partition": round((resident - before) * 2**20 / count), "idle_core_percent": round(share * 100, 2),
              "files": len(os.listdir(f"/proc/{peer.pid}/fd"))}
    load = measure.run(list(map(str, producer_command(peer, topic, sizes.first_load_records, 1024))), peer.pid, measure.parse_producer, STEP_SECONDS_MAX)
    result |= {f"first_load_{key}": load.get(key) for key in ("records_per_s", "cpu_us_per_record", "rss_peak_mib", "p99_ms")}
    if "failed" in load:
        result["failed"] = load["failed"]
    stopping = time.monotonic()
    peer.stop()
    result["stop_s"] = round(time.monotonic() - stopping, 2)
    result["restart_s"] = _restart(peer, topic, count)
    measure.run(list(map(str, producer_command(peer, topic, sizes.kill_load_records, 1024))), peer.pid, measure.parse_producer, STEP_SECONDS_MAX)
    peer.kill()
    result["restart_after_kill_s"] = _restart(peer, topic, count)
    used = measure.Usage(peer.pid)
    result["restart_after_kill_cpu_s"] = round(used.user + used.system, 2)
    return result


def _restart(peer, topic, count):
    """Seconds from exec until every partition has a leader."""
    started = time.monotonic()
    peer.start()
    with Wire(peer.bootstrap, CREATE_SECONDS_MAX) as wire:
        eventually(lambda: _led(wire, topic, count), "all partitions have leaders", CREATE_SECONDS_MAX, 0.02)
    return round(time.monotonic() - started, 3)


# name: (function, whether the session's warm brokers are used; the others start their own)
CASES = {
    "produce-1k": (produce_1k, True),
    "consume": (consume, True),
    "read-all": (read_all, True),
    "produce-1k-synced": (produce_1k_synced, True),
    "produce-100b": (produce_100b, True),
    "client-1k": (client_1k, True),
    "client-100b": (client_100b, True),
    "client-1k-lz4": (client_1k_lz4, True),
    "fixed-rate": (fixed_rate, True),
    "fixed-rate-synced": (fixed_rate_synced, True),
    "end-to-end": (end_to_end, True),
    "idle": (idle, True),
    "start": (start, False),
    "partitions": (partitions, False),
}
