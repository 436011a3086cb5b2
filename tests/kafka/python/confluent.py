"""confluent-kafka (librdkafka): idempotent producer, manual assignment."""
import confluent_kafka as ck
from confluent_kafka.admin import AdminClient, NewTopic

from common import PARTITIONS, expect, headers, key, main, stopping, tell_assigned, tell_committed, tell_read, value


def produce(bootstrap, topic, codec, records):
    failures, places = [], {}

    def acknowledged(error, message):
        if error:
            failures.append(error)
        else:
            places[int(message.key().split()[1])] = (message.partition(), message.offset())

    producer = ck.Producer({"bootstrap.servers": bootstrap, "compression.codec": codec, "enable.idempotence": True, "linger.ms": 5})
    for i in range(records):
        producer.produce(topic, value(i), key(i), i % PARTITIONS, headers=headers(i), on_delivery=acknowledged)
        producer.poll(0)
    assert producer.flush(30) == 0, "records are still queued after 30 s"
    assert not failures, f"{len(failures)} failed, first: {failures[0]}"
    assert places == {i: (i % PARTITIONS, i // PARTITIONS) for i in range(records)}, "acknowledged at other offsets"


def consume(bootstrap, topic, records):
    consumer = ck.Consumer({"bootstrap.servers": bootstrap, "group.id": "unused", "enable.auto.commit": False, "enable.partition.eof": False})
    consumer.assign([ck.TopicPartition(topic, p, 0) for p in range(PARTITIONS)])
    following = [0] * PARTITIONS
    while sum(following) < records:
        message = consumer.poll(20)
        assert message is not None, f"nothing for 20 s after {sum(following)} records"
        assert not message.error(), message.error()
        p = message.partition()
        expect(p, following[p], message.offset(), message.key(), message.value(), message.headers())
        following[p] += 1
    for p in range(PARTITIONS):
        assert consumer.get_watermark_offsets(ck.TopicPartition(topic, p), 10) == (0, following[p]), "watermarks"
    consumer.close()


def round_trip(bootstrap, topic, codec, records):
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.create_topics([NewTopic(topic, PARTITIONS, 1)]).values():
        future.result(20)
    produce(bootstrap, topic, codec, records)
    consume(bootstrap, topic, records)


def member(bootstrap, topic, group):
    consumer = ck.Consumer({"bootstrap.servers": bootstrap, "group.id": group, "enable.auto.commit": False, "auto.offset.reset": "earliest",
                            "session.timeout.ms": 6000, "heartbeat.interval.ms": 500})
    consumer.subscribe([topic], on_assign=lambda _, places: tell_assigned(place.partition for place in places))
    stop, pending = stopping(), False
    while not stop.is_set():
        for message in consumer.consume(500, 0.2):
            assert not message.error(), message.error()
            tell_read(message.partition(), message.offset(), message.key())
            pending = True
        if pending:
            try:
                consumer.commit(asynchronous=False)
            except ck.KafkaException:  # the group is being rebalanced; the next round tries again
                continue
            tell_committed()
            pending = False
    consumer.close()


if __name__ == "__main__":
    main(round_trip, member)
