"""Very many connections: idle ones up to the limit, half-open ones, short-lived ones, slow ones of the HTTP port."""
import contextlib
import select
import socket
import struct
import time

from flood import connect, framed, reset
from guard import Guard, raise_descriptors, start_broker, status_mib
from hostile_slow import send_slowly
from wire import PRODUCE, text

IDLE, IDLE_PROCESSES = 10_000, 2
# All of them together may take a quarter of the memory.
IDLE_KIB_EACH_MAX = 8
# 256 may be open at once.
HTTP_SLOW, HTTP_REOPENED = 280, 20
API_VERSIONS = framed(struct.pack(">hhih", 18, 0, 7, -1))
# What malformed, idle and trickling connections together may add with the default memory.
DEFAULT_MEMORY, MISBEHAVING_MIB_MAX = 2 << 30, 64
MALFORMED, MODERATELY_IDLE, TRICKLING = 626, 2000, 200
TRICKLING_REQUEST_BYTES, TRICKLING_SENT_BYTES = 4 << 20, 600_000


def idle(bootstrap, count, seconds, process):
    """Connections that send one request, get their reply, and then stay idle."""
    raise_descriptors(count + 100)
    links = []
    for n in range(count):
        links.append(connect(bootstrap, f"127.0.{process + 1}.{n % 200 + 1}"))
        links[-1].sendall(API_VERSIONS)
        if n % 100 == 99:
            assert all(link.recv(4096) for link in links[-100:]), "not answered"
    time.sleep(seconds)
    # Each of them can still be used.
    for link in links[::max(1, count // 100)]:
        link.sendall(API_VERSIONS)
        assert link.recv(4096), "closed, though it kept the rules"
    return count


def come_and_go(bootstrap, seconds):
    """Connections that are opened and reset, some of them within a request."""
    count, deadline = 0, time.monotonic() + seconds
    while time.monotonic() < deadline:
        link = connect(bootstrap)
        if count % 3:
            link.sendall(API_VERSIONS[:count % len(API_VERSIONS)])
        reset(link) if count % 2 else link.close()
        count += 1
    return count


def half_open(bootstrap, count, seconds):
    """The beginning of a first request, and nothing more; some of them first shut down their write side."""
    raise_descriptors(count + 100)
    links = [connect(bootstrap) for _ in range(count)]
    for n, link in enumerate(links):
        link.sendall(API_VERSIONS[:n % (len(API_VERSIONS) - 1) + 1])
        if n % 2:
            link.shutdown(socket.SHUT_WR)
    time.sleep(seconds)
    closed = sum(1 for link in links[1::2] if select.select([link], [], [], 0)[0] and link.recv(1) == b"")
    assert closed == count // 2, f"{closed} of {count // 2} that will never send more are closed"
    return count


def http_noise(http, seconds):
    """The same for the HTTP port: noise, endless headers, idle connections."""
    host, port = http.rsplit(":", 1)
    count, links, deadline = 0, [], time.monotonic() + seconds
    while time.monotonic() < deadline:
        link = socket.create_connection((host, int(port)), 5)
        with contextlib.suppress(OSError):
            link.sendall([b"\x16\x03\x01\x02" + bytes(200), b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20_000,
                          b"POST /v1/topics HTTP/1.1\r\nhost: a\r\ncontent-length: 9999999999\r\n\r\n{", b"GET /metrics HTTP/1.1\r\n"][count % 5])
        links.append(link)
        if len(links) > 300:
            links.pop(0).close()
        count += 1
    return count


def http_slow(http, seconds):
    """More connections than the HTTP port accepts, which are silent, send half of a request, or wait for a body and after a
    response; each that is closed is reopened."""
    host, port = http.rsplit(":", 1)
    starts = [b"", b"GET /metrics HTTP/1.1\r\nhost: a\r\n", b"GET /health/live HTTP/1.1\r\nhost: a\r\n\r\n",
              b"POST /v1/topics HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"]

    def opened(n):
        link = socket.create_connection((host, int(port)), 5)
        link.sendall(starts[n % len(starts)])
        return link

    def is_closed(link):
        try:
            return bool(select.select([link], [], [], 0)[0]) and link.recv(4096) == b""
        except OSError:
            return True

    links, deadline = [opened(n) for n in range(HTTP_SLOW)], time.monotonic() + seconds
    while time.monotonic() < deadline:
        # Slow clients, and not a flood of new ones.
        for n in [n for n in range(HTTP_SLOW) if is_closed(links[n])][:HTTP_REOPENED]:
            links[n].close()
            links[n] = opened(n)
        time.sleep(0.1)
    return HTTP_SLOW


def idle_crowd(report, scale):
    guard = Guard(report, start_broker())

    def each(broker, results):
        return f"{sum(results)} connections"

    guard.case("10,000 idle connections", idle, *[(guard.broker.bootstrap, IDLE // IDLE_PROCESSES, scale(3, 30), n) for n in range(IDLE_PROCESSES)],
               expect=each, memory_mib_max=IDLE * IDLE_KIB_EACH_MAX // 1024 + 64)
    guard.case("connections that come and go", come_and_go, *[(guard.broker.bootstrap, scale(3, 30))] * 2, expect=each)
    guard.case("half-open connections", half_open, (guard.broker.bootstrap, 1000, scale(2, 20)), expect=each)
    guard.case("noise for the HTTP port", http_noise, (guard.broker.http, scale(3, 30)), expect=each)
    guard.case("slow clients of the HTTP port", http_slow, (guard.broker.http, scale(3, 30)), expect=each)
    guard.close()


def misbehave(bootstrap, seconds):
    """Requests that cannot be read, connections that do nothing, and large requests of which a part comes at once and then
    a byte a second."""
    raise_descriptors(MALFORMED + MODERATELY_IDLE + TRICKLING + 100)
    malformed = [connect(bootstrap) for _ in range(MALFORMED)]
    for n, link in enumerate(malformed):
        link.sendall(framed(struct.pack(">hhih", n % 30, n % 3, 7, -1) + b"\x7f\xff\xff\xff" * 7))
    links = [connect(bootstrap, f"127.0.0.{n % 200 + 1}") for n in range(MODERATELY_IDLE)]
    for link in links:
        link.sendall(API_VERSIONS)
        assert link.recv(4096), "not answered"
    head = struct.pack(">ihhi", TRICKLING_REQUEST_BYTES, PRODUCE, 3, 7) + text("slow")
    trickling = {connect(bootstrap): memoryview(head + bytes(TRICKLING_SENT_BYTES)) for _ in range(TRICKLING)}
    closed = send_slowly(trickling, memoryview(b"\0"), 1, seconds)
    return f"{closed} of {TRICKLING} trickling connections closed by the broker"


def misbehaving_crowd(report, scale):
    guard = Guard(report, start_broker(memory_bytes=DEFAULT_MEMORY))
    mib_max = status_mib(guard.broker.pid(), "VmRSS") + MISBEHAVING_MIB_MAX
    guard.case("malformed, idle and trickling connections", misbehave, (guard.broker.bootstrap, scale(8, 30)),
               expect=lambda _broker, results: results[0], memory_mib_max=mib_max)
    guard.close()


def run(report, scale, _seed):
    idle_crowd(report, scale)
    misbehaving_crowd(report, scale)
