"""Start times with many partitions and with data, after a clean stop and after kill -9."""
import time

from broker import Broker
from load import Load, check
from wire import Wire, eventually

TOPIC = "many"


def led(broker, partitions):
    with Wire(broker.bootstrap, 30) as wire:
        leaders = wire.metadata(TOPIC)[TOPIC]
        return len(leaders) == partitions and min(leaders.values()) >= 0


def start_seconds(broker, partitions):
    started = time.monotonic()
    broker.start(120)
    eventually(lambda: led(broker, partitions), "all partitions have leaders", 60)
    return time.monotonic() - started


def restart(partitions, records, value_bytes, seconds_max):
    with Broker() as broker:
        with Wire(broker.bootstrap, 60) as wire:
            wire.create_topic(TOPIC, partitions)
        load = Load(broker.bootstrap, TOPIC, partitions, per_second=40_000, value_bytes=value_bytes).start()
        load.wait_for(records, 300)
        broker.kill()
        killed = start_seconds(broker, partitions)
        load.wait_for(partitions, 60)
        load.stop(drain_seconds=60)
        code, stopping = broker.stop()
        assert code == 0, f"exit {code}"
        clean = start_seconds(broker, partitions)
        note = check(load, broker.bootstrap)
        assert max(killed, clean) <= seconds_max, f"after kill -9 {killed:.2f} s, after a stop {clean:.2f} s, at most {seconds_max}"
        return f"after kill -9 {killed:.2f} s, stop {stopping:.2f} s, after it {clean:.2f} s; {note}"


def run(report, scale, _control):
    for partitions, records, value_bytes, seconds_max in scale([(1000, 60_000, 1000, 5)], [(1000, 1_000_000, 1000, 5), (10_000, 2_000_000, 1000, 15)]):
        report.case(f"restart with {partitions} partitions, {records * value_bytes >> 20} MiB", restart, partitions, records, value_bytes, seconds_max)
