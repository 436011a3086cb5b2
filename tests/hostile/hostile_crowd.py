"""Very many connections: idle ones up to the limit, more than the limits, half-open ones, ones that come and go."""
import contextlib
import select
import socket
import struct
import time
import urllib.request

from flood import connect, framed, reset
from guard import Guard, end, raise_descriptors, start_broker
from wire import Wire, eventually

IDLE, IDLE_PROCESSES = 10_000, 2
# All of them at once may take a quarter of the memory.
IDLE_KIB_EACH_MAX = 8
API_VERSIONS = framed(struct.pack(">hhih", 18, 0, 7, -1))


def idle(bootstrap, count, seconds, process):
    """Connections that send one request, get their answer, and then do nothing."""
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
    """Connections that are opened and cut, some of them within a request."""
    count, deadline = 0, time.monotonic() + seconds
    while time.monotonic() < deadline:
        link = connect(bootstrap)
        if count % 3:
            link.sendall(API_VERSIONS[:count % len(API_VERSIONS)])
        reset(link) if count % 2 else link.close()
        count += 1
    return count


def half_open(bootstrap, count, seconds):
    """The beginning of a first request, and nothing more; some of them first close their own direction."""
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
    """The same for the HTTP port: noise, endless headers, connections that wait. Health goes on being told."""
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
        if count % 50 == 0:
            assert urllib.request.urlopen(f"http://{http}/health/live", timeout=5).status == 200
        count += 1
    return count


def idle_crowd(report, scale):
    guard = Guard(report, start_broker())

    def each(broker, results):
        return f"{sum(results)} connections"

    guard.case("10,000 idle connections", idle, *[(guard.broker.bootstrap, IDLE // IDLE_PROCESSES, scale(3, 30), n) for n in range(IDLE_PROCESSES)],
               expect=each, memory_mib_max=IDLE * IDLE_KIB_EACH_MAX // 1024 + 64)
    guard.case("connections that come and go", come_and_go, *[(guard.broker.bootstrap, scale(3, 30))] * 2, expect=each)
    guard.case("half-open connections", half_open, (guard.broker.bootstrap, 1000, scale(2, 20)), expect=each)
    guard.case("noise for the HTTP port", http_noise, (guard.broker.http, scale(3, 30)), expect=each)
    guard.close()


def is_open(link):
    """Whether a request on it is answered."""
    try:
        link.sendall(API_VERSIONS)
        return link.recv(4096) != b""
    except OSError:
        return False


def limits(report):
    """Beyond connections.max and connections.max.per.ip connections are closed, the log says why, and places come back."""
    broker = start_broker(connections_max=40, connections_max_per_ip=15)
    links = []

    def connections(source, count):
        found = [connect(broker.bootstrap, source) for _ in range(count)]
        links.extend(found)
        return sum(map(is_open, found))

    def per_address():
        assert connections("127.0.0.1", 20) == 15
        assert connections("127.0.0.2", 20) == 15
        assert "which is connections.max.per.ip" in broker.log_tail(10_000), "the log does not say why"

    def in_all():
        assert connections("127.0.0.3", 15) == 10
        assert "which is connections.max " in broker.log_tail(10_000).replace("\n", " "), "the log does not say why"

    def come_back():
        [link.close() for link in links]
        links.clear()
        eventually(lambda: connections("127.0.0.1", 5) == 5, lambda: "places do not come back", 10)
        with Wire(broker.bootstrap) as wire:
            assert wire.metadata() == {}

    def few_words():
        """A flood of refused connections does not flood the log."""
        before = len(broker.log_tail(1 << 20))
        for _ in range(2000):
            connect(broker.bootstrap, "127.0.0.4").close()
        written = len(broker.log_tail(1 << 20)) - before
        assert written < 20_000, f"{written} bytes of log"

    try:
        for name, step in [("per address", per_address), ("in all", in_all), ("places come back", come_back), ("the log is not flooded", few_words)]:
            report.case(f"limits of connections: {name}", step)
    finally:
        [link.close() for link in links]
        end(broker)


def run(report, scale, _seed):
    idle_crowd(report, scale)
    limits(report)
