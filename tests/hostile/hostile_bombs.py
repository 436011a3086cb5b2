"""Batches that expand hundreds of times where the broker decodes them: on compacted topics, in a lookup by time, in a compaction."""
import functools
import itertools
import time

from confluent_kafka import admin

import bomb
from guard import Guard, start_broker
from wire import KafkaError, Wire

# Below and above the broker's limit; CORRUPT_MESSAGE or INVALID_RECORD or MESSAGE_TOO_LARGE is a refusal.
ACCEPTED_MIB, REFUSED_MIB = 100, 400
REFUSALS, INVALID_CONFIG = {2, 10, 87}, 40
TOPICS = {"plain": {}, "compacted": {"cleanup.policy": "compact"}, "stamped": {"message.timestamp.type": "LogAppendTime"},
          "recompressed": {"compression.type": "lz4"}}
CONNECTIONS = 16


def produce(bootstrap, topic, batches, seconds, number):
    """Sends the batches to the topic repeatedly: how many were accepted and how many refused."""
    taken, refused, deadline = 0, 0, time.monotonic() + seconds
    with Wire(bootstrap, 30) as wire:
        for batch in itertools.cycle(batches[number % len(batches):] + batches[:number % len(batches)]):
            try:
                wire.produce(topic, 0, batch)
                taken += 1
            except KafkaError as error:
                assert error.code in REFUSALS, error
                refused += 1
            if time.monotonic() > deadline:
                return taken, refused


def look_up(bootstrap, topic, seconds):
    """Requests an offset by time, for which the broker decodes a record of a bomb."""
    found, deadline = 0, time.monotonic() + seconds
    with Wire(bootstrap, 30) as wire:
        while time.monotonic() < deadline:
            try:
                wire.list_offset(topic, 0, 1000)
            except KafkaError:
                pass
            found += 1
    return found, 0


def created(wire, topic, configs):
    """Whether the broker supports such topics; unsupported ones need no test."""
    try:
        wire.create_topic(topic, 1, configs)
    except KafkaError as error:
        assert error.code == INVALID_CONFIG, error
        print(f"     no {topic} topics: refused", flush=True)
        return False
    return True


def total(_broker, results):
    return f"{sum(taken for taken, _ in results)} taken, {sum(refused for _, refused in results)} refused"


def compact(report, guard, scale):
    """Bombs that were accepted undecoded are compacted when the topic becomes compacted."""
    bootstrap = guard.broker.bootstrap

    def make_compacted():
        client = admin.AdminClient({"bootstrap.servers": bootstrap})
        entry = admin.ConfigEntry("cleanup.policy", "compact", incremental_operation=admin.AlterConfigOpType.SET)
        change = admin.ConfigResource("topic", "plain", incremental_configs=[entry])
        [future.result(10) for future in client.incremental_alter_configs([change]).values()]
        time.sleep(scale(8, 60))

    guard.case("bombs are compacted", make_compacted)


def run(report, scale, seed):
    guard = Guard(report, start_broker(memtable_bytes=1 << 20))
    bootstrap, seconds = guard.broker.bootstrap, scale(4, 30)
    with Wire(bootstrap) as wire:
        topics = [name for name, configs in TOPICS.items() if created(wire, name, configs)]
    make = {name: functools.partial(bomb.one_record, codec) for codec, name in bomb.CODEC_NAMES.items()}
    # Snappy expands at most 22 times; a bomb of it is as large as a batch may be.
    inside = {name: one((ACCEPTED_MIB if name != "snappy" else 16) << 20) for name, one in make.items()}
    beyond = [one(REFUSED_MIB << 20) for name, one in make.items() if name not in ("snappy", "lz4")] + [bomb.many_records(bomb.ZSTD, 20_000_000)]
    lies = list(bomb.forged(seed).values())
    print(f"     bombs: {', '.join(f'{name} {bomb.size(data)}' for name, data in inside.items())} become {ACCEPTED_MIB} MiB", flush=True)
    for topic in topics:
        batches = list(inside.values()) + beyond + lies
        arguments = [(bootstrap, topic, batches, seconds, n) for n in range(CONNECTIONS if topic == "compacted" else 2)]
        guard.case(f"bombs for a {topic} topic", produce, *arguments, expect=total)
    guard.case("lookups by time in bombs", look_up, *[(bootstrap, "plain", seconds)] * CONNECTIONS, expect=total)
    compact(report, guard, scale)
    guard.close()
