"""Many connections at once: sends arbitrary frames, and checks that each is answered or its connection closed."""
import asyncio
import socket
import struct

from guard import raise_descriptors

# A request with a known reply: once it is answered, everything sent before it has been processed.
SENTINEL_CORRELATION = 0x5E71E1
SENTINEL = struct.pack(">ihhih", 10, 18, 0, SENTINEL_CORRELATION, -1)
# Some mutations make a request that waits, as a fetch or a join may.
WAIT_S = 0.3


def framed(frame):
    return struct.pack(">i", len(frame)) + frame


def connect(bootstrap, source=None):
    host, port = bootstrap.rsplit(":", 1)
    link = socket.create_connection((host, int(port)), 10, source_address=(source, 0) if source else None)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return link


def raise_for_many(connections):
    """Raises this process's limit of connections."""
    raise_descriptors(connections + 100)


def reset(link):
    """Closes with a reset."""
    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    link.close()


class Outcome:
    """Outcomes of the inputs: answered, closed by the broker, or still waiting at the timeout."""

    def __init__(self):
        self.answered = self.closed = self.waiting = 0

    def __str__(self):
        return f"{self.answered + self.closed + self.waiting} inputs: {self.answered} answered, {self.closed} closed, {self.waiting} left waiting"


async def _until_sentinel(reader):
    while True:
        head = await reader.readexactly(8)
        length, correlation = struct.unpack(">ii", head)
        assert 4 <= length < 64 << 20, f"an answer of {length} bytes"
        await reader.readexactly(length - 4)
        if correlation == SENTINEL_CORRELATION:
            return


async def _worker(bootstrap, inputs, outcome):
    host, port = bootstrap.rsplit(":", 1)
    writer = None
    for data in inputs:
        if writer is None:
            reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(data + SENTINEL)
            await asyncio.wait_for(_until_sentinel(reader), WAIT_S)
            outcome.answered += 1
            continue
        except asyncio.TimeoutError:
            outcome.waiting += 1
        except (OSError, asyncio.IncompleteReadError):
            outcome.closed += 1
        writer.transport.abort()
        writer = None
    if writer:
        writer.close()


def send_all(bootstrap, inputs, connections=24):
    """Sends each input, framed already, and waits for its outcome; returns the totals."""
    async def all_of_them():
        outcome, shared = Outcome(), iter(inputs)
        await asyncio.gather(*(_worker(bootstrap, shared, outcome) for _ in range(connections)))
        return outcome

    return str(asyncio.run(all_of_them()))
