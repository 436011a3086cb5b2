"""aiokafka: asyncio client, idempotent producer, manual assignment."""
import asyncio

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError

from common import PARTITIONS, Telling, expect, headers, key, lines, main, stopping, tell_acked, tell_refused, value


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


async def produce_lines(bootstrap, topic, codec):
    compression = None if codec == "none" else codec

    def acknowledged(number):
        def report(sent):
            if error := sent.exception():
                tell_refused(number, error)
            else:
                tell_acked(sent.result().partition, sent.result().offset, number)
        return report

    async with AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True, compression_type=compression) as producer:
        asked, loop = lines(), asyncio.get_running_loop()
        while asking := await loop.run_in_executor(None, next, asked, None):
            partition, number = asking
            sent = await producer.send(topic, value(number), key(number), partition)
            sent.add_done_callback(acknowledged(number))


def produce_asked(bootstrap, topic, codec):
    asyncio.run(produce_lines(bootstrap, topic, codec))


class Listener(ConsumerRebalanceListener):
    def __init__(self, telling):
        self.telling = telling

    async def on_partitions_revoked(self, revoked):
        self.telling.revoked(place.partition for place in revoked)

    async def on_partitions_assigned(self, assigned):
        self.telling.assigned(place.partition for place in assigned)


async def started_consumer(bootstrap, topic, group, telling):
    """A consumer of the group; a start that fails while the broker is down is retried."""
    for tries_left in reversed(range(100)):
        consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False, auto_offset_reset="earliest",
                                    session_timeout_ms=6000, heartbeat_interval_ms=500)
        consumer.subscribe([topic], listener=Listener(telling))
        try:
            await consumer.start()
            return consumer
        except KafkaError:
            await consumer.stop()
            if not tries_left:
                raise
            await asyncio.sleep(0.2)


async def whole_member(bootstrap, topic, group):
    telling, stop = Telling(), stopping()
    consumer = await started_consumer(bootstrap, topic, group, telling)
    while not stop.is_set():
        for messages in (await consumer.getmany(timeout_ms=200)).values():
            for message in messages:
                telling.read(message.partition, message.offset, message.key)
        if telling.pending:
            try:
                await consumer.commit({TopicPartition(topic, p): offset for p, offset in telling.pending.items()})
            except KafkaError:  # the group is being rebalanced or the broker is away; the next round tries again
                continue
            telling.committed()
    await consumer.stop()


def member(bootstrap, topic, group):
    asyncio.run(whole_member(bootstrap, topic, group))


if __name__ == "__main__":
    main(round_trip, member, produce_asked)
