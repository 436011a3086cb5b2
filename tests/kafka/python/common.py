"""The records that every client writes and reads back, the same in each language.

Record i of a topic goes to partition i % 3 and must come back there at offset i // 3, with its key, value and header.
"""
import sys
import threading
import time

PARTITIONS = 3
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")


def key(i):
    return b"key %d" % i


def value(i):
    return b"value %d " % i * (1 + i % 7)


def headers(i):
    return [("n", b"%d" % i), ("n", b"again")]


def expect(partition, offset, got_offset, got_key, got_value, got_headers):
    """Raises if what was read at a place is not what was written there."""
    i = offset * PARTITIONS + partition
    wanted = (offset, key(i), value(i), headers(i))
    got = (got_offset, got_key, got_value, [(k, bytes(v)) for k, v in got_headers or []])
    if got != wanted:
        raise AssertionError(f"partition {partition}: read {got}, wrote {wanted}")


def lines():
    """Standard input's (partition, number) pairs, until it ends: the records that a producing program is to send."""
    for line in sys.stdin:
        yield tuple(map(int, line.split()))


def tell_acked(partition, offset, number):
    print("acked", partition, offset, number, flush=True)


def tell_refused(number, error):
    print("refused", number, repr(error), flush=True)


def stopping():
    """An event that is set when standard input ends: the signal for a group member to leave."""
    ended = threading.Event()

    def wait():
        sys.stdin.buffer.read()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    return ended


class Telling:
    """Reports a group member's assignments, reads and commits to the driver. `pending` has by partition the offset to commit:
    after what was read, for partitions that are still assigned."""

    def __init__(self):
        self.pending = {}

    def assigned(self, partitions):
        print("assigned", *sorted(partitions), flush=True)

    def revoked(self, partitions):
        for partition in partitions:
            self.pending.pop(partition, None)

    def read(self, partition, offset, key):
        print("read", partition, offset, key.decode(), flush=True)
        self.pending[partition] = offset + 1

    def committed(self):
        print("committed", *(word for place in sorted(self.pending.items()) for word in place), flush=True)
        self.pending = {}


def patiently(start, refused):
    """The result of `start()`; some clients raise `refused` while the broker is down, and are retried."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return start()
        except refused:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def read_and_commit(telling, poll, commit, refused):
    """A group member's loop until it is asked to leave. `poll` returns messages; `commit` takes {partition: offset}. Both raise
    `refused` during a rebalance or while the broker is down: the next round retries."""
    stop = stopping()
    while not stop.is_set():
        try:
            for message in poll():
                telling.read(*message)
            if telling.pending:
                commit(dict(telling.pending))
                telling.committed()
        except refused:
            stop.wait(0.1)


def main(round_trip, member, produce):
    """The three modes of a client's program; tests/README.md describes its input and output."""
    if sys.argv[1] in ("group", "produce"):
        (member if sys.argv[1] == "group" else produce)(*sys.argv[2:5])
        return
    bootstrap, prefix, records = sys.argv[1], sys.argv[2], int(sys.argv[3])
    failed = 0
    for codec in CODECS:
        try:
            round_trip(bootstrap, f"{prefix}-{codec}", codec, records)
            print(f"ok {codec}", flush=True)
        except Exception as error:  # the next codec is tried whatever happens to this one
            failed += 1
            print(f"FAIL {codec}: {type(error).__name__}: {error}", flush=True)
    sys.exit(1 if failed else 0)
