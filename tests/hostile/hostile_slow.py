"""Slow clients: a byte a second, large requests that stop in the middle, unread replies, too many requests at once."""
import contextlib
import select
import struct
import time

from flood import connect, framed, raise_for_many
from guard import MEMORY_MIB, Guard, start_broker
from wire import FETCH, PRODUCE, Wire, batch, text

LARGE_MIB = 64
API_VERSIONS = framed(struct.pack(">hhih", 18, 0, 7, -1))
# The largest frame is a 16th of the memory.
FRAME_BYTES = (MEMORY_MIB << 20) // 16


def dribble(bootstrap, count, seconds):
    """A request that arrives at a byte a second, on many connections."""
    raise_for_many(count)
    links = [connect(bootstrap) for _ in range(count)]
    began = time.monotonic()
    for n in range(seconds):
        for link in links:
            link.sendall(API_VERSIONS[n:n + 1])
        time.sleep(max(0, began + n + 1 - time.monotonic()))
    return f"{count} connections"


def send_slowly(pending, then, pause_s, seconds):
    """Sends to each connection what is pending, then repeatedly something more; returns how many the broker closed."""
    [link.setblocking(False) for link in pending]
    began, left = time.monotonic(), dict(pending)
    while time.monotonic() < began + seconds:
        for link, data in list(left.items()):
            try:
                left[link] = data[link.send(data[:65536]):] or then
            except BlockingIOError:
                pass
            except OSError:
                del left[link]
        if all(len(data) <= len(then) for data in left.values()):
            time.sleep(pause_s)
    return len(pending) - len(left)


def stop_in_the_middle(bootstrap, count, sent_bytes, seconds):
    """Produce requests of the largest size of which a part arrives, and then a byte a second."""
    raise_for_many(count)
    links = [connect(bootstrap) for _ in range(count)]
    head = struct.pack(">ihhi", FRAME_BYTES, PRODUCE, 3, 7) + text("slow")
    closed = send_slowly({link: memoryview(head + bytes(sent_bytes)) for link in links}, memoryview(b"\0"), 1, seconds)
    return f"{count} connections, {closed} of them closed by the broker"


def fetch_request(topic, offset, bytes_max):
    body = struct.pack(">iiiib", -1, 100, 1, 1 << 30, 0) + struct.pack(">i", 1) + text(topic) + struct.pack(">iiqi", 1, 0, offset, bytes_max)
    return framed(struct.pack(">hhi", FETCH, 4, 7) + text("slow") + body)


def never_read(bootstrap, count, requests, seconds):
    """Fetches from all parts of a large topic, whose replies are not read."""
    raise_for_many(count)
    links = [connect(bootstrap) for _ in range(count)]
    for n, link in enumerate(links):
        link.settimeout(1)
        with contextlib.suppress(OSError):
            link.sendall(b"".join(fetch_request("large", (n * 7 + i * 13) % LARGE_MIB, 16 << 20) for i in range(requests)))
    time.sleep(seconds)
    return f"{count} connections with {requests} fetches each"


def read_slowly(bootstrap, count, seconds):
    """The same, reading a kilobyte from time to time."""
    links = [connect(bootstrap) for _ in range(count)]
    for n, link in enumerate(links):
        link.sendall(b"".join(fetch_request("large", (n * 7 + i * 13) % LARGE_MIB, 16 << 20) for i in range(8)))
    deadline = time.monotonic() + seconds
    closed = set()
    while time.monotonic() < deadline:
        for link in select.select([link for link in links if link not in closed], [], [], 0.2)[0]:
            try:
                link.recv(1024)
            except OSError:
                closed.add(link)
        time.sleep(0.1)
    return f"{count} connections, {len(closed)} of them closed by the broker"


def many_at_once(bootstrap, count, requests, seconds):
    """Thousands of requests on one connection whose replies are not read; metadata, so that each reply is larger."""
    raise_for_many(count)
    request = framed(struct.pack(">hhih", 3, 1, 7, -1) + struct.pack(">i", -1)) * 100
    links = [connect(bootstrap) for _ in range(count)]
    closed = send_slowly({link: memoryview(request * (requests // 100)) for link in links}, memoryview(request), 0.01, seconds)
    return f"{count} connections, {closed} of them closed by the broker"


def oversized(bootstrap, repeat):
    """Frames just beyond the largest, sent in full."""
    closed = 0
    for _ in range(repeat):
        link = connect(bootstrap)
        link.settimeout(5)
        try:
            link.sendall(struct.pack(">i", FRAME_BYTES + 1))
            for _ in range(64):
                link.sendall(bytes(1 << 18))
        except OSError:
            closed += 1
        link.close()
    assert closed == repeat, f"{repeat - closed} of {repeat} were taken"
    return f"{closed} refused"


def fill(bootstrap):
    """A topic of 64 MiB, much more than the socket buffers hold."""
    data = batch([(b"k", bytes(1_000_000))])
    with Wire(bootstrap, 30) as wire:
        wire.create_topic("large")
        for _ in range(LARGE_MIB):
            wire.produce("large", 0, data)


def run(report, scale, _seed):
    guard = Guard(report, start_broker())
    bootstrap, seconds, note = guard.broker.bootstrap, scale(5, 45), lambda _broker, results: results[0]
    fill(bootstrap)
    guard.case("a byte a second", dribble, (bootstrap, 3000, seconds), expect=note)
    guard.case("large requests that stop in the middle", stop_in_the_middle, (bootstrap, 100, 3 << 20, seconds), expect=note)
    guard.case("many requests that stop early", stop_in_the_middle, (bootstrap, 3000, 9000, seconds), expect=note)
    guard.case("unread replies", never_read, (bootstrap, 200, 20, seconds), expect=note)
    guard.case("answers that are read slowly", read_slowly, (bootstrap, 200, seconds), expect=note)
    guard.case("thousands of requests at once", many_at_once, (bootstrap, 50, 5000, seconds), expect=note)
    guard.case("frames that are too large", oversized, (bootstrap, 20), expect=note)
    guard.close()
