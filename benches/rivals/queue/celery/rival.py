"""Celery, measured. The command line, after the pool, and the line that it prints are those of `benches/rivals/README.md`.

    rival.py solo|threads|prefork enqueue|consume|latency REDIS_URL N CONCURRENCY

It has no bulk: `enqueue` calls one by one through one producer, in CONCURRENCY threads. The worker runs as its command line starts
it, without gossip, mingle and heartbeats, which only cost.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import redis

HERE = Path(__file__).parent
TICKS = os.sysconf("SC_CLK_TCK")


def main():
    pool, mode, url, n, concurrency = sys.argv[1:]
    os.environ["RIVAL_REDIS_URL"] = url
    run = {"enqueue": enqueue, "consume": consume, "latency": latency}[mode]
    counted, seconds, cpu, waited = run(pool, int(n), int(concurrency))
    waited.sort()
    at = lambda percent: waited[len(waited) * percent // 100] if waited else None
    line = {"rival": f"celery {pool}", "mode": mode, "n": counted, "concurrency": int(concurrency), "seconds": seconds}
    line |= {"per_second": counted / seconds, "cpu_seconds": cpu, "p50_ms": at(50), "p99_ms": at(99)}
    print(json.dumps(line))


def enqueue(_pool, n, concurrency):
    from app import producer

    def send(first):
        with producer.producer_or_acquire() as pooled:
            for i in range(first, n, concurrency):
                producer.send_task("rival.noop", (i,), producer=pooled)

    threads = [threading.Thread(target=send, args=(first,)) for first in range(concurrency)]
    began, cpu = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return n, time.perf_counter() - began, time.process_time() - cpu, []


def consume(pool, n, concurrency):
    with worker(pool, concurrency) as (results, pid):
        first = wait_for(results, 1, 0.002)
        began, cpu = time.perf_counter(), cpu_seconds(pid)
        # rarely enough that the counting does not count
        wait_for(results, n, 0.02)
        return n - first, time.perf_counter() - began, cpu_seconds(pid) - cpu, []


def latency(pool, n, concurrency):
    from app import producer

    with worker(pool, concurrency) as (results, pid), producer.producer_or_acquire() as pooled:
        send = lambda: producer.send_task("rival.waited_ms", (time.time(),), producer=pooled)
        send()
        wait_for(results, 1, 0.02)
        results.flushdb()
        began, cpu = time.perf_counter(), time.process_time() + cpu_seconds(pid)
        for i in range(n):
            time.sleep(max(0, began + i / 20 - time.perf_counter()))
            send()
        wait_for(results, n, 0.02)
        seconds, cpu = time.perf_counter() - began, time.process_time() + cpu_seconds(pid) - cpu
        return n, seconds, cpu, [json.loads(text)["result"] for text in results.mget(results.keys())]


@contextlib.contextmanager
def worker(pool, concurrency):
    """A worker, as a connection to the results that it stores and its process id."""
    from app import RESULTS

    options = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "ERROR"]
    command = [sys.executable, "-m", "celery", "-A", "app", "worker", "-P", pool, "-c", str(concurrency), *options]
    # what it says is kept for whoever looks why a run failed
    child = subprocess.Popen(command, cwd=HERE, stdout=sys.stderr, env=dict(os.environ, C_FORCE_ROOT="1"))
    try:
        yield redis.Redis.from_url(RESULTS), child.pid
    finally:
        child.send_signal(signal.SIGQUIT)
        try:
            child.wait(3)
        except subprocess.TimeoutExpired:
            child.kill()


def wait_for(results, n, every):
    while (stored := results.dbsize()) < n:
        time.sleep(every)
    return stored


def cpu_seconds(pid):
    """CPU time of a process and its live descendants."""
    total, waiting = 0.0, [pid]
    while waiting:
        pid = waiting.pop()
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += (int(fields[11]) + int(fields[12])) / TICKS
        for task in Path(f"/proc/{pid}/task").iterdir():
            waiting += (task / "children").read_text().split()
    return total


main()
