"""Calls every path of the HTTP port and validates the responses against the port's own OpenAPI description."""
import argparse
import json
import os
import pathlib
import re
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

from broker import Broker, binary
from schema import check

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Request bodies, by operation. {name} in a path is the topic or the group below.
TOPIC, GROUP = "described", "described-group"
NAMES = {"topic": TOPIC, "change_topic": TOPIC, "delete_topic": TOPIC, "group": GROUP, "reset_group": GROUP, "delete_group": GROUP}
BODIES = {
    "create_topic": {"name": TOPIC, "partitions": 2, "config": {"retention.ms": "60000"}},
    "change_topic": {"partitions": 3, "set": {"retention.ms": "70000"}},
    "reset_group": {"topic": TOPIC, "to": "earliest"},
    "change_cluster_config": {"set": {"num.partitions": "2"}},
    "change_log": {"filter": "info,openraft=error"},
}
# Operations that set up resources, first, and those that delete them, last.
ORDER = ["create_topic", "change_topic", "topic", "reset_group", "group", "delete_group", "delete_topic"]
# Refusals that can be provoked: operation, name in the path, body, status.
REFUSED = [
    ("create_topic", None, {"name": "a b"}, 400),
    ("create_topic", None, {"name": "x", "partitions": 0}, 400),
    ("create_topic", None, {"name": "x", "config": {"retention.ms": "never"}}, 400),
    ("create_topic", None, {"name": "x", "no-such-field": 1}, 400),
    ("create_topic", None, b"{", 400),
    ("topic", "no-such", None, 404),
    ("change_topic", "no-such", {"partitions": 3}, 404),
    ("delete_topic", "no-such", None, 404),
    ("group", "no-such", None, 404),
    ("delete_group", "no-such", None, 404),
    ("reset_group", "g", {"topic": "no-such", "to": "latest"}, 404),
    ("change_cluster_config", None, {"set": {"no.such": "1"}}, 400),
    ("change_cluster_config", None, {"set": {"memtable.bytes": "67108864"}}, 400),
    ("change_log", None, {"filter": "loud"}, 400),
]


# The reason names the field and what is allowed.
SAID = [
    (b"{", "not JSON, at line 1"),
    ({"name": "x", "partitions": "many"}, "'partitions' is \"many\"; allowed is a whole number from 1 to 100000"),
    ({"name": "x", "validate_only": 1}, "'validate_only' is 1; allowed is true or false"),
    ({"name": "x", "config": {"retention.ms": []}}, "'config.retention.ms' is a list; allowed is text or a number or true or false"),
    ({"partitions": 1}, "the body has no 'name'"),
    ({"name": "x", "parts": 1}, "a field 'parts'"),
]


class Port:
    """The HTTP port of a broker and its description."""

    def __init__(self, broker):
        self.address = broker.http
        status, _, body = self.ask("GET", "/v1/openapi.json")
        assert status == 200, f"the description: {status}"
        self.description = json.loads(body)
        self.operations = {operation["operationId"]: (method.upper(), path, operation)
                           for path, item in self.description["paths"].items()
                           for method, operation in item.items() if method != "parameters"}

    def ask(self, method, path, body=None, media="application/json", headers=None):
        """Status, media type and text of a response."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = ({"content-type": media} if data is not None and media else {}) | (headers or {})
        request = urllib.request.Request(f"http://{self.address}{path}", data=data, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.headers.get("content-type"), answer.read().decode()
        except urllib.error.HTTPError as refused:
            return refused.code, refused.headers.get("content-type"), refused.read().decode()

    def call(self, operation_id, name=None, body=None, media="application/json"):
        """Sends a request, and validates status, media type and schema of the response; returns status and value."""
        method, path, operation = self.operations[operation_id]
        if isinstance(body, dict):
            taken = operation["requestBody"]["content"]["application/json"]["schema"]
            problems = check(body, taken, self.description)
        status, found_media, text = self.ask(method, path.replace("{name}", urllib.parse.quote(name or "")), body, media)
        what = f"{method} {path} {body}: {status} {text[:300]}"
        if isinstance(body, dict) and status < 300:
            assert not problems, f"{what}: it took what it does not describe: {problems}"
        answer = operation["responses"].get(str(status))
        assert answer, f"{what}: the status is not described"
        if "content" not in answer:
            assert not text, f"{what}: nothing is described"
            return status, None
        media_types = list(answer["content"])
        assert found_media == media_types[0], f"{what}: {found_media} is not {media_types}"
        if found_media != "application/json":
            return status, text
        value = json.loads(text)
        problems = check(value, answer["content"]["application/json"]["schema"], self.description)
        assert not problems, f"{what}: {problems}"
        return status, value


def everything_is_as_described(broker):
    port = Port(broker)
    others = [operation for operation in port.operations if operation not in ORDER]
    assert set(ORDER) | set(others) == set(port.operations), "an operation of the test is not described"
    for operation in others + ORDER:
        status, value = port.call(operation, NAMES.get(operation), BODIES.get(operation))
        assert status < 300, f"{operation}: {status} {value}"
        if operation == "change_topic":
            assert len(value["partitions"]) == 3 and value["config"] == {"retention.ms": "70000"}, value
        if operation == "reset_group":
            assert value["offsets"] == {"0": 0, "1": 0, "2": 0}, value
    status, _ = port.call("create_topic", None, {"name": "only-asked", "validate_only": True})
    assert status == 204 and port.call("topic", "only-asked")[0] == 404, "validate_only made a topic"
    return f"{len(port.operations)} operations"


def refusals_have_a_reason(broker):
    port = Port(broker)
    for operation, name, body, wanted in REFUSED:
        status, value = port.call(operation, name, body)
        assert status == wanted and len(value["error"]) > 10, f"{operation} {name} {body}: {status} {value}"
    port.call("create_topic", None, {"name": "twice"})
    assert port.call("create_topic", None, {"name": "twice"})[0] == 409, "made twice"
    assert port.call("create_topic", None, b"{}", media=None)[0] == 415, "a body without a media type"
    for method, path, wanted in [("GET", "/nothing", 404), ("PUT", "/v1/topics", 405), ("GET", "/v1/topics/a/b/c", 404)]:
        status, media, text = port.ask(method, path)
        assert (status, media) == (wanted, "application/json") and json.loads(text)["error"], f"{method} {path}: {status} {text}"
    status, _, text = port.ask("POST", "/v1/topics", b'{"name": "' + b"x" * (2 << 20) + b'"}')
    assert status == 413 and json.loads(text)["error"], f"a large body: {status} {text[:200]}"
    for body, said in SAID:
        status, _, text = port.ask("POST", "/v1/topics", body)
        error = json.loads(text)["error"]
        assert status == 400 and said in error and not re.search(r"deserial|serde|i32|JSON body", error), f"{body}: {status} {error}"
    assert "allowed are 1048576 bytes" in port.ask("POST", "/v1/topics", b" " * (2 << 20))[2]
    assert json.loads(port.ask("PUT", "/v1/topics/a")[2])["error"].endswith("it takes GET, PATCH, DELETE")
    status, media, text = port.ask("GET", "/v1/topics/%ff")
    assert (status, media) == (400, "application/json"), f"a name that is not UTF-8: {status} {text}"
    return f"{len(REFUSED) + len(SAID) + 10} refusals"


def ways_of_writing(broker):
    """Numbers and booleans may be given as such, and a trailing slash is ignored."""
    port = Port(broker)
    made = port.call("create_topic", None, {"name": "typed", "partitions": 1, "config": {"retention.ms": 60000, "min.cleanable.dirty.ratio": 0.25}})
    assert made[0] == 201 and made[1]["config"] == {"min.cleanable.dirty.ratio": "0.25", "retention.ms": "60000"}, made
    status, value = port.call("change_cluster_config", None, {"set": {"auto.create.topics.enable": False}, "this_broker_only": True})
    assert status == 200 and {"auto.create.topics.enable": "false"}.items() <= {c["name"]: c["value"] for c in value["config"]}.items(), value
    port.call("change_cluster_config", None, {"unset": ["auto.create.topics.enable"], "this_broker_only": True})
    for path in ("/v1/topics/", "/v1/topics/typed/", "/health/ready/", "/metrics/"):
        assert port.ask("GET", path)[0] == 200, path
    status, _, text = port.ask("PATCH", "/v1/topics/typed/", {"partitions": 2})
    assert status == 200 and len(json.loads(text)["partitions"]) == 2, f"{status} {text}"


def http_on_the_kafka_port(broker):
    """An HTTP request to the Kafka port gets an answer that names the HTTP port, and a rate-limited log line."""
    for _ in range(100):
        status, _, text = Port.ask(argparse.Namespace(address=broker.kafka), "GET", "/metrics")
        assert status == 400 and broker.http in text, f"{status} {text}"
    logged = [line for line in broker.log_path.read_text().splitlines() if "this is an HTTP request" in line]
    assert 0 < len(logged) <= 41, f"{len(logged)} lines"
    return f"{len(logged)} lines for 100 requests"


def only_who_may_changes_something(_broker):
    """Foreign hosts and pages are refused; a port that is open to other machines requires a token."""
    with tempfile.TemporaryDirectory() as folder, Broker(settings={"http.allowed.hosts": "proxy.example.org"}) as broker:
        port = Port(broker)
        of = lambda method, path, **headers: port.ask(method, path, headers=headers)[0]  # noqa: E731
        assert of("GET", "/v1/topics", Host="evil.example") == 403 and of("GET", "/v1/topics", Host="proxy.example.org") == 200
        assert of("GET", "/metrics", Host="evil.example") == 200 and of("GET", "/health/ready", Host="evil.example") == 200
        assert of("DELETE", "/v1/topics/a", Origin="http://evil.example") == 403 and of("DELETE", "/v1/topics/a", Origin=f"http://{broker.http}") == 404
        sites = {site: of("DELETE", "/v1/topics/a", **{"Sec-Fetch-Site": site}) for site in ("cross-site", "same-site", "same-origin", "none")}
        assert sites == {"cross-site": 403, "same-site": 403, "same-origin": 404, "none": 404}, f"Sec-Fetch-Site without Origin: {sites}"
        status, _, text = port.ask("PUT", "/v1/log", {"filter": "debug"}, headers={"Sec-Fetch-Site": "cross-site"})
        assert status == 403 and "Sec-Fetch-Site" in json.loads(text)["error"], f"{status} {text}"
        token = pathlib.Path(folder) / "token"
        token.write_text("correct-horse\n")
        wrong = pathlib.Path(folder) / "wrong"
        wrong.write_text("battery-staple\n")
        for settings, refused in (({}, 403), ({"http.admin.token.file": token}, 401)):
            with Broker(settings=settings, http_addr="0.0.0.0:0") as exposed:
                exposed.http = exposed.http.replace("0.0.0.0", "127.0.0.1")
                ask = lambda method, path, **headers: Port.ask(argparse.Namespace(address=exposed.http), method, path, headers=headers)  # noqa: E731,B023
                status, _, text = ask("DELETE", "/v1/topics/a")
                assert status == refused and "token" in json.loads(text)["error"], f"{settings}: {status} {text}"
                assert ask("GET", "/health/live")[0] == ask("GET", "/metrics")[0] == 200, settings
                assert ask("GET", "/v1/topics")[0] == (401 if settings else 200), settings
                level = lambda *words: subprocess.run([binary(), "cluster", "log-level", "--http-addr", exposed.http, *words],  # noqa: E731,B023
                                                      capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)
                refusal = level("debug", "--http-token-file", str(wrong))
                assert refusal.returncode == 1 and f"answers {refused}" in refusal.stderr, refusal
                if settings:
                    assert ask("DELETE", "/v1/topics/a", Authorization="Bearer correct-horse")[0] == 404
                    assert level("info", "--http-token-file", str(token)).returncode == 0
    return "host, origin, site and token"


def metrics_are_as_documented(broker):
    """Every sample has the labels of docs/metrics.md, and every family appears once."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \|", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE)
    documented = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    page = Port(broker).call("metrics")[1]
    families = re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE)
    assert len(dict(families)) == len(families), "a family is there twice"
    assert {name: kind for name, (kind, _) in documented.items()} == dict(families), set(documented) ^ set(dict(families))
    for line in page.splitlines():
        if line.startswith("#"):
            continue
        name, labels, value = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line).groups()
        float(value)
        base = name if name in documented else re.sub(r"_(bucket|sum|count)$", "", name)
        kind, wanted = documented[base]
        wanted = wanted | {"le"} if name.endswith("_bucket") and kind == "histogram" else wanted
        found = set(re.findall(r'(\w+)="(?:[^"\\]|\\.)*"', labels or ""))
        assert found == wanted, f"{line}: the labels are {found}, not {wanted}"
    return f"{len(documented)} families"


def members_are_shown(broker):
    """A group with a member shows its assignment, and can be neither reset nor deleted."""
    port = Port(broker)
    port.call("create_topic", None, {"name": "read", "partitions": 2})
    reader = subprocess.Popen([binary(), "consume", "read", "--group", "readers", "--follow", "--bootstrap", broker.bootstrap],
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while (group := port.call("group", "readers"))[0] != 200 or group[1]["state"] != "Stable":
            assert time.monotonic() < deadline, f"never stable: {group}"
            time.sleep(0.05)
        members = group[1]["members"]
        assert [member["assignment"] for member in members] == [{"read": [0, 1]}], members
        for operation, body in [("reset_group", {"topic": "read", "to": "latest"}), ("delete_group", None)]:
            status, value = port.call(operation, "readers", body)
            assert status == 409 and "stop them" in value["error"], f"{operation}: {status} {value}"
    finally:
        reader.terminate()
        reader.wait(10)


def the_log_is_switched(broker):
    """The new filter is in force when the response arrives, without a restart."""
    port = Port(broker)
    before = port.call("log")[1]
    lines = lambda: broker.log_path.read_text().count("DEBUG")  # noqa: E731
    assert lines() == 0, "debug lines before the switch"
    port.call("change_log", None, {"filter": "debug,openraft=debug"})
    port.call("cluster")
    port.call("create_topic", None, {"name": "logged"})
    debug = lines()
    assert debug > 0, "no debug lines after the switch"
    for filter, in_force in (("info,millstream::kafka=debug", "info,millstream::kafka=debug,openraft=error"), ("info,openraft=warn", "info,openraft=warn")):
        found = port.call("change_log", None, {"filter": filter})[1]["filter"]
        assert found == in_force, f"{filter}: {found} is in force"
    back = port.call("change_log", None, {"filter": None})[1]
    assert back == before, f"{back}, before {before}"
    debug = lines()
    port.call("create_topic", None, {"name": "not-logged"})
    assert lines() == debug, "debug lines after the switch back"
    return f"{debug} lines"


def lag_of_unread_partitions(broker):
    """Partitions without a committed offset are counted separately from the lag, not as read, in all outputs."""
    environment = dict(os.environ, MILLSTREAM_BOOTSTRAP=broker.bootstrap)
    port = Port(broker)
    port.call("create_topic", None, {"name": "partly", "partitions": 4})
    for partition in range(3):
        subprocess.run([binary(), "produce", "partly", "--partition", str(partition)], input=f"{partition}\n", text=True,
                       capture_output=True, check=True, timeout=60, env=environment)

    def seen():
        page = port.ask("GET", "/metrics")[2].splitlines()
        sample = lambda name: int(next(line for line in page if line.startswith(f'{name}{{group="some",topic="partly"}}')).split()[-1])  # noqa: E731
        group = port.call("group", "some")[1]
        described = subprocess.run([binary(), "group", "describe", "some", "--output", "json"], capture_output=True, check=True, text=True,
                              timeout=60, env=environment).stdout
        described = json.loads(described)
        return {(sample("millstream_group_lag_records"), sample("millstream_group_lag_uncounted_partitions")),
                (group["lag_records"], group["uncounted_partitions"]), (described["lag_records"], described["uncounted_partitions"]),
                (group["topics"][0]["lag_records"], group["topics"][0]["uncounted_partitions"])}

    # The last partition is empty: there is nothing to read from any position.
    for partition, to, wanted in [(0, "latest", (0, 2)), (1, "earliest", (1, 1)), (2, "earliest", (2, 0))]:
        port.call("reset_group", "some", {"topic": "partly", "partitions": [partition], "to": to})
        assert seen() == {wanted}, f"partition {partition} to {to}: {seen()}, not {wanted}"
    return "metrics, HTTP and command line agree"


def lag_in_seconds(broker):
    """An unread record that is an hour old makes a lag of an hour, in all outputs; reading it ends the lag."""
    environment = dict(os.environ, MILLSTREAM_BOOTSTRAP=broker.bootstrap)
    port = Port(broker)

    def millstream(*words, text=None):
        done = subprocess.run([binary(), *words], input=text, capture_output=True, text=True, timeout=60, env=environment)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    hour_ago = int(time.time() * 1000) - 3_600_000
    port.call("create_topic", None, {"name": "late", "partitions": 1})
    # All in one batch, so that the record's own timestamp must be found in it.
    lines = "".join(json.dumps({"value": str(n), "timestamp_ms": hour_ago + n * 600_000}) + "\n" for n in range(4))
    millstream("produce", "late", "--format", "json", "--compression", "zstd", text=lines)

    def seen():
        page = port.ask("GET", "/metrics")[2].splitlines()
        sample = lambda name: float(next(line for line in page if line.startswith(f'{name}{{group="g",topic="late"}}')).split()[-1])  # noqa: E731
        from_http = port.call("group", "g")[1]
        from_kafka = json.loads(millstream("group", "describe", "g", "--output", "json"))
        return [(sample("millstream_group_lag_records"), sample("millstream_group_lag_seconds")),
                (from_http["lag_records"], from_http["lag_seconds"]), (from_kafka["lag_records"], from_kafka["lag_seconds"])]

    for offset, records, age in [(0, 4, 3_600), (1, 3, 3_000), (3, 1, 1_800), (4, 0, 0)]:
        port.call("reset_group", "g", {"topic": "late", "to": {"offset": offset}})
        for found in seen():
            late_by = found[1] - age
            assert found[0] == records and (0 <= late_by < 60 if records else found[1] == 0), f"at {offset}: {found}"
    return "metrics, HTTP and command line agree"


def failing_flush_is_reported(_broker):
    """A failing flush is logged with its reason, and readiness has a warning; both end when it recovers."""
    with Broker(settings={"memtable.bytes": str(1 << 20)}) as broker:
        port = Port(broker)
        tables = broker.data_dir / "tables"
        aside = tables.with_name("tables-aside")
        write = lambda: subprocess.run([binary(), "produce", "kept", "--create", "--bootstrap", broker.bootstrap], timeout=60,  # noqa: E731
                                       input=("x" * 1023 + "\n") * 4096, text=True, check=True, capture_output=True)
        failing = lambda: "millstream_flush_failing 1" in port.ask("GET", "/metrics")[2].splitlines()  # noqa: E731
        tables.rename(aside)
        try:
            write()
            deadline = time.monotonic() + 30
            while not failing():
                assert time.monotonic() < deadline, "it is never reported"
                time.sleep(0.05)
            status, _, text = port.ask("GET", "/health/ready")
            assert status == 200 and text.startswith("ready\nwarning: ") and "No such file" in text, f"{status} {text}"
        finally:
            aside.rename(tables)
        while failing():
            assert time.monotonic() < deadline, "it never ends"
            time.sleep(0.05)
        assert port.ask("GET", "/health/ready")[2] == "ready\n"
        logged = [line for line in broker.log_path.read_text().splitlines() if "flush failed; retrying" in line]
        assert len(logged) == 1 and "No such file" in logged[0], logged
        assert "flush recovered" in broker.log_path.read_text()
