"""The clients that the tests run: their versions, the commands of their programs, and the protocol with them."""
import dataclasses
import json
import pathlib
import re
import signal
import subprocess

from broker import cache_dir
from common import CODECS, key, value

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE, CACHE = ROOT / "tests/kafka", cache_dir()
TOOL = str(ROOT / "bench/kafka/tool")
PYTHON, GO, RUST = str(CACHE / "venv/bin/python"), str(CACHE / "bin/go-clients"), str(CACHE / "bin/rust-clients")
NODE = ["env", f"NODE_PATH={CACHE}/node/node_modules", "KAFKAJS_NO_PARTITIONER_WARNING=1", "node"]
KCAT_REBALANCE = re.compile(r"^% Group \S+ rebalanced .*: (assigned|revoked): (.*)$")
KCAT_DELIVERED = re.compile(r"^% Message delivered to partition (\d+) \(offset (\d+)\)")


def ours(line):
    """Parses a line of one of our own programs: (verb, ...) with numbers as numbers, or None."""
    words = line.split()
    match words[:1]:
        case ["assigned"]:
            return "assigned", {int(p) for p in words[1:]}
        case ["read"]:
            return "read", int(words[1]), int(words[2]), " ".join(words[3:])
        case ["committed"]:
            return "committed", dict(zip(map(int, words[1::2]), map(int, words[2::2])))
        case ["acked"]:
            return "acked", int(words[1]), int(words[2]), int(words[3])
        case ["refused"]:
            return "refused", int(words[1]), " ".join(words[2:])
    return None


def kcat(line):
    if found := KCAT_REBALANCE.match(line):
        return found[1], {int(p) for p in re.findall(r"\[(\d+)\]", found[2])}
    if found := KCAT_DELIVERED.match(line):
        return "acked", int(found[1]), int(found[2]), None
    return ours(line)


def console_consumer(line):
    found = re.match(r"Partition:(\d+)\tOffset:(\d+)\t(key \d+)\t", line)
    return ("read", int(found[1]), int(found[2]), found[3]) if found else None


def verifiable(line):
    """Kafka's verifiable producer and consumer report in JSON; the value is the record's number."""
    if not line.startswith("{"):
        return None
    event = json.loads(line)
    match event["name"]:
        case "producer_send_success":
            return "acked", event["partition"], event["offset"], int(event["value"])
        case "partitions_assigned":
            return "assigned", {place["partition"] for place in event["partitions"]}
        case "partitions_revoked":
            return "revoked", {place["partition"] for place in event["partitions"]}
        case "record_data":
            return "read", event["partition"], event["offset"], f"key {event['value']}"
        case "offsets_committed" if event["success"]:
            return "committed", {place["partition"]: place["offset"] for place in event["offsets"]}
    return None


@dataclasses.dataclass
class Client:
    """A client and its programs. In a command {bootstrap}, {topic}, {group}, {codec} and {settings} are filled in."""
    name: str
    language: str
    version: str
    member: list
    producer: list
    # Takes BOOTSTRAP PREFIX RECORDS; None for a tool without such a program.
    round_trip: list | None = None
    hear: callable = ours
    # The producer's input per record, None if it generates its records itself; how a member is asked to leave.
    ask: callable = lambda partition, number: f"{partition} {number}\n"
    leave_by: signal.Signals | None = None
    # Whether each record is written exactly once; whether the producer reports the result of each record.
    idempotent: bool = True
    tells_assigned: bool = True
    # Whether a member reports its commits, and can so be killed without reading anything again.
    tells_committed: bool = True
    # Members that share their group in the scenario of groups.py, beside that of kills.py.
    in_groups: bool = True


def _own(name, language, version, program, **others):
    return Client(name, language, version, program + ["group", "{bootstrap}", "{topic}", "{group}"], program + ["produce", "{bootstrap}", "{topic}", "{codec}"],
                  program, **others)


def _python(name, script):
    version = re.search(rf"^{name}==(\S+)$", (HERE / "python/requirements.txt").read_text(), re.MULTILINE)[1]
    return _own(name, "Python", version, [PYTHON, "-B", str(HERE / "python" / script)])


def _go(name, module, **others):
    version = re.search(rf"^\t{module} v(\S+)$", (HERE / "go/go.mod").read_text(), re.MULTILINE)[1]
    return _own(name, "Go", version, [GO, name], **others)


def _rust():
    lock = (HERE / "rust/Cargo.lock").read_text()
    crate, library = (re.search(rf'name = "{name}"\nversion = "(\S+)"', lock)[1] for name in ("rdkafka", "rdkafka-sys"))
    return _own("rdkafka", "Rust", f"{crate}, librdkafka {library.split('+')[1]}", [RUST])


def _kcat():
    try:
        said = subprocess.run(["kcat", "-V"], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=10).stdout
        found = re.search(r"Version (\S+) .*librdkafka (\S+)", said)
        version = f"{found[1]}, librdkafka {found[2]}" if found else said.strip()
    except OSError:
        version = "not installed"
    patient = ["-E", "-X", "reconnect.backoff.max.ms=1000"]
    member = ["kcat", "-b", "{bootstrap}", "-G", "{group}", "-u", "-f", "read %p %o %k\n", "-X", "auto.offset.reset=earliest", *patient,
              "-X", "auto.commit.interval.ms=100", "-X", "session.timeout.ms=6000", "-X", "heartbeat.interval.ms=500", "{topic}"]
    producer = ["kcat", "-P", "-b", "{bootstrap}", "-t", "{topic}", "-K", "|", "-z", "{codec}", "-vvv", "-X", "enable.idempotence=true", *patient]
    return Client("kcat", "C", version, member, producer, None, kcat, lambda _, n: f"{key(n).decode()}|{value(n).decode()}\n", signal.SIGTERM, tells_committed=False)


def _java():
    version = re.search(r"<kafka>(\S+)</kafka>", (ROOT / "bench/kafka/pom.xml").read_text())[1]
    client = Client("java", "Java", version, [TOOL, "GroupMember", "group", "{bootstrap}", "{topic}", "{group}"],
                    [TOOL, "ProduceAsked", "produce", "{bootstrap}", "{topic}", "{codec}"], [TOOL, "RoundTrip"])
    server = ["--bootstrap-server", "{bootstrap}", "--topic", "{topic}"]
    shown = [word for name in ("partition", "offset", "key") for word in ("--formatter-property", f"print.{name}=true")]
    properties = [word for name in ("session.timeout.ms=6000", "heartbeat.interval.ms=500", "auto.commit.interval.ms=100") for word in ("--command-property", name)]
    console = Client("console", "Java", version, [TOOL, "console-consumer", *server, "--group", "{group}", "--from-beginning", *shown, *properties],
                     [TOOL, "console-producer", *server, "--reader-property", "parse.key=true", "--reader-property", "key.separator=|", "--compression-codec", "{codec}",
                      "--message-send-max-retries", "2147483647"],
                     None, console_consumer, lambda _, n: f"{key(n).decode()}|{value(n).decode()}\n", signal.SIGTERM,
                     tells_assigned=False, tells_committed=False, in_groups=False)
    consumer = [TOOL, "verifiable-consumer", *server, "--group-id", "{group}", "--reset-policy", "earliest", "--session-timeout", "6000", "--verbose"]
    producer = [TOOL, "verifiable-producer", *server, "--throughput", "{per_second}", "--acks", "-1", "--command-config", "{settings}"]
    verified = Client("verifiable", "Java", version, consumer, producer, None, verifiable, None, signal.SIGTERM, in_groups=False)
    return [client, console, verified]


CLIENTS = {client.name: client for client in [
    _kcat(), _python("confluent-kafka", "confluent.py"), _python("kafka-python", "kafka_python.py"), _python("aiokafka", "aio_kafka.py"),
    _own("kafkajs", "Node", json.loads((HERE / "node/package.json").read_text())["dependencies"]["kafkajs"], NODE + [str(HERE / "node/kafkajs.js")]),
    _go("sarama", "github.com/IBM/sarama"), _go("kafka-go", "github.com/segmentio/kafka-go", idempotent=False), _go("franz-go", "github.com/twmb/franz-go"),
    _rust(), *_java()]}
