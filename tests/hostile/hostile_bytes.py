"""Malformed requests: random bytes, truncated or changed requests, and impossible lengths."""
import contextlib
import random
import struct

from broker import Broker
from flood import connect, framed, reset, send_all
from guard import MEMORY_MIB, Guard, end, start_broker
from record import Proxy, record
from wire import Wire

APIS_MIN = 24
# Counts or lengths far beyond the available bytes.
COUNTS = [struct.pack(">i", n) for n in (-1, -2, -(1 << 31), (1 << 31) - 1, 1_000_000)] + \
    [struct.pack(">h", n) for n in (-1, -2, -(1 << 15), (1 << 15) - 1)] + [b"\xc1\x84\x3d", b"\xff\xff\xff\xff\x0f", b"\xff" * 10, b"\x00"]
LENGTHS = [-1, -2, -(1 << 31), (1 << 31) - 1, 100 << 20, (100 << 20) + 1, 0, 1, 4, 7]


def mutations(frames):
    """Every byte of every frame replaced, by four values each."""
    dice = random.Random(1)
    for frame in frames:
        for at in range(len(frame)):
            for value in {frame[at] ^ 0xFF, (frame[at] + 1) & 0xFF, 0x80, dice.randrange(256)} - {frame[at]}:
                yield framed(frame[:at] + bytes([value]) + frame[at + 1:])


def counts(frames):
    """Every place of every frame overwritten with a count or length."""
    for frame in frames:
        for at in range(8, len(frame)):
            for count in COUNTS:
                yield framed((frame[:at] + count + frame[at + len(count):])[:len(frame) + len(count)])


def millions(versions):
    """Requests of 40 bytes that contain, somewhere, an array of a million elements."""
    for key, (low, high) in versions.items():
        for version in range(low, high + 1):
            for tail in (struct.pack(">i", 1_000_000), b"\xc1\x84\x3d"):
                for lead in range(12):
                    for fill in (b"\x00", b"\x01", b"\xff"):
                        # With and without the tagged fields of a flexible header.
                        for head in (b"", b"\0"):
                            body = (head + fill * lead + tail + fill * 40)[:40 - 10]
                            yield framed(struct.pack(">hhih", key, version, 7, -1) + body)


def sampled(inputs, count, seed):
    """This many of the inputs, chosen by the seed; all of them if count is None."""
    inputs = list(inputs)
    return inputs if count is None or len(inputs) <= count else random.Random(seed).sample(inputs, count)


def random_bytes(bootstrap, versions, seed, count):
    dice = random.Random(seed)
    def inputs():
        for _ in range(count):
            noise = dice.randbytes(dice.choice([3, 40, 300, 5000]))
            key = dice.choice(list(versions))
            yield dice.choice([noise, framed(noise), framed(struct.pack(">hhih", key, dice.randint(*versions[key]), 7, -1) + noise)])
    return send_all(bootstrap, inputs())


def truncated(bootstrap, frames, seed, count, repeat):
    """Each request cut at every place; the client disconnects, cleanly or not, in the middle of it."""
    dice = random.Random(seed)
    cuts = sampled(((frame, end) for frame in map(framed, frames) for end in range(1, len(frame))), count, seed)
    for frame, end in cuts * repeat:
        link = connect(bootstrap)
        link.sendall(frame[:end])
        dice.choice([reset, lambda link: link.close()])(link)
    return f"{len(cuts) * repeat} cuts"


def impossible_lengths(bootstrap, repeat):
    """Invalid lengths: the connection is closed, and no memory is held for them."""
    for length in LENGTHS * repeat:
        with contextlib.closing(connect(bootstrap)) as link:
            link.settimeout(5)
            link.sendall(struct.pack(">i", length) + b"\0" * 8)
            try:
                answer = link.recv(100)
            except ConnectionError:
                answer = b""
            assert answer == b"", f"length {length}: answered with {len(answer)} bytes"
    return f"{len(LENGTHS) * repeat} refused"


def recorded_broker(report):
    """A broker, and recorded requests of real clients."""
    proxy = Proxy()
    broker = Broker(settings={"memory.bytes": MEMORY_MIB << 20, "advertised-kafka": proxy.address, "num.partitions": 1}).start()
    proxy.target = broker.kafka
    found = {}

    def recording():
        found.update(record(proxy))
        apis = {key for key, _, _ in found}
        assert len(apis) >= APIS_MIN, f"only the APIs {sorted(apis)}"
        return f"{len(found)} requests of {len(apis)} APIs in {len({(key, version) for key, version, _ in found})} versions"

    report.case("recorded what clients send", recording)
    proxy.close()
    # The same requests in the same order, independent of the clients' threads.
    return broker, [found[kind] for kind in sorted(found)]


def run(report, scale, seed):
    broker, frames = recorded_broker(report)
    end(broker)
    guard = Guard(report, start_broker())
    with Wire(guard.broker.bootstrap) as wire:
        versions = wire.api_versions()
        [wire.create_topic(name, 2) for name in ("ck", "kp", "kcat", "java")]
    bootstrap, note = guard.broker.bootstrap, lambda _broker, results: results[0]
    guard.case("random bytes", random_bytes, (bootstrap, versions, seed, scale(20_000, 200_000)), expect=note)
    guard.case("requests that are cut", truncated, (bootstrap, frames, seed, scale(15_000, None), scale(5, 50)), expect=note)
    guard.case("requests with one changed byte", send_all, (bootstrap, sampled(mutations(frames), scale(40_000, None), seed)), expect=note)
    guard.case("counts and lengths in requests", send_all, (bootstrap, sampled(counts(frames), scale(25_000, None), seed)), expect=note)
    guard.case("a million elements in 40 bytes", send_all, (bootstrap, sampled(millions(versions), scale(15_000, None), seed)), expect=note)
    guard.case("impossible frame lengths", impossible_lengths, (bootstrap, scale(300, 3000)), expect=note)
    guard.close()
