"""Limits: of connections and of file descriptors."""
import os
import random
import struct

from broker import http_get
from flood import connect, framed
from guard import end, start_broker
from wire import Wire, eventually

API_VERSIONS = framed(struct.pack(">hhih", 18, 0, 7, -1))
# A hard limit of a badly configured system: less than a hundredth of connections.max.
DESCRIPTORS_MAX = 100
IDLE_CLIENTS = 200
PRODUCED_MIB = 24
LOG_LINES_MAX = 60


def is_open(link):
    """Whether a request on it is answered."""
    try:
        link.sendall(API_VERSIONS)
        return link.recv(4096) != b""
    except OSError:
        return False


def limits(report):
    """Connections beyond connections.max and connections.max.per.ip are closed, the log says why, and the limit applies to open ones only."""
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
        # Recently used ones are not evicted.
        assert all(map(is_open, links[:15] + links[20:35]))
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


def descriptors(report):
    """Under a low hard limit, connections leave enough descriptors to the store and the HTTP port."""
    broker = start_broker(prefix=("prlimit", f"--nofile={DESCRIPTORS_MAX}:{DESCRIPTORS_MAX}"), memtable_bytes=1 << 20)
    links = []

    def says_so():
        assert "fewer connections than connections.max" in broker.log_tail(10_000), broker.log_tail(2000)

    def crowd():
        links.extend(connect(broker.bootstrap) for _ in range(IDLE_CLIENTS))
        served = sum(map(is_open, links))
        assert 0 < served < DESCRIPTORS_MAX, f"{served} connections are served"
        return f"{served} of {IDLE_CLIENTS} connections are served"

    def goes_on():
        """A producer gets in as soon as some are idle, and everything that needs files works."""
        value, sent = random.Random(1).randbytes(1_000_000), 0
        while sent < PRODUCED_MIB:
            with _admitted(broker) as wire:
                if not sent:
                    wire.create_topic("produced")
                for _ in range(8):
                    wire.produce("produced", 0, [(b"k", value)])
                    sent += 1
                    assert http_get(broker.http, "/health/live", 5)[0] == 200
        with _admitted(broker) as wire:
            read = sum(1 for _ in wire.read_all("produced", 0))
        assert read == PRODUCED_MIB, f"{read} records are there"
        assert http_get(broker.http, "/metrics", 5)[0] == 200
        return f"{len(os.listdir(f'/proc/{broker.pid()}/fd'))} of {DESCRIPTORS_MAX} descriptors are open"

    def few_lines():
        lines = broker.log_tail(1 << 20).splitlines()
        assert not [line for line in lines if "os error 24" in line], "descriptors were used up"
        assert len(lines) <= LOG_LINES_MAX, f"{len(lines)} lines"

    try:
        for name, step in [("the log says so", says_so), ("connections are closed beyond it", crowd), ("the store and health go on", goes_on), ("the log is not flooded", few_lines)]:
            report.case(f"a limit of {DESCRIPTORS_MAX} descriptors: {name}", step)
    finally:
        [link.close() for link in links]
        end(broker)


def _admitted(broker):
    """A connection that is served; if all are in use, as soon as one of them has been idle for a while."""
    found = []

    def try_again():
        wire = Wire(broker.bootstrap, 20)
        try:
            wire.api_versions()
            found.append(wire)
        except (OSError, AssertionError, EOFError, struct.error):
            wire.link.close()
        return bool(found)

    eventually(try_again, lambda: "no connection is served", 20)
    return found[0]


def run(report, _scale, _seed):
    limits(report)
    descriptors(report)
