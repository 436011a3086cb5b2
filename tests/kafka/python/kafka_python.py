"""kafka-python: pure Python client, acks=all, manual assignment."""
import time

from kafka import ConsumerRebalanceListener, KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic
from kafka.errors import KafkaError

from common import PARTITIONS, expect, headers, key, main, stopping, tell_assigned, tell_committed, tell_read, value


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


class Listener(ConsumerRebalanceListener):
    def on_partitions_revoked(self, revoked):
        pass

    def on_partitions_assigned(self, assigned):
        tell_assigned(place.partition for place in assigned)


def member(bootstrap, topic, group):
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False, auto_offset_reset="earliest",
                             session_timeout_ms=6000, heartbeat_interval_ms=500)
    # Without the topic's metadata a leader of kafka-python 3.0 assigns nothing, and looks again only after minutes.
    while not consumer.partitions_for_topic(topic):
        time.sleep(0.1)
    consumer.subscribe([topic], listener=Listener())
    stop, pending = stopping(), False
    while not stop.is_set():
        for messages in consumer.poll(timeout_ms=200).values():
            for message in messages:
                tell_read(message.partition, message.offset, message.key)
                pending = True
        if pending:
            try:
                consumer.commit()
            except KafkaError:  # the group is being rebalanced; the next round tries again
                continue
            tell_committed()
            pending = False
    consumer.close()


if __name__ == "__main__":
    main(round_trip, member)
