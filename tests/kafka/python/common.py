"""What every client writes and reads back, the same in each language.

Record i of a topic goes to partition i % 3 and must come back there at offset i // 3, with its key, value and header.
"""
import sys

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


def main(round_trip):
    """CLIENT BOOTSTRAP PREFIX RECORDS: a line "ok CASE" or "FAIL CASE: reason" for each codec."""
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
