"""One measured run: what a tool says, and what the broker's process used while it ran."""
import contextlib
import fcntl
import json
import os
import pathlib
import re
import resource
import subprocess
import time

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20
NUMBER = r"([\d.]+)"
PRODUCED = re.compile(rf"(\d+) records sent, {NUMBER} records/sec \({NUMBER} MB/sec\), {NUMBER} ms avg latency, {NUMBER} ms max latency, "
                      r"(\d+) ms 50th, (\d+) ms 95th, (\d+) ms 99th, (\d+) ms 99.9th")
END_TO_END = re.compile(rf"Avg latency: {NUMBER} ms.*?50th = (\d+), 99th = (\d+), 99.9th = (\d+)", re.DOTALL)


@contextlib.contextmanager
def alone(path: pathlib.Path):
    """Holds the lock that keeps measured sessions apart."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"another measurement runs (lock {path})") from None
        yield


class Usage:
    """CPU seconds of a process, user and system apart, at one moment."""

    def __init__(self, pid):
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        self.user, self.system = int(fields[11]) / TICKS_PER_S, int(fields[12]) / TICKS_PER_S

    def since(self, before):
        return self.user - before.user, self.system - before.system


def memory_mib(pid):
    """(resident now, highest since the last reset) in MiB."""
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith(("VmRSS", "VmHWM"))}
    return kib["VmRSS"] / 1024, kib["VmHWM"] / 1024


def reset_peak(pid):
    """Makes VmHWM start again from now."""
    pathlib.Path(f"/proc/{pid}/clear_refs").write_text("5")


def machine_busy_s():
    """CPU seconds that the whole machine has been busy."""
    ticks = [int(word) for word in pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / TICKS_PER_S


def parse_producer(text):
    """kafka-producer-perf-test: the last summary, which leaves out warm-up records if there were any."""
    found = PRODUCED.findall(text)
    if not found:
        return {}
    records, rate, mb, mean, longest, p50, p95, p99, p999 = map(float, found[-1])
    return {"records": int(records), "records_per_s": rate, "mib_per_s": mb, "mib": records * mb / rate if rate else 0,
            "mean_ms": mean, "p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "p999_ms": p999, "max_ms": longest}


def parse_consumer(text):
    """kafka-consumer-perf-test: rates of the fetching, without the time that joining the group took."""
    for line in reversed(text.splitlines()):
        fields = [field.strip() for field in line.split(",")]
        if len(fields) >= 10 and re.match(r"\d{4}-\d\d-\d\d", fields[0]):
            return {"records": int(float(fields[4])), "mib": float(fields[2]), "mib_per_s": float(fields[8]), "records_per_s": float(fields[9]),
                    "join_ms": float(fields[6])}
    return {}


def parse_end_to_end(text):
    found = END_TO_END.search(text)
    return {"mean_ms": float(found[1]), "p50_ms": float(found[2]), "p99_ms": float(found[3]), "p999_ms": float(found[4])} if found else {}


def parse_json(text):
    """Our own Java programs print one JSON object; microseconds become milliseconds."""
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            found = json.loads(line)
            for key in [key for key in found if key.endswith("_us")]:
                found[key.removesuffix("_us") + "_ms"] = found.pop(key) / 1000
            return found
    return {}


def parse_bench(text):
    """`millstream bench --output json`: what its client saw. It does not say how many records it read."""
    found = parse_json(text)
    figures = {figure["name"]: figure["value"] for figure in found.get("figures", [])}
    names = {"records_per_s": "records_per_second", "mib_per_s": "mib_per_second", "client_cpu_us_per_record": "client_cpu_per_record"}
    return {key: figures[name] for key, name in names.items() if name in figures}


def run(command, pid, parse, seconds_max, environment=None, size=None):
    """Runs a tool beside the broker `pid`; one flat dictionary. `size` = (records, MiB) where the tool does not say."""
    reset_peak(pid)
    before, busy, children = Usage(pid), machine_busy_s(), resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=seconds_max, env=os.environ | (environment or {}))
        text, code = done.stdout, done.returncode
    except subprocess.TimeoutExpired as slow:
        text, code = (slow.stdout or b"").decode(errors="replace"), "timeout"
    seconds = time.monotonic() - started
    user, system = Usage(pid).since(before)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    client = after.ru_utime + after.ru_stime - children.ru_utime - children.ru_stime
    resident, peak = memory_mib(pid)
    result = {"seconds": round(seconds, 3), "user_s": round(user, 2), "system_s": round(system, 2), "client_cpu_s": round(client, 2),
              "other_cpu_s": round(machine_busy_s() - busy - user - system - client, 2), "rss_mib": round(resident, 1),
              "rss_peak_mib": round(peak, 1), "command": " ".join(map(str, command))} | parse(text)
    if size:
        result["records"], result["mib"] = size
    _per_unit(result, user, system)
    if code != 0 or not result.get("records") or result.get("errors"):
        result["failed"] = f"exit {code}: {text.strip()[-500:]}"
    return result


def _per_unit(result, user, system):
    """Broker CPU per MiB in ms and per record in µs, user and system apart."""
    records, mib = result.get("records"), result.get("mib")
    for name, seconds in (("user", user), ("system", system), ("cpu", user + system)):
        if mib:
            result[f"{name}_ms_per_mib"] = round(seconds * 1e3 / mib, 4)
        if records:
            result[f"{name}_us_per_record"] = round(seconds * 1e6 / records, 4)


def idle_share(pid, seconds):
    """Share of one core that the process uses while nothing is asked of it."""
    before = Usage(pid)
    time.sleep(seconds)
    user, system = Usage(pid).since(before)
    return (user + system) / seconds
