"""A well-behaved producer and a consumer of the same partition, in a process of their own, until their input closes.

pair.py BOOTSTRAP TOPIC: prints "ready" once a record has been consumed, and at the end one line of JSON: acknowledgements,
their latencies, and the latency of each record from its producer to its consumer.
"""
import json
import pathlib
import struct
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from wire import Wire, records_of  # noqa: E402

PAUSE_S = 0.01
VALUE = b"v" * 100
# Timeout that well-behaved clients never reach.
ANSWER_SECONDS_MAX = 20


class Pair:
    def __init__(self, bootstrap, topic):
        self.bootstrap, self.topic = bootstrap, topic
        self.stopping, self.ready = threading.Event(), threading.Event()
        self.acknowledged, self.ack_ms, self.end_ms, self.read, self.failure = [], [], [], 0, None

    def guarded(self, work):
        try:
            with Wire(self.bootstrap, ANSWER_SECONDS_MAX) as wire:
                work(wire)
        except Exception as error:
            self.failure = f"{work.__name__}: {type(error).__name__}: {error}"
            self.ready.set()

    def produce(self, wire):
        number = 0
        while not self.stopping.is_set() and not self.failure:
            started = time.monotonic()
            offset = wire.produce(self.topic, 0, [(struct.pack(">qd", number, started), VALUE)])
            self.ack_ms.append((time.monotonic() - started) * 1000)
            self.acknowledged.append((offset, number))
            number += 1
            time.sleep(PAUSE_S)

    def consume(self, wire):
        offset = 0
        while not self.failure and not (self.stopping.is_set() and self.acknowledged and offset > self.acknowledged[-1][0]):
            code, _high, data = wire.fetch(self.topic, 0, offset, wait_ms=500)
            assert code == 0, f"fetch: error code {code}"
            for found, key, _value in records_of(data):
                if found >= offset:
                    number, started = struct.unpack(">qd", key)
                    assert number == self.read, f"record {number} at {found}, expected {self.read}"
                    self.end_ms.append((time.monotonic() - started) * 1000)
                    self.read, offset = self.read + 1, found + 1
                    self.ready.set()

    def run(self):
        threads = [threading.Thread(target=self.guarded, args=(work,)) for work in (self.produce, self.consume)]
        [thread.start() for thread in threads]
        self.ready.wait(ANSWER_SECONDS_MAX)
        print("ready", flush=True)
        sys.stdin.read()
        self.stopping.set()
        [thread.join() for thread in threads]
        print(json.dumps({"acknowledged": self.acknowledged, "ack_ms": self.ack_ms, "end_ms": self.end_ms, "read": self.read, "failure": self.failure}))


if __name__ == "__main__":
    Pair(*sys.argv[1:3]).run()
