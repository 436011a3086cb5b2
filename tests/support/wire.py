"""A few Kafka requests over a plain socket: a test sees the broker's own replies, without a client's retries.

Only versions without tagged fields, so that each request is a handful of lines. Nothing outside the standard library.
"""
import socket
import struct
import time

PRODUCE, FETCH, LIST_OFFSETS, METADATA, OFFSET_COMMIT, OFFSET_FETCH = 0, 1, 2, 3, 8, 9
API_VERSIONS, CREATE_TOPICS, DELETE_TOPICS, DELETE_RECORDS = 18, 19, 20, 21
EARLIEST, LATEST = -2, -1
BATCH_HEAD_BYTES = 61

_CRC = []
for _n in range(256):
    for _ in range(8):
        _n = _n >> 1 ^ (0x82F63B78 if _n & 1 else 0)
    _CRC.append(_n)


class KafkaError(Exception):
    """The broker's reply has an error code."""

    def __init__(self, what, code):
        super().__init__(f"{what}: error code {code}")
        self.code = code


def crc32c(data):
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _CRC[(value ^ byte) & 255]
    return value ^ 0xFFFFFFFF


class Reader:
    """Decodes the fields of a response."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, form):
        values = struct.unpack_from(">" + form, self.data, self.at)
        self.at += struct.calcsize(">" + form)
        return values[0] if len(values) == 1 else values

    def raw(self, length):
        self.at += length
        return self.data[self.at - length:self.at]

    def text(self):
        length = self.take("h")
        return None if length < 0 else self.raw(length).decode()

    def blob(self):
        length = self.take("i")
        return b"" if length < 0 else self.raw(length)

    def varint(self):
        value = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value >> 1 ^ -(value & 1)
            shift += 7


def text(value):
    return struct.pack(">h", -1) if value is None else struct.pack(">h", len(value.encode())) + value.encode()


def varint(value):
    value, out = value << 1 ^ value >> 63, bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out + bytes([value]))


def batch(records, now_ms=None):
    """A record batch (magic 2, not compressed) of (key, value) pairs."""
    now_ms = int(time.time() * 1000) if now_ms is None else now_ms
    body = b""
    for n, (key, value) in enumerate(records):
        one = b"\0" + varint(0) + varint(n) + varint(len(key)) + key + varint(len(value)) + value + varint(0)
        body += varint(len(one)) + one
    checked = struct.pack(">hiqqqhii", 0, len(records) - 1, now_ms, now_ms, -1, -1, -1, len(records)) + body
    return struct.pack(">qiiBI", 0, len(checked) + 9, -1, 2, crc32c(checked)) + checked


def records_of(data):
    """(offset, key, value) of every complete, uncompressed batch; raises on a wrong CRC."""
    at = 0
    while len(data) - at >= BATCH_HEAD_BYTES:
        base, length = struct.unpack_from(">qi", data, at)
        end = at + 12 + length
        if end > len(data):
            return
        assert struct.unpack_from(">I", data, at + 17)[0] == crc32c(data[at + 21:end]), f"the batch at offset {base} has a wrong CRC"
        count = struct.unpack_from(">i", data, at + 57)[0]
        reader = Reader(data[at + BATCH_HEAD_BYTES:end])
        for _ in range(count):
            following = reader.varint()
            following += reader.at
            reader.raw(1)
            reader.varint()
            offset = base + reader.varint()
            key = reader.raw(max(0, reader.varint()))
            value = reader.raw(max(0, reader.varint()))
            reader.at = following
            yield offset, key, value
        at = end


class Wire:
    """One connection to a broker."""

    def __init__(self, bootstrap, seconds_max=10.0):
        host, port = bootstrap.rsplit(":", 1)
        self.link = socket.create_connection((host, int(port)), timeout=seconds_max)
        self.link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.correlation = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.link.close()

    def _exactly(self, length):
        out = bytearray()
        while len(out) < length:
            chunk = self.link.recv(min(1 << 20, length - len(out)))
            if not chunk:
                raise ConnectionError("the broker closed the connection")
            out += chunk
        return bytes(out)

    def send(self, key, version, body):
        """Sends a request; `answer` receives its response."""
        self.correlation += 1
        frame = struct.pack(">hhi", key, version, self.correlation) + text("wire") + body
        self.link.sendall(struct.pack(">i", len(frame)) + frame)

    def answer(self):
        frame = Reader(self._exactly(struct.unpack(">i", self._exactly(4))[0]))
        frame.take("i")
        return frame

    def call(self, key, version, body):
        self.send(key, version, body)
        return self.answer()

    def api_versions(self):
        """{api key: (lowest, highest version)}"""
        reader = self.call(API_VERSIONS, 0, b"")
        _check("ApiVersions", reader.take("h"))
        return {key: (low, high) for key, low, high in (reader.take("hhh") for _ in range(reader.take("i")))}

    def metadata(self, *topics):
        """{topic: {partition: leader}} of the named topics or of all; creates none."""
        names = struct.pack(">i", len(topics) or -1) + b"".join(map(text, topics))
        reader = self.call(METADATA, 4, names + b"\0")
        reader.take("i")
        for _ in range(reader.take("i")):
            reader.take("i"), reader.text(), reader.take("i"), reader.text()
        reader.text(), reader.take("i")
        found = {}
        for _ in range(reader.take("i")):
            error, name, _internal = reader.take("h"), reader.text(), reader.take("b")
            partitions = found.setdefault(name, {})
            for _ in range(reader.take("i")):
                code, partition, leader = reader.take("hii")
                for _ in range(2):
                    reader.raw(4 * reader.take("i"))
                partitions[partition] = leader if code == 0 and error == 0 else -1
        return found

    def create_topic(self, name, partitions=1, configs=None):
        configs = configs or {}
        pairs = b"".join(text(key) + text(str(value)) for key, value in configs.items())
        body = struct.pack(">i", 1) + text(name) + struct.pack(">ihi", partitions, 1, 0) + struct.pack(">i", len(configs)) + pairs
        reader = self.call(CREATE_TOPICS, 2, body + struct.pack(">ib", 10_000, 0))
        reader.take("ii"), reader.text()
        _check(f"create {name}", reader.take("h"))

    def delete_topic(self, name):
        reader = self.call(DELETE_TOPICS, 1, struct.pack(">i", 1) + text(name) + struct.pack(">i", 10_000))
        reader.take("ii"), reader.text()
        _check(f"delete {name}", reader.take("h"))

    def send_produce(self, topic, partition, data, acks=-1):
        """Sends a batch; `produced` receives the response."""
        body = text(None) + struct.pack(">hii", acks, 30_000, 1) + text(topic) + struct.pack(">iii", 1, partition, len(data)) + data
        self.send(PRODUCE, 3, body)

    def produced(self):
        """(error code, base offset) of the oldest produce that was sent and not answered."""
        reader = self.answer()
        reader.take("i"), reader.text(), reader.take("ii")
        code, base, _append_time = reader.take("hqq")
        return code, base

    def produce(self, topic, partition, records, acks=-1):
        """Base offset of the records, pairs of key and value or a batch of them, once they are acknowledged."""
        self.send_produce(topic, partition, records if isinstance(records, bytes) else batch(records), acks)
        code, base = self.produced()
        _check(f"produce to {topic}-{partition}", code)
        return base

    def fetch(self, topic, partition, offset, bytes_max=1 << 20, wait_ms=100):
        """(error code, high watermark, record batches) from an offset on."""
        body = struct.pack(">iiiib", -1, wait_ms, 1, 64 << 20, 0) + struct.pack(">i", 1) + text(topic)
        reader = self.call(FETCH, 4, body + struct.pack(">iiqi", 1, partition, offset, bytes_max))
        reader.take("ii"), reader.text(), reader.take("i")
        _partition, code, high, _stable = reader.take("ihqq")
        reader.raw(16 * max(0, reader.take("i")))
        return code, high, reader.blob()

    def read_all(self, topic, partition):
        """Every (offset, key, value) of a partition."""
        offset, end = self.list_offset(topic, partition, EARLIEST), self.list_offset(topic, partition, LATEST)
        while offset < end:
            code, _high, data = self.fetch(topic, partition, offset)
            _check(f"fetch {topic}-{partition} from {offset}", code)
            before = offset
            for found, key, value in records_of(data):
                if found >= offset:
                    yield found, key, value
                    offset = found + 1
            if offset == before:
                raise AssertionError(f"{topic}-{partition}: nothing at {offset}, though it ends at {end}")

    def list_offset(self, topic, partition, at=LATEST):
        body = struct.pack(">ii", -1, 1) + text(topic) + struct.pack(">iiq", 1, partition, at)
        reader = self.call(LIST_OFFSETS, 1, body)
        reader.take("i"), reader.text(), reader.take("i")
        _partition, code, _timestamp, offset = reader.take("ihqq")
        _check(f"offsets of {topic}-{partition}", code)
        return offset

    def delete_records(self, topic, partition, before):
        body = struct.pack(">i", 1) + text(topic) + struct.pack(">iiqi", 1, partition, before, 10_000)
        reader = self.call(DELETE_RECORDS, 0, body)
        reader.take("ii"), reader.text(), reader.take("i")
        _partition, low, code = reader.take("iqh")
        _check(f"delete records of {topic}-{partition}", code)
        return low

    def committed(self, group, topic, partitions):
        """{partition: committed offset, -1 without one}"""
        body = text(group) + struct.pack(">i", 1) + text(topic) + struct.pack(f">i{len(partitions)}i", len(partitions), *partitions)
        reader = self.call(OFFSET_FETCH, 1, body)
        reader.take("i"), reader.text()
        found = {}
        for _ in range(reader.take("i")):
            partition, offset = reader.take("iq")
            reader.text()
            _check(f"offsets of {group}", reader.take("h"))
            found[partition] = offset
        return found


def _check(what, code):
    if code:
        raise KafkaError(what, code)


def eventually(condition, what, seconds_max=20.0, every=0.05):
    """Waits until `condition()` is true and returns its value; raises with `what` after the deadline."""
    deadline = time.monotonic() + seconds_max
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds_max:.0f} s: {what() if callable(what) else what}")
        time.sleep(every)
    return found
