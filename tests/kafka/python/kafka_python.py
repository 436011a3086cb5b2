"""kafka-python: pure Python client, idempotent producer, manual assignment."""
import time

from kafka import ConsumerRebalanceListener, KafkaAdminClient, KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.admin import NewTopic
from kafka.errors import KafkaError

from common import PARTITIONS, Telling, expect, headers, key, lines, main, patiently, read_and_commit, tell_acked, tell_refused, value


def round_trip(bootstrap, topic, codec, records):
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    admin.create_topics([NewTopic(topic, PARTITIONS, 1)])
    admin.close()
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all", compression_type=None if codec == "none" else codec, linger_ms=5)
    sent = [producer.send(topic, value(i), key(i), headers(i), i % PARTITIONS) for i in range(records)]
    producer.flush(30)
    for i, future in enumerate(sent):
        place = future.get(10)
        assert (place.partition, place.offset) == (i % PARTITIONS, i // PARTITIONS), f"record {i} acknowledged at {place}"
    producer.close(10)
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, consumer_timeout_ms=20000)
    places = [TopicPartition(topic, p) for p in range(PARTITIONS)]
    consumer.assign(places)
    consumer.seek_to_beginning(*places)
    following = [0] * PARTITIONS
    for message in consumer:
        expect(message.partition, following[message.partition], message.offset, message.key, message.value, message.headers)
        following[message.partition] += 1
        if sum(following) == records:
            break
    assert sum(following) == records, f"read {sum(following)} of {records}"
    assert sum(consumer.end_offsets(places).values()) == records, "end offsets"
    consumer.close()


def produce(bootstrap, topic, codec):
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, compression_type=None if codec == "none" else codec)
    for partition, number in lines():
        sent = producer.send(topic, value(number), key(number), None, partition)
        sent.add_callback(lambda place, number=number: tell_acked(place.partition, place.offset, number))
        sent.add_errback(lambda error, number=number: tell_refused(number, error))
    producer.flush(60)
    producer.close(10)


class Listener(ConsumerRebalanceListener):
    def __init__(self, telling):
        self.telling = telling

    def on_partitions_revoked(self, revoked):
        self.telling.revoked(place.partition for place in revoked)

    def on_partitions_assigned(self, assigned):
        self.telling.assigned(place.partition for place in assigned)


def member(bootstrap, topic, group):
    telling = Telling()
    settings = {"group_id": group, "enable_auto_commit": False, "auto_offset_reset": "earliest", "session_timeout_ms": 6000, "heartbeat_interval_ms": 500}
    consumer = patiently(lambda: KafkaConsumer(bootstrap_servers=bootstrap, **settings), KafkaError)
    # Without the topic's metadata a leader of kafka-python 3.0 assigns nothing, and looks again only after minutes.
    while not patiently(lambda: consumer.partitions_for_topic(topic), KafkaError):
        time.sleep(0.1)
    consumer.subscribe([topic], listener=Listener(telling))

    def poll():
        # Where metadata that changed made it join again, kafka-python 3.0 forgets a join that outlasts the poll.
        for messages in consumer.poll(timeout_ms=2000).values():
            for message in messages:
                yield message.partition, message.offset, message.key

    def commit(positions):
        consumer.commit({TopicPartition(topic, p): OffsetAndMetadata(offset) for p, offset in positions.items()})

    read_and_commit(telling, poll, commit, KafkaError)
    consumer.close()


if __name__ == "__main__":
    main(round_trip, member, produce)
