"""aiokafka: asyncio client, idempotent producer, manual assignment."""
import asyncio

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError

from common import PARTITIONS, expect, headers, key, main, stopping, tell_assigned, tell_committed, tell_read, value


async def produce(bootstrap, topic, codec, records):
    compression = None if codec == "none" else codec
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True, compression_type=compression, linger_ms=5) as producer:
        sent = [await producer.send(topic, value(i), key(i), i % PARTITIONS, headers=headers(i)) for i in range(records)]
        for i, place in enumerate(await asyncio.wait_for(asyncio.gather(*sent), 30)):
            assert (place.partition, place.offset) == (i % PARTITIONS, i // PARTITIONS), f"record {i} acknowledged at {place}"


async def consume(bootstrap, topic, records):
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False) as consumer:
        places = [TopicPartition(topic, p) for p in range(PARTITIONS)]
        consumer.assign(places)
        for place in places:
            consumer.seek(place, 0)
        following = [0] * PARTITIONS
        while sum(following) < records:
            message = await asyncio.wait_for(consumer.getone(), 20)
            p = message.partition
            expect(p, following[p], message.offset, message.key, message.value, message.headers)
            following[p] += 1


async def whole(bootstrap, topic, codec, records):
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, PARTITIONS, 1)])
    finally:
        await admin.close()
    await produce(bootstrap, topic, codec, records)
    await consume(bootstrap, topic, records)


def round_trip(bootstrap, topic, codec, records):
    asyncio.run(whole(bootstrap, topic, codec, records))


class Listener(ConsumerRebalanceListener):
    async def on_partitions_revoked(self, revoked):
        pass

    async def on_partitions_assigned(self, assigned):
        tell_assigned(place.partition for place in assigned)


async def whole_member(bootstrap, topic, group):
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False, auto_offset_reset="earliest",
                                session_timeout_ms=6000, heartbeat_interval_ms=500)
    consumer.subscribe([topic], listener=Listener())
    await consumer.start()
    stop, pending = stopping(), False
    while not stop.is_set():
        for messages in (await consumer.getmany(timeout_ms=200)).values():
            for message in messages:
                tell_read(message.partition, message.offset, message.key)
                pending = True
        if pending:
            try:
                await consumer.commit()
            except KafkaError:  # the group is being rebalanced; the next round tries again
                continue
            tell_committed()
            pending = False
    await consumer.stop()


def member(bootstrap, topic, group):
    asyncio.run(whole_member(bootstrap, topic, group))


if __name__ == "__main__":
    main(round_trip, member)
