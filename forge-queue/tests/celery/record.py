#!/usr/bin/env python3
"""Records messages, results, events and control messages of a real Celery into golden/*.json.

    python record.py      needs celery[redis] in the interpreter's environment and redis-server on the path

Each file is {"celery": version, "key": where it was found, "raw": the text} ("base64" in place of "raw" where it is no text). Names of
the machine and paths of its files are replaced, nothing else.
"""
import base64
import datetime
import decimal
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time
import uuid

import redis
from celery import Celery, __version__, chain, chord, group
from celery.canvas import StampingVisitor

PORT = int(os.environ.get("RECORD_PORT", "0"))
URL = f"redis://127.0.0.1:{PORT}/0"
GOLDEN = pathlib.Path(__file__).parent / "golden"

app = Celery("record", broker=URL, backend=URL)
app.conf.update(
    broker_connection_retry_on_startup=True,
    worker_send_task_events=True,
    worker_hijack_root_logger=False,
    result_extended=os.environ.get("RECORD_EXTENDED") == "1",
    result_compression=os.environ.get("RECORD_COMPRESSION"),
)


class Custom(Exception):
    """An exception with two arguments, one of them no text."""


@app.task(name="t.add")
def add(x, y):
    return x + y


@app.task(name="t.sum")
def total(xs):
    return sum(xs)


@app.task(name="t.err")
def err(task_id):
    return task_id


@app.task(name="t.typed")
def typed(*args, **kwargs):
    return None


@app.task(name="t.boom")
def boom():
    raise ValueError("bad thing")


@app.task(name="t.custom")
def custom():
    raise Custom(42, "custom")


@app.task(name="t.retry", bind=True, max_retries=1)
def retry(self):
    raise self.retry(exc=RuntimeError("again"), countdown=2)


@app.task(name="t.sleep", track_started=True)
def sleep(seconds):
    time.sleep(seconds)


@app.task(name="t.soft", soft_time_limit=1)
def soft():
    time.sleep(5)


@app.task(name="t.progress", bind=True)
def progress(self):
    self.update_state(state="PROGRESS", meta={"cur": 1, "total": 3})
    time.sleep(1)


def clean(raw):
    raw = raw.replace(socket.gethostname(), "vm")
    return re.sub(r'File \\"/[^"]*/([^/"]+)\\"', r'File \\"\1\\"', raw)


def write(name, key, raw):
    entry = {"celery": __version__, "key": key}
    try:
        entry["raw"] = clean(raw.decode())
    except UnicodeDecodeError:
        entry["base64"] = base64.b64encode(raw).decode()
    if raw.startswith(b"\0"):
        entry = {"celery": __version__, "key": key, "base64": base64.b64encode(raw).decode()}
    (GOLDEN / f"{name}.json").write_text(json.dumps(entry, indent=1) + "\n")


def until(what, seconds=20):
    end = time.time() + seconds
    while time.time() < end:
        found = what()
        if found:
            return found
        time.sleep(0.02)
    raise TimeoutError(what)


def queued(r, name, send):
    """What `send` put into the lists of the queues."""
    r.flushdb()
    send()
    number = 0
    for key in sorted(r.keys("*")):
        if r.type(key) != b"list":
            continue
        for raw in reversed(r.lrange(key, 0, -1)):
            number += 1
            write(name if number == 1 else f"{name}-{number}", key.decode(), raw)
    assert number, name
    r.flushdb()


class Tenant(StampingVisitor):
    def on_signature(self, sig, **headers):
        return {"tenant": "acme"}


def envelopes(r):
    now = datetime.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=datetime.timezone.utc)
    stamped = add.s(1, 2)
    stamped.stamp(visitor=Tenant())
    queued(r, "envelope-plain", lambda: add.delay(2, 3))
    queued(r, "envelope-kwargs", lambda: typed.apply_async((2,), {"y": 3.5, "text": "ä€😀'\"\n"}))
    queued(r, "envelope-countdown", lambda: add.apply_async((2, 3), countdown=60))
    queued(r, "envelope-eta", lambda: add.apply_async((2, 3), eta=now))
    queued(r, "envelope-expires", lambda: add.apply_async((2, 3), expires=120))
    queued(r, "envelope-priority", lambda: add.apply_async((2, 3), priority=7, queue="hi"))
    queued(r, "envelope-limits", lambda: add.apply_async((2, 3), time_limit=30, soft_time_limit=2.5))
    queued(r, "envelope-headers", lambda: add.apply_async((2, 3), headers={"x-tenant": "acme"}, shadow="shown", user_id="u"))
    queued(r, "envelope-chain", lambda: chain(add.s(1, 2), add.s(3), add.s(4).set(queue="q2"))())
    queued(r, "envelope-chord", lambda: chord([add.s(1, 1), add.s(2, 2)])(total.s()))
    queued(r, "envelope-link", lambda: add.apply_async((1, 1), link=add.s(10), link_error=err.s()))
    queued(r, "envelope-group", lambda: group(add.s(1, 1), add.s(2, 2))())
    queued(r, "envelope-stamped", lambda: stamped.apply_async())
    queued(r, "envelope-unregistered", lambda: app.send_task("no.such.task", (1,)))
    queued(r, "envelope-gzip", lambda: add.apply_async(("a" * 500, "b"), compression="gzip"))
    queued(r, "envelope-typed", lambda: typed.delay(
        now, now.replace(tzinfo=None), now.date(), now.time(), decimal.Decimal("1.5"), uuid.UUID(int=5), b"by", b"\xff\xfe"))
    app.conf.task_protocol = 1
    del app.amqp.create_task_message
    queued(r, "envelope-protocol1", lambda: add.apply_async((2, 3), link=add.s(10)))
    app.conf.task_protocol = 2
    del app.amqp.create_task_message


def stored(r, name, task_id, status):
    key = f"celery-task-meta-{task_id}"
    magic = b"\0celery-compressed\0"
    raw = until(lambda: (v := r.get(key)) and (v.startswith(magic) or json.loads(v)["status"] == status) and v)
    write(name, key, raw)


def results(r):
    stored(r, "result-success", add.delay(2, 3).id, "SUCCESS")
    stored(r, "result-failure", boom.delay().id, "FAILURE")
    stored(r, "result-failure-custom", custom.delay().id, "FAILURE")
    stored(r, "result-failure-soft", soft.delay().id, "FAILURE")
    stored(r, "result-failure-unregistered", app.send_task("no.such.task").id, "FAILURE")
    stored(r, "result-started", sleep.delay(1).id, "STARTED")
    stored(r, "result-progress", progress.delay().id, "PROGRESS")
    stored(r, "result-expired", add.apply_async((2, 3), expires=-5).id, "REVOKED")
    pending = str(uuid.uuid4())
    app.control.revoke(pending)
    stored(r, "result-revoked", pending, "REVOKED")
    running = sleep.delay(30)
    until(lambda: running.state == "STARTED")
    running.revoke(terminate=True)
    stored(r, "result-terminated", running.id, "REVOKED")
    last = chain(add.s(1, 2), add.s(3))()
    stored(r, "result-parent", last.id, "SUCCESS")
    stored(r, "result-children", last.parent.id, "SUCCESS")
    again = retry.delay()
    stored(r, "result-retry", again.id, "RETRY")
    # until its time comes the worker holds the second message in `unacked`
    held = until(lambda: [v for v in r.hvals("unacked") if again.id.encode() in v])
    write("envelope-retry", "unacked", json.dumps(json.loads(held[0])[0]).encode())


def broadcasts(r):
    listener = r.pubsub()
    listener.psubscribe("/0.*")
    time.sleep(0.2)
    add.delay(2, 3).get(timeout=20)
    app.control.ping(timeout=1)
    app.control.revoke("11111111-1111-1111-1111-111111111111", terminate=True, signal="SIGKILL", destination=["w1@vm"])
    wanted = {"event-heartbeat", "event-task", "control-ping", "control-revoke"}

    def next_one():
        m = listener.get_message(timeout=1)
        if not m or m["type"] != "pmessage":
            return not wanted
        channel, raw = m["channel"].decode(), m["data"]
        body = json.loads(base64.b64decode(json.loads(raw)["body"]))
        if channel.endswith("pidbox"):
            name = "control-" + body["method"]
        elif isinstance(body, list):
            name = "event-task" if body[-1]["type"] == "task-succeeded" else ""
        else:
            name = body["type"].replace("worker-", "event-")
        if name in wanted:
            wanted.discard(name)
            write(name, channel, raw)
        return not wanted

    until(next_one)
    # a reply, to a process that is us
    exchange, key = "reply.celery.pidbox", "22222222-2222-2222-2222-222222222222"
    r.sadd(f"_kombu.binding.{exchange}", f"{key}\x06\x16\x06\x16{key}.{exchange}")
    content = {"method": "ping", "arguments": {}, "destination": None, "ticket": "33333333-3333-3333-3333-333333333333",
               "reply_to": {"exchange": exchange, "routing_key": key}}
    r.publish("/0.celery.pidbox", json.dumps({
        "body": base64.b64encode(json.dumps(content).encode()).decode(), "content-encoding": "utf-8",
        "content-type": "application/json", "headers": {"clock": 1, "expires": time.time() + 10},
        "properties": {"delivery_mode": 1, "delivery_info": {"exchange": "celery.pidbox", "routing_key": ""}, "priority": 0,
                       "body_encoding": "base64", "delivery_tag": str(uuid.uuid4())}}))
    write("reply-ping", f"{key}.{exchange}", until(lambda: r.lpop(f"{key}.{exchange}")))


def with_worker(r, record, **environ):
    r.flushdb()
    worker = subprocess.Popen([sys.executable, __file__, "worker"], env={**os.environ, **environ},
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: app.control.ping(timeout=0.5), 60)
        record(r)
    finally:
        worker.terminate()
        worker.wait(30)


def main():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with tempfile.TemporaryDirectory() as work:
        server = subprocess.Popen(["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", work],
                                  stdout=subprocess.DEVNULL)
        try:
            env = {**os.environ, "RECORD_PORT": str(port)}
            subprocess.run([sys.executable, __file__, "record"], env=env, check=True)
        finally:
            server.terminate()
            server.wait(30)


def record():
    r = redis.Redis(port=PORT)
    until(lambda: ping(r))
    GOLDEN.mkdir(exist_ok=True)
    envelopes(r)
    with_worker(r, lambda r: (results(r), broadcasts(r)))
    with_worker(r, lambda r: stored(r, "result-extended", add.delay(2, 3).id, "SUCCESS"), RECORD_EXTENDED="1")
    with_worker(r, lambda r: stored(r, "result-compressed", add.delay(2, 3).id, "SUCCESS"), RECORD_COMPRESSION="gzip")


def ping(r):
    try:
        return r.ping()
    except redis.ConnectionError:
        return False


if __name__ == "__main__":
    if sys.argv[1:] == ["worker"]:
        app.worker_main(["worker", "--hostname", "w1@vm", "--concurrency", "2", "--loglevel", "CRITICAL"])
    elif sys.argv[1:] == ["record"]:
        record()
    else:
        main()
