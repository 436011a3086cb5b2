"""The brokers that are measured side by side: Millstream and Apache Kafka, one class each with the same few verbs."""
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/support"))
from broker import Broker, cache_dir, free_port  # noqa: E402

TOOL = str(ROOT / "bench/kafka/tool")
READY_SECONDS_MAX = 120.0


def answers(bootstrap):
    """True when the broker answers ApiVersions (version 0) with a frame."""
    host, port = bootstrap.rsplit(":", 1)
    body = (18).to_bytes(2, "big") + bytes(2) + bytes(4) + b"\x00\x05ready"
    try:
        with socket.create_connection((host, int(port)), timeout=1) as link:
            link.sendall(len(body).to_bytes(4, "big") + body)
            return len(link.recv(4)) > 0
    except OSError:
        return False


class Millstream:
    """Our release build on its own folder."""
    name = "millstream"

    def __init__(self, folder, settings=None):
        self.folder, self.settings = pathlib.Path(folder), settings
        self.broker = None

    def wipe(self):
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self):
        """Starts and waits until it is ready; seconds from exec to ready."""
        if self.broker is None:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self.broker = Broker(self.folder, settings=self.settings)
        self.broker.start(READY_SECONDS_MAX)
        self.bootstrap, self.pid = self.broker.kafka, self.broker.pid()
        return self.broker.ready_seconds

    def stop(self):
        if self.broker and self.broker.alive():
            self.broker.stop(60)

    def kill(self):
        self.broker.kill()


class Kafka:
    """Apache Kafka 4.3.1, one KRaft node with its stock settings and its stock 1 GiB heap."""
    name = "kafka"
    HEAP = "-Xmx1G -Xms1G"

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.port, self.controller_port = free_port(), free_port()
        self.bootstrap = f"127.0.0.1:{self.port}"
        self.config, self.process = self.folder.with_name("kafka.properties"), None

    def wipe(self):
        shutil.rmtree(self.folder, ignore_errors=True)

    def _format(self):
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        stock = (ROOT / "bench/kafka/server.properties").read_text()
        self.config.write_text(stock + f"""
log.dirs={self.folder}
controller.quorum.voters=1@127.0.0.1:{self.controller_port}
listeners=PLAINTEXT://{self.bootstrap},CONTROLLER://127.0.0.1:{self.controller_port}
advertised.listeners=PLAINTEXT://{self.bootstrap}
""")
        subprocess.run([TOOL, "storage", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qk", "-c", str(self.config)], check=True,
                       stdout=subprocess.DEVNULL, env=os.environ | {"TOOL_HEAP": "-Xmx256M"})

    def start(self):
        """Starts and waits until it answers a client; seconds from exec to that answer."""
        if not self.folder.exists():
            self._format()
        log = open(self.folder.with_name("kafka.log"), "ab")
        started = time.monotonic()
        self.process = subprocess.Popen([TOOL, "broker", str(self.config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                        start_new_session=True, env=os.environ | {"TOOL_HEAP": self.HEAP, "TOOL_LOG": "log4j2-broker.properties"})
        log.close()
        self.pid = self.process.pid
        while not answers(self.bootstrap):
            if self.process.poll() is not None or time.monotonic() - started > READY_SECONDS_MAX:
                raise RuntimeError("Kafka does not start, see kafka.log")
            time.sleep(0.01)
        return time.monotonic() - started

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)


def peers(folder):
    """Both, with their data below `folder`."""
    folder = pathlib.Path(folder)
    return {p.name: p for p in (Millstream(folder / "millstream"), Kafka(folder / "kafka"))}


__all__ = ["Kafka", "Millstream", "TOOL", "cache_dir", "peers"]
