#!/usr/bin/env python3
"""Compares messages/*.kmsg, field by field, with the message definitions inside the kafka-clients jar.

schema.py JAR    prints every difference, ends with a line "schema: N passed, N failed" (one per message, and one per API key)
It has its own small parser of the notation, so that it does not share a misunderstanding with build/notation.rs.
"""
import json
import pathlib
import sys
import zipfile

MESSAGES = pathlib.Path(__file__).resolve().parents[2] / "messages"
OPEN = 32767
# Versions that Kafka 4 dropped and old clients still send; only the beginning of the range differs.
OLDER = {"CreateTopics": 0, "DeleteTopics": 0}
# Spoken between brokers and controllers only, or gone: no client and no tool sends them.
NOT_FOR_CLIENTS = set("""LeaderAndIsr StopReplica UpdateMetadata ControlledShutdown Vote BeginQuorumEpoch EndQuorumEpoch
    AlterPartition Envelope FetchSnapshot BrokerRegistration BrokerHeartbeat AllocateProducerIds ControllerRegistration
    AssignReplicasToDirs UpdateRaftVoter InitializeShareGroupState ReadShareGroupState WriteShareGroupState
    DeleteShareGroupState ReadShareGroupStateSummary""".split())


def versions(text):
    """(first, last), or None when there are none."""
    if text in (None, "", "none"):
        return None
    if text.endswith("+"):
        return int(text[:-1]), OPEN
    first, _, last = text.partition("-")
    return int(first), int(last or first)


def default_of(word, kind):
    """One spelling for each default."""
    if kind == "records" or word == "null":
        return None
    if word in ("", None):
        return {"bool": False}.get(kind, 0 if kind.startswith(("int", "uint", "float")) else "")
    if word in ("true", "false"):
        return word == "true"
    return int(word, 0) if kind.startswith(("int", "uint")) else float(word) if kind == "float64" else word


def read_notation(path):
    """The file's (api, {message: {...}}); a field is a dict of what the JSON says about one."""
    api, messages, message, open_levels = None, {}, None, []
    for line in path.read_text().splitlines():
        words = line.split("#")[0].split()
        if not words:
            continue
        level = (len(line) - len(line.lstrip())) // 2
        if level == 0:
            if words[0] == "api":
                api = {"name": words[1], "key": int(words[2]), "stable": words[4] if len(words) > 3 else None}
                continue
            name = words.pop(1) if words[0] == "data" else api["name"] + words[0].capitalize()
            message = {"versions": versions(words[1]), "flexible": versions(words[3]), "fields": [], "structs": {}}
            messages[name] = message
            open_levels = [message["fields"]]
            continue
        del open_levels[level:]
        if words[0] == "struct" and level == 1:
            message["structs"][words[1]] = []
            open_levels.append(message["structs"][words[1]])
            continue
        field = {"name": words[0], "type": words[1], "versions": versions(words[2]), "null": None, "tag": None,
                 "tagged": None, "ignorable": False, "fields": []}
        rest, word = words[3:], ""
        while rest:
            option = rest.pop(0)
            if option == "null":
                field["null"] = versions(rest.pop(0))
            elif option == "tag":
                field["tag"], field["tagged"] = int(rest.pop(0)), versions(rest.pop(0))
            elif option == "ignorable":
                field["ignorable"] = True
            elif option == "=":
                word = rest.pop(0)
            else:
                raise ValueError(f"{path}: {line}")
        field["default"] = default_of(word, field["type"])
        open_levels[level - 1].append(field)
        open_levels.append(field["fields"])
    return api, messages


def json_field(field):
    kind = field["type"]
    return {"name": field["name"], "type": kind, "versions": versions(field["versions"]),
            "null": versions(field.get("nullableVersions")), "tag": field.get("tag"),
            "tagged": versions(field.get("taggedVersions")), "ignorable": field.get("ignorable", False),
            "default": default_of(str(field.get("default", "")).lower(), kind),
            "fields": [json_field(inner) for inner in field.get("fields", [])]}


def read_json(jar):
    """All definitions of the jar by name."""
    found = {}
    with zipfile.ZipFile(jar) as archive:
        for name in archive.namelist():
            if name.startswith("common/message/") and name.endswith(".json"):
                text = archive.read(name).decode()
                code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("//"))
                definition = json.loads(code)
                found[definition["name"]] = definition
    return found


def compare_fields(where, ours, theirs, differences):
    names = [field["name"] for field in ours], [field["name"] for field in theirs]
    if names[0] != names[1]:
        differences.append(f"{where}: fields {names[0]}, Kafka has {names[1]}")
        return
    for our, their in zip(ours, theirs):
        path = f"{where}.{our['name']}"
        for what in ("type", "versions", "null", "tag", "tagged", "ignorable", "default"):
            if our[what] != their[what]:
                differences.append(f"{path}: {what} {our[what]}, Kafka has {their[what]}")
        compare_fields(path, our["fields"], their["fields"], differences)


def compare(name, api, ours, theirs):
    """The differences of one message."""
    differences = []
    valid, flexible = versions(theirs["validVersions"]), versions(theirs.get("flexibleVersions"))
    oldest = OLDER.get(api["name"], valid[0]) if api else valid[0]
    if ours["versions"] != (oldest, valid[1]):
        differences.append(f"{name}: versions {ours['versions']}, Kafka has {valid}")
    if ours["flexible"] != flexible:
        differences.append(f"{name}: flexible {ours['flexible']}, Kafka has {flexible}")
    if api and theirs["apiKey"] != api["key"]:
        differences.append(f"{name}: key {api['key']}, Kafka has {theirs['apiKey']}")
    if api and theirs["type"] == "request":
        last = valid[1] - 1 if theirs.get("latestVersionUnstable") else valid[1]
        stable = versions(api["stable"]) or (oldest, valid[1])
        if stable != (oldest, last):
            differences.append(f"{name}: stable {stable}, Kafka's last stable version is {last}")
    compare_fields(name, ours["fields"], [json_field(field) for field in theirs["fields"]], differences)
    common = {struct["name"]: struct["fields"] for struct in theirs.get("commonStructs", [])}
    if sorted(common) != sorted(ours["structs"]):
        differences.append(f"{name}: structs {sorted(ours['structs'])}, Kafka has {sorted(common)}")
    for struct in set(common) & set(ours["structs"]):
        compare_fields(f"{name}:{struct}", ours["structs"][struct], [json_field(f) for f in common[struct]], differences)
    return differences


def main():
    theirs, passed, failed, declared = read_json(sys.argv[1]), 0, 0, set()

    def count(differences):
        nonlocal passed, failed
        passed, failed = passed + (not differences), failed + bool(differences)
        for difference in differences:
            print("FAIL", difference)

    for path in sorted(MESSAGES.glob("*.kmsg")):
        api, messages = read_notation(path)
        for name, ours in messages.items():
            declared.add(name)
            count(compare(name, api, ours, theirs[name]) if name in theirs else [f"{name}: Kafka has no such message"])
    for name, definition in sorted(theirs.items()):
        if definition["type"] == "request" and name.removesuffix("Request") not in NOT_FOR_CLIENTS:
            count([] if name in declared else [f"{name}: not declared, key {definition['apiKey']}"])
    print(f"schema: {passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
