"""Interleaves the rivals and ours, round by round, on a Redis of its own, and prints the tables. `scripts/rivals.sh queue` calls it.

Beside each run it reads what Redis itself used (INFO cpu). A rival fills its queue by its own `enqueue`, so each `consume` is also a
sample of that. `latency` takes its 200 samples in the first round alone.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import redis

HERE = Path(__file__).parent
TIMEOUT = 120
LATENCY_N = 200


@dataclass
class Contestant:
    name: str
    command: list
    # how many times --n, so that each runs about as long
    share: float = 1.0
    # concurrency of `enqueue`, and the name that its row goes by
    enqueue: int = 1
    enqueues_as: str = ""
    consume: tuple = ()
    latency: tuple = ()
    # milliseconds after which an idle worker looks again, where it does not wait on Redis; its own default without
    poll_ms: int | None = None
    # of `enqueue` where nothing consumes
    fills_only: bool = False


def contestants(built, ours):
    celery = [built / "celery/bin/python", HERE / "celery/rival.py"]
    apalis = [built / "cargo/release/rival-apalis"]
    asynq = [built / "bin/asynq"]
    found = [
        Contestant("raw LPUSH, pipeline 100", [built / "cargo/release/rival-raw"], share=20, fills_only=True),
        Contestant("celery solo", [*celery, "solo"], 0.3, 1, "celery", (1,), (1,)),
        Contestant("celery threads", [*celery, "threads"], 0.3, 1, "celery", (2, 16), (2,)),
        Contestant("celery prefork", [*celery, "prefork"], 0.3, 1, "celery", (2,), (2,)),
        Contestant("bullmq", ["node", built / "bullmq/rival.mjs"], consume=(1, 20, 100), latency=(20,)),
        Contestant("asynq", asynq, enqueue=100, consume=(1, 20, 100), latency=(20,)),
        Contestant("asynq, poll 10 ms", asynq, latency=(20,), poll_ms=10),
        # not more than 7000 at once: its fetch unpacks every waiting id on Lua's stack, and above that its worker ends
        Contestant("apalis", apalis, consume=(1, 100)),
        # its default is 30 s
        Contestant("apalis, poll 10 ms", apalis, latency=(100,), poll_ms=10),
    ]
    if ours:
        # with the argument that `cargo bench` gives
        found.insert(0, Contestant("ours", [ours, "--bench"], 4, 1, "", (1, 2, 16, 20, 100), (1, 20)))
    return found


def main():
    parser = argparse.ArgumentParser(prog="scripts/rivals.sh queue")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--n", type=int, default=5000, help="tasks of a run; slow rivals take a part, fast ones a multiple")
    parser.add_argument("--built", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--ours", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not 0 < options.n <= 7000:
        parser.error("--n must be 1 to 7000: a worker of apalis ends at a longer queue")
    # whoever ends this ends Redis and the rival with it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with server() as (url, broker):
        print(f"redis {broker.info('server')['redis_version']}, {os.cpu_count()} CPUs, {options.rounds} rounds, --n {options.n}\n")
        bench = Bench(url, broker, options.n)
        entrants = contestants(options.built.resolve(), options.ours)
        for round_ in range(options.rounds):
            bench.calibrate(round_ + 1)
            # whoever runs after whom changes from round to round
            for contestant in entrants if round_ % 2 == 0 else reversed(entrants):
                bench.round(contestant, with_latency=round_ == 0)
        bench.calibrate("end")
    (options.built / "queue.jsonl").write_text("".join(json.dumps(line) + "\n" for line in bench.lines))
    print_tables(bench.samples)
    if not options.ours:
        print("\nOURS IS LEFT OUT: benches/queue.rs is not there, so there are no ratios")
    for failure in bench.failures:
        print(f"\nFAILED: {failure}", file=sys.stderr)
    sys.exit(bool(bench.failures))


@dataclass
class Bench:
    url: str
    broker: redis.Redis
    n: int
    # (mode, name, concurrency) to the lines of the runs
    samples: dict = field(default_factory=lambda: defaultdict(list))
    lines: list = field(default_factory=list)
    failures: list = field(default_factory=list)

    def round(self, contestant, with_latency):
        n = max(1, int(self.n * contestant.share))
        if contestant.fills_only:
            self.run(contestant, "enqueue", n, contestant.enqueue)
        for concurrency in contestant.consume:
            if self.run(contestant, "enqueue", n, contestant.enqueue):
                self.run(contestant, "consume", n, concurrency, keep=True)
        if with_latency:
            for concurrency in contestant.latency:
                self.run(contestant, "latency", LATENCY_N, concurrency)

    def run(self, contestant, mode, n, concurrency, keep=False):
        """Whether it went well; `keep` leaves what is queued."""
        if not keep:
            self.broker.flushall()
        env = {k: v for k, v in os.environ.items() if k != "RIVAL_POLL_MS"}
        if contestant.poll_ms:
            env["RIVAL_POLL_MS"] = str(contestant.poll_ms)
        command = [*map(str, contestant.command), mode, self.url, str(n), str(concurrency)]
        name = contestant.enqueues_as or contestant.name if mode == "enqueue" else contestant.name
        before = self.redis_seconds()
        try:
            out = finish(command, env)
            line = json.loads(out.splitlines()[-1])
        except (subprocess.SubprocessError, OSError, ValueError, IndexError) as error:
            self.failures.append(f"{name}, {mode}, concurrency {concurrency}: {error}")
            return False
        line |= {"rival": name, "redis_us": (self.redis_seconds() - before) / n * 1e6}
        line["cpu_us"] = line["cpu_seconds"] / line["n"] * 1e6
        self.samples[mode, name, concurrency].append(line)
        self.lines.append(line)
        return True

    def redis_seconds(self):
        used = self.broker.info("cpu")
        return used["used_cpu_user"] + used["used_cpu_sys"]

    def calibrate(self, label):
        """The speed of the machine at this moment, by two loops that do not change."""
        self.broker.flushall()
        port = self.broker.connection_pool.connection_kwargs["port"]
        loop = ["redis-benchmark", "-p", str(port), "-t", "lpush", "-P", "16", "-d", "700", "-n", "100000", "--csv"]
        rate = float(finish(loop, os.environ).splitlines()[-1].split(",")[1].strip('"'))
        wall, cpu = time.perf_counter(), time.thread_time()
        for _ in range(5_000_000):
            pass
        wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
        load = os.getloadavg()[0]
        text = f"calibration {label}: redis-benchmark LPUSH -P 16 {rate:,.0f}/s; CPU loop {wall * 1e3:.0f} ms, {cpu * 1e3:.0f} ms of CPU"
        print(f"{text}; load {load:.1f}", flush=True)


def finish(command, env):
    """What a command printed. Whatever it started ends with it."""
    child = subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        out, err = child.communicate(timeout=TIMEOUT)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    if child.returncode:
        raise subprocess.SubprocessError(f"ended with {child.returncode}: {err.strip()[-500:]}")
    return out


@contextlib.contextmanager
def server():
    """A Redis that keeps nothing, on a free port, as its URL and a connection."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as directory:
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", directory]
        child = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
        try:
            broker = redis.Redis(port=port)
            deadline = time.monotonic() + 10
            while True:
                try:
                    broker.ping()
                    break
                except redis.ConnectionError:
                    if child.poll() is not None or time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)
            yield f"redis://127.0.0.1:{port}/0", broker
        finally:
            child.terminate()
            child.wait()


def print_tables(samples):
    ours = {(mode, concurrency): lines for (mode, name, concurrency), lines in samples.items() if name == "ours"}
    ratios = " ours : rival, rate | client CPU | Redis CPU |" if ours else ""
    for mode in ("enqueue", "consume"):
        print(f"\n{mode}: tasks/s on the wall, best and median of the runs; CPU of the cheapest run\n")
        print("| rival | concurrency | best /s | median /s | client CPU-s | client µs/task | Redis µs/task |" + ratios)
        print("|---|--:|--:|--:|--:|--:|--:|" + "--:|--:|--:|" * bool(ours))
        for (of, name, concurrency), lines in samples.items():
            if of != mode:
                continue
            rate, cpu, broker = best(lines)
            cells = [name, concurrency, f"{rate:,.0f}", f"{median(line['per_second'] for line in lines):,.0f}"]
            cells += [f"{min(line['cpu_seconds'] for line in lines):.2f}", f"{cpu:,.1f}", f"{broker:,.1f}"]
            if ours:
                cells += compared(ours, mode, name, concurrency, (rate, cpu, broker))
            print("| " + " | ".join(map(str, cells)) + " |")
    print(f"\nlatency: from enqueue to the start of user code, 20 tasks/s, {LATENCY_N} tasks\n")
    print("| rival | concurrency | p50 ms | p99 ms | client µs/task | Redis µs/task |")
    print("|---|--:|--:|--:|--:|--:|")
    for (of, name, concurrency), lines in samples.items():
        if of == "latency":
            for line in lines:
                cells = [f"{line[key]:,.2f}" for key in ("p50_ms", "p99_ms")] + [f"{line[key]:,.0f}" for key in ("cpu_us", "redis_us")]
                print(f"| {name} | {concurrency} | " + " | ".join(cells) + " |")


def best(lines):
    return (max(line["per_second"] for line in lines), *(min(line[key] for line in lines) for key in ("cpu_us", "redis_us")))


def compared(ours, mode, name, concurrency, figures):
    """How many times better we are, at the rival's concurrency, or at the one of ours that is nearest. Above 1 we win."""
    nearest = min((c for of, c in ours if of == mode), key=lambda c: abs(c - concurrency), default=None)
    if name == "ours" or nearest is None:
        return ["", "", ""]
    (rate, *costs), (their_rate, *their_costs) = best(ours[mode, nearest]), figures
    ratios = [rate / their_rate, *(theirs / cost if cost else float("inf") for cost, theirs in zip(costs, their_costs))]
    return [f"{ratio:.2f}" for ratio in ratios]


main()
