"""What the runs come to: medians with their range, side by side, written between the markers of docs/performance.md."""
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import time

from peers import Kafka, cache_dir
from broker import binary

ROOT = pathlib.Path(__file__).resolve().parents[1]
NAMES = {"millstream": "Millstream", "kafka": "Kafka 4.3.1"}
LOAD = ["records_per_s", "mib_per_s", "user_ms_per_mib", "system_ms_per_mib", "cpu_ms_per_mib", "cpu_us_per_record", "rss_peak_mib"]
LATENCY = ["mean_ms", "p50_ms", "p99_ms", "p999_ms", "max_ms", "user_us_per_record", "system_us_per_record", "cpu_us_per_record"]
CLIENT = ["records_per_s", "mib_per_s", "cpu_us_per_record", "client_cpu_us_per_record"]
CLIENT_LOADS = {"1k": "1 KiB", "100b": "100 B", "1k-lz4": "1 KiB, lz4"}
TITLES = {
    "records_per_s": "records/s", "mib_per_s": "MiB/s", "user_ms_per_mib": "user CPU ms/MiB", "system_ms_per_mib": "system CPU ms/MiB",
    "client_cpu_us_per_record": "client CPU µs/record", "cpu_ms_per_mib": "CPU ms/MiB", "cpu_us_per_record": "CPU µs/record", "user_us_per_record": "user CPU µs/record",
    "system_us_per_record": "system CPU µs/record", "rss_peak_mib": "peak resident MiB", "rss_mib": "resident MiB", "mean_ms": "mean ms", "p50_ms": "p50 ms",
    "p95_ms": "p95 ms", "p99_ms": "p99 ms", "p999_ms": "p99.9 ms", "max_ms": "max ms", "ready_s": "exec to ready s", "stop_s": "SIGTERM to exit s",
    "cpu_s": "CPU s until then", "idle_core_percent": "idle CPU, % of a core", "partitions": "partitions", "create_s": "create until all have a leader s",
    "create_cpu_s": "CPU s of that", "added_mib": "added resident MiB", "added_bytes_per_partition": "added bytes per partition",
    "files": "open files", "first_load_records_per_s": "first load, records/s", "first_load_cpu_us_per_record": "first load, CPU µs/record",
    "first_load_p99_ms": "first load, p99 ms", "first_load_rss_peak_mib": "first load, peak resident MiB", "restart_s": "restart s",
    "restart_after_kill_s": "restart after kill -9 s", "restart_after_kill_cpu_s": "CPU s of that",
}
GROUPS = {
    "load": [("produce-1k", "produce 1 KiB, acks=all", LOAD), ("produce-1k-synced", "produce 1 KiB, Kafka configured to sync", LOAD),
             ("produce-100b", "produce 100 B, acks=all", LOAD), ("consume", "consume with a group", LOAD), ("read-all", "fetch, assigned partitions", LOAD)],
    "client": [(f"client-{verb}-{name}", f"{verb} {load}", CLIENT) for verb in ("produce", "consume") for name, load in CLIENT_LOADS.items()],
    "latency": [("fixed-rate", "5,000 records/s, one at a time", LATENCY), ("fixed-rate-synced", "the same, Kafka configured to sync", LATENCY),
                ("end-to-end", "produce to consume, one record at a time", LATENCY)],
    "footprint": [("start", "empty data", ["ready_s", "cpu_s", "rss_mib", "stop_s"]), ("idle", "after the load tests", ["idle_core_percent", "rss_mib"])],
    "partitions": [("partitions", "one topic of many partitions", [
        "partitions", "create_s", "create_cpu_s", "added_mib", "added_bytes_per_partition", "idle_core_percent", "files", "first_load_records_per_s",
        "first_load_cpu_us_per_record", "first_load_p99_ms", "first_load_rss_peak_mib", "stop_s", "restart_s", "restart_after_kill_s", "restart_after_kill_cpu_s"])],
}


def _output(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, cwd=ROOT, stdin=subprocess.DEVNULL).stdout.strip()
    except OSError:
        return "unknown"


def about(args):
    """Where, with what and how this session measures."""
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s*(\d+)", pathlib.Path("/proc/meminfo").read_text())
    folder = _output("df", "--output=fstype", str(cache_dir())).split()
    java = subprocess.run(["java", "-version"], capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL).stderr.split("\n", 1)[0]
    return {
        "date": time.strftime("%Y-%m-%d"), "cpu": f"{os.cpu_count()} × {cpu[1] if cpu else 'unknown'}", "memory_gib": round(int(memory[1]) / 2**20),
        "kernel": platform.release(), "file_system": folder[-1] if folder else "unknown", "java": java,
        "kafka": "4.3.1, " + Kafka.HEAP, "millstream": _output(binary(), "--version"), "commit": _output("git", "describe", "--always", "--dirty"),
        "rounds": args.rounds, "quick": args.quick, "note": args.note, "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def load(path):
    """The sessions of a results file as one: the newest description, every row of that session."""
    about_it, rows = {}, []
    for line in path.read_text().splitlines():
        row = json.loads(line)
        if "session" in row:
            about_it, rows = row["session"], []
        elif "still_s" not in row:
            rows.append(row)
    return about_it, rows


def _number(value):
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.0f}"


def _values(rows, case, peer, key):
    return [row[key] for row in rows if row["case"] == case and row["peer"] == peer and row.get(key) is not None and "failed" not in row]


def _cell(values):
    if not values:
        return "–"
    middle = _number(statistics.median(values))
    return middle if len(values) == 1 or min(values) == max(values) else f"{middle} ({_number(min(values))}–{_number(max(values))})"


def _ratio(ours, theirs):
    if not ours or not theirs or not statistics.median(theirs):
        return "–"
    return f"{statistics.median(ours) / statistics.median(theirs):.2f}"


def table(rows, group):
    """One Markdown table: a line per figure, median (min–max)."""
    lines = ["| what | figure | Millstream | Kafka 4.3.1 | ratio |", "| --- | --- | --- | --- | --- |"]
    for case, title, keys in GROUPS[group]:
        for key in keys:
            ours, theirs = _values(rows, case, "millstream", key), _values(rows, case, "kafka", key)
            if ours or theirs:
                ratio = "–" if key == "partitions" else _ratio(ours, theirs)
                lines.append(f"| {title} | {TITLES[key]} | {_cell(ours)} | {_cell(theirs)} | {ratio} |")
                title = ""
    return "\n".join(lines) if len(lines) > 2 else "Not measured in the last session."


def session(about_it):
    words = {"cpu": "CPU", "memory_gib": "memory, GiB", "kernel": "kernel", "file_system": "file system", "java": "Java", "kafka": "Kafka", "millstream": "Millstream",
             "commit": "commit", "date": "date", "rounds": "rounds", "note": "state"}
    lines = ["| | |", "| --- | --- |"]
    return "\n".join(lines + [f"| {title} | {about_it[key]} |" for key, title in words.items() if about_it.get(key)])


def commands(rows):
    """The command of each case, once; the broker's address and the topic's number are what differs between runs."""
    found = {}
    for row in rows:
        if "command" in row:
            found.setdefault(row["case"], re.sub(r"^\S*/millstream(?= )", "millstream", row["command"].replace(str(ROOT) + "/", "")))
    return "\n".join(["```sh"] + [f"# {case}\n{command}" for case, command in found.items()] + ["```"])


def failures(rows):
    return "\n".join(f"- {row['case']}, {NAMES[row['peer']]}, round {row['round']}: {row['failed'].splitlines()[0][:160]}" for row in rows if "failed" in row)


def write(path, about_it, rows):
    """Replaces what is between the markers; what is written by hand stays."""
    parts = {group: table(rows, group) for group in GROUPS} | {"session": session(about_it), "commands": commands(rows)}
    text = path.read_text()
    for name, part in parts.items():
        pattern = re.compile(rf"(<!-- measured: {name} -->\n).*?(<!-- /measured -->)", re.DOTALL)
        if not pattern.search(text):
            raise SystemExit(f"{path}: no markers for {name}")
        failed = failures(rows) if name == "session" else ""
        text = pattern.sub(lambda match: match[1] + part + "\n" + (f"\nRuns that failed:\n\n{failed}\n" if failed else "") + match[2], text)
    path.write_text(text)


def summary(rows):
    return "\n\n".join(f"{group}\n{table(rows, group)}" for group in GROUPS)
