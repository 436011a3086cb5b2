"""Kafka's command line tools against the broker."""
import json
import re
import subprocess
import tempfile

from clients import TOOL
from wire import Wire

TOOL_SECONDS_MAX = 120


def run(command, seconds_max=TOOL_SECONDS_MAX, text=None):
    """The program's output; raises with the end of it on failure."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=seconds_max,
                          stdin=subprocess.DEVNULL if text is None else None)
    if done.returncode:
        raise AssertionError(f"exit {done.returncode}: {(done.stdout + done.stderr).strip()[-600:]}")
    return done.stdout


def refused(command, reason):
    """Runs a tool whose request the broker does not support: it must report that, and not hang."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TOOL_SECONDS_MAX)
    assert reason in done.stdout + done.stderr, f"{reason} not in: {(done.stdout + done.stderr)[-300:]}"


def create(server, topic, partitions, *more):
    run([TOOL, "topics", *server, "--create", "--topic", topic, "--partitions", str(partitions), "--replication-factor", "1", *more])


def console_tools(bootstrap, topic, records=500):
    """kafka-topics, console producer and consumer, get-offsets, api-versions, topic deletion."""
    server = ["--bootstrap-server", bootstrap]
    create(server, topic, 1)
    assert "PartitionCount: 1" in run([TOOL, "topics", *server, "--describe", "--topic", topic]), "describe"
    lines = "".join(f"line {i}\n" for i in range(records))
    run([TOOL, "console-producer", *server, "--topic", topic], text=lines)
    got = run([TOOL, "console-consumer", *server, "--topic", topic, "--partition", "0", "--offset", "earliest", "--max-messages", str(records), "--timeout-ms", "20000"])
    assert got == lines, f"read {len(got.splitlines())} of {records} lines, or others"
    assert f"{topic}:0:{records}" in run([TOOL, "offsets", *server, "--topic", topic]), "end offset"
    run([TOOL, "topics", *server, "--delete", "--topic", topic])
    assert topic not in run([TOOL, "topics", *server, "--list"]).split(), "still listed after its deletion"


def config_tools(bootstrap, topic):
    """Configurations of topics and of the broker: set, shown, reset, refused; more partitions."""
    server = ["--bootstrap-server", bootstrap]
    create(server, topic, 1, "--config", "retention.ms=3600000")
    configs = [TOOL, "configs", *server, "--entity-type", "topics", "--entity-name", topic]
    run([*configs, "--alter", "--add-config", "max.message.bytes=2000000,cleanup.policy=[compact,delete]"])
    shown = run([*configs, "--describe"])
    for wanted in ("max.message.bytes=2000000", "cleanup.policy=compact,delete", "retention.ms=3600000"):
        assert f" {wanted} " in shown, shown
    run([*configs, "--alter", "--delete-config", "max.message.bytes"])
    shown = run([*configs, "--describe"])
    assert "max.message.bytes=2000000 " not in shown and "retention.ms=3600000 " in shown, shown
    refused([*configs, "--alter", "--add-config", "retention.ms=soon"], "retention.ms")
    assert "log.retention.ms=" in run([TOOL, "configs", *server, "--entity-type", "brokers", "--entity-name", "1", "--describe", "--all"]), "the broker's own"
    run([TOOL, "topics", *server, "--alter", "--topic", topic, "--partitions", "4"])
    assert "PartitionCount: 4" in run([TOOL, "topics", *server, "--describe", "--topic", topic]), "more partitions"


def data_tools(bootstrap, topic):
    """delete-records, log-dirs, get-offsets at a time, leader-election, reassignments."""
    server = ["--bootstrap-server", bootstrap]
    create(server, topic, 1)
    run([TOOL, "console-producer", *server, "--topic", topic], text="".join(f"line {i}\n" for i in range(100)))
    with tempfile.NamedTemporaryFile("w", suffix=".json") as wanted:
        json.dump({"version": 1, "partitions": [{"topic": topic, "partition": 0, "offset": 40}]}, wanted)
        wanted.flush()
        assert re.search(rf"{topic}-0\s+low_watermark: 40", run([TOOL, "delete-records", *server, "--offset-json-file", wanted.name])), "low watermark"
    for at, offset in (("earliest", 40), ("latest", 100), ("0", 40)):
        found = run([TOOL, "offsets", *server, "--topic", topic, "--time", at])
        assert f"{topic}:0:{offset}" in found, f"{at}: {found}"
    shown = run([TOOL, "log-dirs", *server, "--describe", "--topic-list", topic])
    folders = json.loads(shown[shown.index("{"):])["brokers"][0]["logDirs"]
    assert [place["partition"] for folder in folders for place in folder["partitions"]] == [f"{topic}-0"], folders
    elected = run([TOOL, "leader-election", *server, "--election-type", "preferred", "--topic", topic, "--partition", "0"])
    assert "Valid replica already elected" in elected, elected
    assert "No partition reassignments found" in run([TOOL, "reassign", *server, "--list"]), "reassignments"


def cluster_tools(bootstrap, topic):
    """api-versions, cluster and features describe the broker; unsupported features are refused by name."""
    server = ["--bootstrap-server", bootstrap]
    create(server, topic, 1)
    versions = run([TOOL, "api-versions", *server])
    assert re.search(r"Produce\(0\): 0 to \d+ \[usable: \d+\]", versions), versions
    assert re.search(r"^Cluster ID: \S{22}$", run([TOOL, "cluster", "cluster-id", *server]), re.MULTILINE), "cluster id"
    endpoints = run([TOOL, "cluster", "list-endpoints", *server])
    assert bootstrap.rsplit(":", 1)[1] in endpoints and "unfenced" in endpoints, endpoints
    run([TOOL, "features", *server, "describe"])
    run([TOOL, "transactions", *server, "describe-producers", "--topic", topic, "--partition", "0"])
    with Wire(bootstrap) as wire:
        served = wire.api_versions()
    for api, name, tool in ((55, "DESCRIBE_QUORUM", ["metadata-quorum", *server, "describe", "--status"]), (66, "LIST_TRANSACTIONS", ["transactions", *server, "list"])):
        if api in served:
            run([TOOL, *tool])
        else:
            refused([TOOL, *tool], f"does not support {name}")


def perf_tools(bootstrap, topic):
    """producer-perf, consumer-perf and end-to-end latency finish and report their results."""
    server = ["--bootstrap-server", bootstrap]
    create(server, topic, 1)
    perf = run([TOOL, "producer-perf", "--topic", topic, "--num-records", "20000", "--record-size", "1024", "--throughput", "-1", *server, "--command-property", "acks=all"])
    assert "20000 records sent" in perf, perf[-300:]
    perf = run([TOOL, "consumer-perf", *server, "--topic", topic, "--num-records", "20000"])
    assert any(line.split(",")[4].strip() == "20000" for line in perf.splitlines() if line.count(",") >= 9), perf[-300:]
    end = run([TOOL, "end-to-end", *server, "--topic", topic, "--num-records", "200", "--producer-acks", "all", "--record-size", "100"])
    assert "Avg latency" in end, end[-300:]


def group_tools(bootstrap, topic):
    """Verifiable producer and consumer, console consumer in a group, and the output of the groups tool."""
    group = f"{topic}-tools"
    server = ["--bootstrap-server", bootstrap]
    create(server, topic, 3)
    verified = run([TOOL, "verifiable-producer", *server, "--topic", topic, "--max-messages", "500", "--acks", "-1"])
    assert '"acked":500' in verified.replace(" ", ""), verified[-300:]
    verified = run([TOOL, "verifiable-consumer", *server, "--topic", topic, "--group-id", f"{group}-verifiable", "--reset-policy", "earliest", "--max-messages", "500"])
    consumed = [json.loads(line) for line in verified.splitlines() if '"records_consumed"' in line]
    assert sum(event["count"] for event in consumed) == 500, verified[-300:]
    read = run([TOOL, "console-consumer", *server, "--topic", topic, "--group", group, "--from-beginning", "--max-messages", "500", "--timeout-ms", "20000"])
    assert sorted(map(int, read.split())) == list(range(500)), f"{len(read.split())} lines"
    assert group in run([TOOL, "groups", *server, "--list"]).split(), "list of groups"
    rows = [line.split() for line in run([TOOL, "groups", *server, "--describe", "--group", group]).splitlines() if f" {topic} " in line]
    assert sorted(int(row[2]) for row in rows) == [0, 1, 2] and sum(int(row[3]) for row in rows) == 500 and sum(int(row[5]) for row in rows) == 0, rows
    run([TOOL, "groups", *server, "--reset-offsets", "--to-earliest", "--topic", topic, "--group", group, "--execute"])
    again = run([TOOL, "console-consumer", *server, "--topic", topic, "--group", group, "--max-messages", "500", "--timeout-ms", "20000"])
    assert len(again.split()) == 500, "after a reset to the beginning"
    state = run([TOOL, "groups", *server, "--describe", "--group", group, "--state"])
    assert re.search(rf"{group}\s.*\bEmpty\b", state), state
    deleted = run([TOOL, "groups", *server, "--delete-offsets", "--group", group, "--topic", f"{topic}:2"])
    assert re.search(rf"{topic}\s+2\s+Successful", deleted), deleted
    left = run([TOOL, "groups", *server, "--describe", "--offsets", "--group", group])
    assert sorted(int(line.split()[2]) for line in left.splitlines() if f" {topic} " in line) == [0, 1], left
    run([TOOL, "groups", *server, "--delete", "--group", group])
    assert group not in run([TOOL, "groups", *server, "--list"]).split(), "still listed after its deletion"


def compatibility_tool(bootstrap, topic):
    """Kafka's own test of client compatibility with older and other brokers."""
    with Wire(bootstrap) as wire:
        wire.create_topic(topic, 1)
        acls = 29 in wire.api_versions()
    supported = {"offsets-for-times": True, "cluster-id": True, "create-topics": True, "describe-configs": True, "idempotent-producer": True, "describe-acls": acls}
    options = [word for name, yes in supported.items() for word in (f"--{name}-supported", str(yes))]
    run([TOOL, "compatibility", "--bootstrap-server", bootstrap, "--topic", topic, "--num-cluster-nodes", "1", "--expect-record-too-large-exception", "False", *options])


# Case: (the function, with the broker's address and a topic of its own).
CASES = {
    "console tools": (console_tools, "topics, console-producer, console-consumer, get-offsets"),
    "config tools": (config_tools, "configs, topics"),
    "data tools": (data_tools, "delete-records, log-dirs, get-offsets, leader-election, reassign-partitions"),
    "cluster tools": (cluster_tools, "broker-api-versions, cluster, features, transactions, metadata-quorum"),
    "perf tools": (perf_tools, "producer-perf, consumer-perf, EndToEndLatency"),
    "group tools": (group_tools, "consumer-groups, VerifiableProducer, VerifiableConsumer, console-consumer"),
    "compatibility tool": (compatibility_tool, "ClientCompatibilityTest"),
}
