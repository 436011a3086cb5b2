#!/usr/bin/env python3
"""Reads a write-ahead log as docs/formats.md describes it, without the broker's code.

usage: wal_reader.py DIR/wal

Prints one JSON object: frames by kind, first and last index of each group's entries, where the log ends, and how many
frames have a wrong checksum. It proves that the description is sufficient for writing a reader.
"""

import json
import os
import re
import struct
import sys

BLOCK = 4096
KINDS = {1: "entry", 2: "vote", 3: "truncate", 4: "purge", 5: "state", 6: "seal"}


def _table():
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


TABLE = _table()


def crc32c(*parts):
    crc = 0xFFFFFFFF
    for part in parts:
        for byte in part:
            crc = TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def file_header(data, seq):
    """Life of the file and where its log ends if known; an exception if it has no valid header."""
    magic, version, number, _length, life, closed, crc = struct.unpack_from("<7sBQQQQI", data)
    if magic != b"MILLWAL" or crc32c(data[:40]) != crc or number != seq:
        raise ValueError(f"file {seq} has no header of its own")
    if version != 1:
        raise ValueError(f"file {seq} has version {version}")
    return life, closed


def segment_head(data, at, seq, life):
    """Frame bytes, end of the previous file, and durable mark; None if there is no segment of this life."""
    if at + BLOCK > len(data):
        return None
    magic, frames, place, previous, durable, own_life, crc = struct.unpack_from("<IIQQQQI", data, at)
    if magic != 0x47534D4D or crc32c(data[at : at + 40]) != crc:
        return None
    if place != (seq << 32) + at or own_life != life:
        return None
    return frames, previous, durable


def frames_of(data, start, end):
    """The frames of a segment, and whether all are good and fill it exactly."""
    frames = []
    while start < end:
        if start + 40 > end:
            return frames, False
        length, crc, kind, detail, version, group, committed, term, index = struct.unpack_from("<IIBBHIQQQ", data, start)
        stop = start + 40 + length
        if stop > end or crc32c(data[start : start + 4], data[start + 8 : stop]) != crc:
            return frames, False
        if version != 1 or kind not in KINDS:
            raise ValueError(f"a frame of kind {kind}, version {version}")
        frames.append((KINDS[kind], group, term, index, length))
        start = stop
    return frames, True


def read(directory):
    found = {"files": 0, "frames": {}, "groups": {}, "end": [0, 0], "torn": False}
    expected = None
    previous_end = None
    for name in sorted(os.listdir(directory)):
        match = re.fullmatch(r"wal-([0-9a-f]{16})\.log", name)
        if not match:
            continue
        seq = int(match[1], 16)
        if expected is not None and seq != expected:
            raise ValueError(f"file {expected} is missing")
        expected = seq + 1
        with open(os.path.join(directory, name), "rb") as file:
            data = file.read()
        life, closed = file_header(data, seq)
        first = segment_head(data, BLOCK, seq, life)
        if first and previous_end is not None and first[1] != previous_end:
            raise ValueError(f"the log of file {seq - 1} is damaged at {previous_end}")
        at = BLOCK
        while head := segment_head(data, at, seq, life):
            end = at + 44 + head[0]
            frames, whole = frames_of(data, at + 44, min(end, len(data)))
            if not whole or end > len(data):
                break
            for kind, group, _term, index, _length in frames:
                found["frames"][kind] = found["frames"].get(kind, 0) + 1
                if kind == "entry":
                    low, high = found["groups"].get(str(group), (index, index))
                    found["groups"][str(group)] = [min(low, index), max(high, index)]
            at = (end + BLOCK - 1) // BLOCK * BLOCK
        if closed and closed != at:
            raise ValueError(f"file {seq} is damaged at {min(at, closed)}")
        for place in range(at, 0 if closed else len(data), BLOCK):
            if head := segment_head(data, place, seq, life):
                found["torn"] = True
                if head[2] > (seq << 32) + at:
                    raise ValueError(f"file {seq} is damaged at {at}")
        if at > BLOCK:
            found["files"] += 1
            found["end"] = [seq, at]
        previous_end = at
    return found


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        print(json.dumps(read(sys.argv[1]), sort_keys=True))
    except ValueError as error:
        sys.exit(f"wal_reader: {error}")
