"""confluent-kafka (librdkafka): idempotent producer, manual assignment."""
import confluent_kafka as ck
from confluent_kafka.admin import AdminClient, NewTopic

from common import PARTITIONS, Telling, expect, headers, key, lines, main, read_and_commit, tell_acked, tell_refused, value


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


def produce_lines(bootstrap, topic, codec):
    producer = ck.Producer({"bootstrap.servers": bootstrap, "compression.codec": codec, "enable.idempotence": True, "reconnect.backoff.max.ms": 1000})

    def acknowledged(number):
        return lambda error, message: tell_refused(number, error) if error else tell_acked(message.partition(), message.offset(), number)

    for partition, number in lines():
        producer.produce(topic, value(number), key(number), partition, on_delivery=acknowledged(number))
        producer.poll(0)
    assert producer.flush(60) == 0, "records are still queued after 60 s"


def member(bootstrap, topic, group):
    telling = Telling()
    consumer = ck.Consumer({"bootstrap.servers": bootstrap, "group.id": group, "enable.auto.commit": False, "auto.offset.reset": "earliest",
                            "session.timeout.ms": 6000, "heartbeat.interval.ms": 500, "reconnect.backoff.max.ms": 1000})
    consumer.subscribe([topic], on_assign=lambda _, places: telling.assigned(place.partition for place in places),
                       on_revoke=lambda _, places: telling.revoked(place.partition for place in places))

    def poll():
        for message in consumer.consume(500, 0.2):
            assert not message.error(), message.error()
            yield message.partition(), message.offset(), message.key()

    def commit(positions):
        consumer.commit(offsets=[ck.TopicPartition(topic, p, offset) for p, offset in positions.items()], asynchronous=False)

    read_and_commit(telling, poll, commit, ck.KafkaException)
    consumer.close()


if __name__ == "__main__":
    main(round_trip, member, produce_lines)
