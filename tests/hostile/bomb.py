"""Record batches of a few kilobytes that expand to hundreds of megabytes."""
import random
import struct
import time

import cramjam
import lz4.frame

from wire import BATCH_HEAD_BYTES, crc32c, varint

GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
CODEC_NAMES = {GZIP: "gzip", SNAPPY: "snappy", LZ4: "lz4", ZSTD: "zstd"}
MIB = 1 << 20
# All codecs treat several concatenated streams as one.
PIECE_BYTES = 16 * MIB
XERIAL_HEAD = b"\x82SNAPPY\0" + struct.pack(">ii", 1, 1)


def compressed(codec, data):
    if codec == SNAPPY:
        blocks = [bytes(cramjam.snappy.compress_raw(data[at:at + 65536])) for at in range(0, len(data), 65536)]
        return b"".join(struct.pack(">i", len(block)) + block for block in blocks)
    if codec == LZ4:
        return lz4.frame.compress(data, block_size=lz4.frame.BLOCKSIZE_MAX4MB)
    return bytes((cramjam.gzip if codec == GZIP else cramjam.zstd).compress(data))


def payload(codec, pieces):
    """The compressed form of the pieces; equal ones are compressed once."""
    known = {}
    streams = [known.get(piece) or known.setdefault(piece, compressed(codec, piece)) for piece in pieces]
    return (XERIAL_HEAD if codec == SNAPPY else b"") + b"".join(streams)


def batch(codec, body, records):
    now_ms = int(time.time() * 1000)
    checked = struct.pack(">hiqqqhii", codec, records - 1, now_ms, now_ms, -1, -1, -1, records) + body
    return struct.pack(">qiiBI", 0, len(checked) + 9, -1, 2, crc32c(checked)) + checked


def one_record(codec, value_bytes, key=b"key"):
    """A valid batch of one record with a value of zeros."""
    front = b"\0" + varint(0) + varint(0) + (varint(len(key)) + key) + varint(value_bytes)
    whole = varint(len(front) + value_bytes + 1) + front
    zeros, rest = divmod(value_bytes, PIECE_BYTES)
    return batch(codec, payload(codec, [whole, *[bytes(PIECE_BYTES)] * zeros, bytes(rest) + b"\0"]), 1)


def many_records(codec, records):
    """A batch of very many, very small records with a key, numbered from 0 again every 64th: invalid, which is detected late."""
    some = b""
    for n in range(64):
        one = b"\0" + varint(0) + varint(n) + varint(1) + b"k" + varint(-1) + varint(0)
        some += varint(len(one)) + one
    return batch(codec, payload(codec, [some * 4096] * (records // (64 * 4096))), records // (64 * 4096) * 64 * 4096)


def forged(seed):
    """Streams with a wrong decompressed size."""
    dice = random.Random(seed)
    lies = {
        # A window of 2 GiB, and of 128 MiB.
        "zstd window 2^31": (ZSTD, b"\x28\xb5\x2f\xfd\x00\xa8" + b"\x01\x00\x00"),
        "zstd window 2^27": (ZSTD, b"\x28\xb5\x2f\xfd\x00\x88" + b"\x01\x00\x00"),
        "zstd size 2^62": (ZSTD, b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 1 << 62) + b"\x03\x00\x00\x00"),
        "snappy 4 GiB": (SNAPPY, b"\xff\xff\xff\xff\x0f" + b"\0" * 40),
        "snappy block 2^31": (SNAPPY, XERIAL_HEAD + struct.pack(">i", (1 << 31) - 1) + b"\0" * 40),
        "snappy block -1": (SNAPPY, XERIAL_HEAD + struct.pack(">i", -1) + b"\0" * 40),
        "lz4 block 2 GiB": (LZ4, b"\x04\x22\x4d\x18\x60\x40\x82" + b"\xff\xff\xff\x7f" + b"\0" * 40),
        "gzip of nothing": (GZIP, bytes(cramjam.gzip.compress(b"")) * 5000),
        "zstd of nothing": (ZSTD, bytes(cramjam.zstd.compress(b"")) * 5000),
    }
    for codec, name in CODEC_NAMES.items():
        lies[f"{name} noise"] = (codec, dice.randbytes(2000))
    return {name: batch(codec, body, 1) for name, (codec, body) in lies.items()}


def size(data):
    return f"{(len(data) - BATCH_HEAD_BYTES) >> 10} KiB"
