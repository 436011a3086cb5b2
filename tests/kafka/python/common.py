"""What every client writes and reads back, the same in each language.

Record i of a topic goes to partition i % 3 and must come back there at offset i // 3, with its key, value and header.
"""
import sys
import threading

PARTITIONS = 3
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")


def key(i):
    return b"key %d" % i


def value(i):
    return b"value %d " % i * (1 + i % 7)


def headers(i):
    return [("n", b"%d" % i), ("n", b"again")]


def expect(partition, offset, got_offset, got_key, got_value, got_headers):
    """Raises when what was read at a place is not what was written there."""
    i = offset * PARTITIONS + partition
    wanted = (offset, key(i), value(i), headers(i))
    got = (got_offset, got_key, got_value, [(k, bytes(v)) for k, v in got_headers or []])
    if got != wanted:
        raise AssertionError(f"partition {partition}: read {got}, wrote {wanted}")


def stopping():
    """An event that is set when standard input ends: how a group member is told to leave."""
    ended = threading.Event()

    def wait():
        sys.stdin.buffer.read()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    return ended


def tell_assigned(partitions):
    print("assigned", *sorted(partitions), flush=True)


def tell_read(partition, offset, key):
    print("read", partition, offset, key.decode(), flush=True)


def tell_committed():
    print("committed", flush=True)


def main(round_trip, member):
    """CLIENT BOOTSTRAP PREFIX RECORDS: a line "ok CASE" or "FAIL CASE: reason" for each codec.

    CLIENT group BOOTSTRAP TOPIC GROUP: a member of the group, which tells what it is assigned, reads and commits.
    """
    if sys.argv[1] == "group":
        member(*sys.argv[2:5])
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
