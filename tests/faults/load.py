"""Idempotent producers that record acknowledgements, and the check that every acknowledged record is present, once, in order.

Needs confluent-kafka: run it with the Python of the tests' environment (tests/install makes it).
"""
import collections
import threading
import time

import confluent_kafka as ck

READ_SECONDS_MAX = 90.0
GIVE_UP_SECONDS = 120.0


def key_of(producer, partition, number):
    return b"%d-%d-%d" % (producer, partition, number)


def value_of(key, length):
    """Determined by the key, so that a record with other content is found."""
    return (key + b"|") * (length // (len(key) + 1) + 1)


class Load:
    """Producers that keep writing to one topic through restarts of its broker, until `stop`."""

    def __init__(self, bootstrap, topic, partitions=6, producers=2, per_second=4000, value_bytes=200):
        self.bootstrap, self.topic, self.partitions, self.value_bytes = bootstrap, topic, partitions, value_bytes
        self.per_second = per_second / producers
        # Per partition, in the order of the acknowledgements: (offset, key); the offset is negative if the client did not get one.
        self.acknowledged = collections.defaultdict(list)
        self.unknown, self.fatal, self.sent = 0, [], 0
        self.count, self.changed = 0, threading.Condition()
        self.stopping = threading.Event()
        self.drain_seconds = 0.0
        self.threads = [threading.Thread(target=self._produce, args=(n,), daemon=True) for n in range(producers)]

    def start(self):
        [thread.start() for thread in self.threads]
        return self

    def _delivered(self, error, message):
        if error is not None:
            self.unknown += 1
            return
        self.acknowledged[message.partition()].append((message.offset(), message.key()))
        with self.changed:
            self.count += 1
            self.changed.notify_all()

    def _produce(self, number):
        producer = ck.Producer({
            "bootstrap.servers": self.bootstrap, "enable.idempotence": True, "linger.ms": 2, "message.timeout.ms": int(GIVE_UP_SECONDS * 1000),
            "socket.timeout.ms": 5000, "request.timeout.ms": 5000, "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 100,
            "retry.backoff.ms": 20, "retry.backoff.max.ms": 200, "topic.metadata.refresh.fast.interval.ms": 50, "queue.buffering.max.messages": 100_000,
            "error_cb": lambda error: self.fatal.append(str(error)) if error.fatal() else None, "log_level": 0})
        started, n = time.monotonic(), 0
        while not self.stopping.is_set() and not self.fatal:
            due = int((time.monotonic() - started) * self.per_second) + 1
            for n in range(n, min(due, n + 1000)):
                partition = n % self.partitions
                key = key_of(number, partition, n // self.partitions)
                try:
                    producer.produce(self.topic, value_of(key, self.value_bytes), key, partition, on_delivery=self._delivered)
                except BufferError:
                    break
                self.sent += 1
            else:
                n = max(n, min(due, n + 1))
            producer.poll(0.002)
        if self.drain_seconds and not self.fatal:
            producer.flush(self.drain_seconds)
        # Queued records have an unknown outcome: they may be in the log or not.
        producer.purge()
        producer.flush(1)

    def wait_for(self, more, seconds_max=30.0):
        """Waits until `more` further records are acknowledged; returns how many seconds that took."""
        started = time.monotonic()
        with self.changed:
            wanted = self.count + more
            if not self.changed.wait_for(lambda: self.count >= wanted or self.fatal, seconds_max):
                raise AssertionError(f"only {self.count - wanted + more} of {more} records acknowledged in {seconds_max:.0f} s")
        assert not self.fatal, f"a producer gave up: {self.fatal[0]}"
        return time.monotonic() - started

    def stop(self, drain_seconds=0.0):
        """Stops the producers; with `drain_seconds` they first wait for their outstanding records."""
        self.drain_seconds = drain_seconds
        self.stopping.set()
        for thread in self.threads:
            thread.join(drain_seconds + 20)
            assert not thread.is_alive(), "a producer does not end"
        return self


class Findings:
    """A topic's content, compared with what was acknowledged. Each list has examples; empty lists mean success."""

    def __init__(self):
        self.read = self.acknowledged = 0
        self.lost, self.twice, self.disordered, self.gaps, self.altered = [], [], [], [], []

    def broken(self):
        return any((self.lost, self.twice, self.disordered, self.gaps, self.altered))

    def __str__(self):
        kinds = {"lost": self.lost, "twice": self.twice, "out of order": self.disordered, "gaps": self.gaps, "altered": self.altered}
        found = ", ".join(f"{len(examples)} {kind} (first: {examples[0]})" for kind, examples in kinds.items() if examples)
        return f"{self.acknowledged} acknowledged, {self.read} read{': ' + found if found else ''}"


def read_topic(bootstrap, topic, partitions):
    """Everything in a topic: {partition: [(offset, key, value)]}; raises if the broker reports an error or nothing arrives."""
    consumer = ck.Consumer({"bootstrap.servers": bootstrap, "group.id": "check", "enable.auto.commit": False, "check.crcs": True,
                            "auto.offset.reset": "error", "fetch.wait.max.ms": 100, "log_level": 0})
    try:
        ends = {p: consumer.get_watermark_offsets(ck.TopicPartition(topic, p), 20) for p in range(partitions)}
        consumer.assign([ck.TopicPartition(topic, p, low) for p, (low, _) in ends.items()])
        found = {p: [] for p in range(partitions)}
        open_ones = {p for p, (low, high) in ends.items() if low < high}
        deadline = time.monotonic() + READ_SECONDS_MAX
        while open_ones:
            if time.monotonic() > deadline:
                raise AssertionError(f"partitions {sorted(open_ones)} cannot be read to their ends")
            for message in consumer.consume(10_000, 1.0):
                if message.error():
                    raise AssertionError(f"{topic}-{message.partition()} at {message.offset()}: {message.error()}")
                found[message.partition()].append((message.offset(), message.key(), message.value()))
                if message.offset() >= ends[message.partition()][1] - 1:
                    open_ones.discard(message.partition())
        return found
    finally:
        consumer.close()


def compare(load, found):
    """Checks a topic's content against a load's acknowledgements."""
    findings = Findings()
    for partition in range(load.partitions):
        records = found[partition]
        findings.read += len(records)
        _check_content(findings, load, partition, records)
        at, keys = {offset: key for offset, key, _ in records}, {key for _, key, _ in records}
        for offset, key in load.acknowledged[partition]:
            findings.acknowledged += 1
            if (at.get(offset) != key) if offset >= 0 else (key not in keys):
                findings.lost.append(f"{partition}/{offset} {key.decode()}{' is elsewhere' if key in keys else ''}")
    return findings


def _check_content(findings, load, partition, records):
    """Offsets without a gap, each key once, each producer's numbers in order and complete, each value correct."""
    following, last = records[0][0] if records else 0, {}
    for offset, key, value in records:
        place = f"{partition}/{offset} {key.decode()}"
        if offset != following:
            findings.gaps.append(f"{place} instead of {following}")
        following = offset + 1
        producer, _, number = map(int, key.split(b"-"))
        before = last.get(producer, -1)
        if number == before:
            findings.twice.append(place)
        elif number != before + 1:
            findings.disordered.append(f"{place} behind {before}")
        last[producer] = max(number, before)
        if value != value_of(key, load.value_bytes):
            findings.altered.append(place)


def check(load, bootstrap):
    """Reads the topic back and raises unless everything that was acknowledged is present, once, in order."""
    findings = compare(load, read_topic(bootstrap, load.topic, load.partitions))
    assert not findings.broken() and findings.acknowledged > 0, str(findings)
    assert not load.fatal, f"a producer gave up: {load.fatal[0]}"
    return str(findings)
