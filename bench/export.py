"""A session of bench/run in the form that `millstream bench report` reads (docs/benchmarks.md): figures without their
course over time, which Kafka's tools do not tell."""
import json
import time

from tables import NAMES

FORMAT = "millstream-bench/1"
HIGHER = ("records_per_s", "mib_per_s")
# Figures that `millstream bench` has too have its names.
SAME = {"records_per_s": "records_per_second", "mib_per_s": "mib_per_second", "cpu_us_per_record": "broker_cpu_per_record",
        "client_cpu_us_per_record": "client_cpu_per_record", "mean_ms": "latency_mean",
        "p50_ms": "latency_p50", "p95_ms": "latency_p95", "p99_ms": "latency_p99", "p999_ms": "latency_p99.9", "max_ms": "latency_max"}
# What differs from run to run, and says nothing about the broker.
NO_FIGURES = ("case", "peer", "round", "at", "command", "failed", "seconds", "records", "mib", "errors", "partitions", "still_s", "other_cpu_s")
UNITS = {"records_per_s": "records/s", "mib_per_s": "MiB/s", "ms_per_mib": "ms/MiB", "us_per_record": "us", "bytes_per_partition": "bytes", "percent": "%", "mib": "MiB",
         "ms": "ms", "s": "s", "files": "files"}


def _unit(key):
    return next((unit for ending, unit in UNITS.items() if key == ending or key.endswith(f"_{ending}")), "")


def _figure(key, value):
    return {"name": SAME.get(key, key), "value": value, "unit": _unit(key), "better": "higher" if key.endswith(HIGHER) else "lower"}


def _result(session, started_ms, row):
    figures = [_figure(key, value) for key, value in row.items() if key not in NO_FIGURES and isinstance(value, (int, float)) and value >= 0]
    cores, _, processor = session.get("cpu", "").partition(" × ")
    case, version = (row["case"], session.get("millstream")) if row["case"].startswith("client-") else (f"{row['case']} (Kafka's tools)", "Kafka's own tools, 4.3.1")
    return {
        "format": FORMAT, "case": case, "label": NAMES.get(row["peer"], row["peer"]), "started_ms": started_ms,
        "machine": {"cpu": processor or None, "cores": int(cores) if cores.isdigit() else None,
                    "memory_bytes": session["memory_gib"] << 30 if "memory_gib" in session else None, "system": f"linux {session.get('kernel', '')}".strip()},
        "client": {"version": version},
        "broker": {"bootstrap": "127.0.0.1", "nodes": 1, "cluster_id": None, "commit": session.get("commit") if row["peer"] == "millstream" else None},
        "parameters": {"partitions": row["partitions"]} if "partitions" in row else {},
        "figures": figures, "latency": None, "rate": None,
        "cpu": {"client_seconds": row.get("client_cpu_s"), "broker_seconds": row["user_s"] + row["system_s"] if "user_s" in row else None},
    }


def write(path, session, rows):
    """Writes a line for each run that did not fail; how many."""
    day = session.get("date", "1970-01-01")
    good = [row for row in rows if "failed" not in row]
    started = [int(time.mktime(time.strptime(f"{day} {row['at']}", "%Y-%m-%d %H:%M:%S")) * 1000) for row in good]
    path.write_text("".join(json.dumps(_result(session, at, row)) + "\n" for at, row in zip(started, good)))
    return len(good)
