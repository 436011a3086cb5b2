"""Reads the segments of a log file as described in docs/formats.md, without the broker's code."""
import pathlib
import struct

from wire import crc32c, eventually

BLOCK_BYTES = 4096
SEGMENT_MAGIC = 0x47534D4D
SEGMENT_HEAD = struct.Struct("<IIQQQQI")
FILE_HEAD = struct.Struct("<7sBQQQQI")
FRAME_BYTES, FRAME_KIND_AT, SEAL = 40, 8, 6


def files(data_dir):
    """The log files, oldest first."""
    return sorted(pathlib.Path(data_dir, "wal").glob("wal-*.log"))


def segments(path):
    """[(offset, end)] of every segment of a log file, up to the end of the log."""
    data, found, at = pathlib.Path(path).read_bytes(), [], BLOCK_BYTES
    _magic, _version, seq, _length, life, _closed_at, _crc = FILE_HEAD.unpack_from(data)
    while at + SEGMENT_HEAD.size <= len(data):
        magic, frames_bytes, place, _previous, _durable, its_life, crc = SEGMENT_HEAD.unpack_from(data, at)
        if magic != SEGMENT_MAGIC or (place, its_life) != (seq << 32 | at, life) or crc != crc32c(data[at:at + 40]):
            break
        end = at + SEGMENT_HEAD.size + frames_bytes
        found.append((at, end))
        at = -(-end // BLOCK_BYTES) * BLOCK_BYTES
    return found


def seal(data_dir):
    """(file, offset) of the seal that ends the log, which an idle log writes to record how far it is durable; None while there is none."""
    for path in reversed(files(data_dir)):
        if found := segments(path):
            at, end = found[-1]
            first_frame = at + SEGMENT_HEAD.size
            is_seal = end - first_frame == FRAME_BYTES and path.read_bytes()[first_frame + FRAME_KIND_AT] == SEAL
            return (path.name, at) if is_seal else None
    return None


def wait_for_seal(data_dir):
    """Waits until a log is idle and has recorded how far it is durable: after that nothing of it may be taken for torn."""
    return eventually(lambda: seal(data_dir), "the idle log writes a seal")
