"""Requests of real clients, recorded by a proxy between them and the broker."""
import asyncio
import contextlib
import pathlib
import shutil
import socket
import struct
import subprocess
import threading
import time

import kafka
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaException, Producer, TopicPartition
from confluent_kafka import admin as ck_admin
from wire import eventually

FRAME_BYTES_MAX = 8192
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
TOOL = pathlib.Path(__file__).resolve().parents[2] / "bench/kafka/tool"
CLIENT_SECONDS_MAX = 40
HEARTBEAT = 12


class Proxy:
    """Forwards bytes, and keeps the first request of each API, version and client id."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.frames, self.target, self.loop = {}, None, asyncio.new_event_loop()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        asyncio.set_event_loop(self.loop)
        self.loop.create_task(asyncio.start_server(self._connection, sock=self.listener))
        self.loop.run_forever()

    def close(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.listener.close()

    async def _connection(self, reader, writer):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            from_broker, to_broker = await asyncio.open_connection(*self.target.rsplit(":", 1))
            back = self.loop.create_task(self._pass(from_broker, writer))
            try:
                while True:
                    head = await reader.readexactly(4)
                    frame = await reader.readexactly(struct.unpack(">i", head)[0])
                    self._keep(frame)
                    to_broker.write(head + frame)
                    await to_broker.drain()
            finally:
                back.cancel()
                to_broker.close()
                writer.close()

    async def _pass(self, reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()

    def _keep(self, frame):
        key, version, _correlation, id_bytes = struct.unpack_from(">hhih", frame)
        if len(frame) <= FRAME_BYTES_MAX:
            self.frames.setdefault((key, version, frame[10:10 + max(0, id_bytes)]), frame)

    def has(self, api_key, client_id):
        """Whether this client has sent such a request."""
        return any((key, client) == (api_key, client_id) for key, _version, client in list(self.frames))


def librdkafka(proxy):
    common = {"bootstrap.servers": proxy.address, "client.id": "ck", "log_level": 0}
    admin = ck_admin.AdminClient(common)
    done = lambda futures: [future.exception(20) for future in (futures.values() if isinstance(futures, dict) else [futures])]  # noqa: E731
    done(admin.create_topics([ck_admin.NewTopic("ck", 2, 1, config={"retention.ms": "100000000"}), ck_admin.NewTopic("ck-gone", 1, 1)]))
    for codec in CODECS:
        producer = Producer(common | {"compression.type": codec, "enable.idempotence": codec != "none", "linger.ms": 5})
        for n in range(20):
            producer.produce("ck", b"value %d" % n, b"key", headers={"h": b"v"})
        producer.flush(20)
    consumer = Consumer(common | {"group.id": "ck", "auto.offset.reset": "earliest", "session.timeout.ms": 6000, "heartbeat.interval.ms": 200})
    consumer.subscribe(["ck"])
    consumer.consume(100, 5)
    consumer.commit(asynchronous=False)
    consumer.committed([TopicPartition("ck", 0)], timeout=5)
    consumer.offsets_for_times([TopicPartition("ck", 0, 1000)], timeout=5)
    eventually(lambda: proxy.has(HEARTBEAT, b"ck"), "a heartbeat")
    consumer.close()
    done(admin.create_partitions([ck_admin.NewPartitions("ck", 3)]))
    resource = ck_admin.ConfigResource("topic", "ck")
    done(admin.describe_configs([resource]))
    change = ck_admin.ConfigEntry("segment.ms", "70000000", incremental_operation=ck_admin.AlterConfigOpType.SET)
    done(admin.incremental_alter_configs([ck_admin.ConfigResource("topic", "ck", incremental_configs=[change])]))
    done(admin.alter_configs([ck_admin.ConfigResource("topic", "ck", set_config={"retention.ms": "90000000"})]))
    done(admin.list_offsets({TopicPartition("ck", 0): ck_admin.OffsetSpec.latest()}))
    done(admin.list_consumer_groups())
    done(admin.describe_consumer_groups(["ck"]))
    done(admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions("ck")]))
    done(admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions("ck", [TopicPartition("ck", 0, 1)])]))
    done(admin.describe_cluster())
    done(admin.delete_records([TopicPartition("ck", 0, 1)]))
    done(admin.delete_consumer_groups(["ck"]))
    done(admin.delete_topics(["ck-gone"]))


def kafka_python(proxy):
    bootstrap = proxy.address
    admin = kafka.KafkaAdminClient(bootstrap_servers=bootstrap, client_id="kp")
    with contextlib.suppress(kafka.errors.KafkaError):
        admin.create_topics(["kp"])
    producer = kafka.KafkaProducer(bootstrap_servers=bootstrap, client_id="kp", acks="all")
    for n in range(20):
        producer.send("kp", b"value %d" % n, b"key")
    producer.flush(20)
    producer.close(5)
    consumer = kafka.KafkaConsumer("kp", bootstrap_servers=bootstrap, client_id="kp", group_id="kp", auto_offset_reset="earliest", heartbeat_interval_ms=200)
    deadline = time.monotonic() + 10
    while not consumer.poll(200) and time.monotonic() < deadline:
        pass
    consumer.commit()
    consumer.close()
    admin.close()


def kcat(proxy):
    run = lambda *args, text=None: subprocess.run(["kcat", "-b", proxy.address, "-X", "client.id=kcat", *args], input=text, capture_output=True, timeout=CLIENT_SECONDS_MAX)  # noqa: E731
    run("-P", "-t", "kcat", "-K", ":", text=b"a:b\nc:d\n")
    run("-L")
    run("-C", "-t", "kcat", "-o", "beginning", "-e", "-q")
    run("-Q", "-t", "kcat:0:1000")


def java(proxy):
    """Kafka's own tools, where they are installed."""
    if not shutil.which("java"):
        return
    run = lambda name, *args, text=b"": subprocess.run([str(TOOL), name, "--bootstrap-server", proxy.address, *args], input=text, capture_output=True, timeout=CLIENT_SECONDS_MAX)  # noqa: E731
    run("console-producer", "--topic", "java", text=b"a\nb\n")
    run("console-consumer", "--topic", "java", "--group", "java", "--from-beginning", "--max-messages", "2", "--timeout-ms", "10000")
    run("groups", "--describe", "--group", "java")


def record(proxy):
    """{(API, version, client id): request} of all these clients, which talk to the broker through the proxy."""
    failures = []

    def guarded(client):
        try:
            client(proxy)
        except (KafkaException, kafka.errors.KafkaError, OSError, subprocess.SubprocessError, AssertionError) as error:
            failures.append(f"{client.__name__}: {error}")

    threads = [threading.Thread(target=guarded, args=(client,), daemon=True) for client in (librdkafka, kafka_python, kcat, java)]
    [thread.start() for thread in threads]
    [thread.join(2 * CLIENT_SECONDS_MAX) for thread in threads]
    assert not failures, failures
    return dict(proxy.frames)
