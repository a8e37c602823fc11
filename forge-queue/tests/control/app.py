"""The application of a Python program beside a worker of Forge's."""

import os
import time

import redis
from celery import Celery

URL = os.environ["BROKER_URL"]
PREFIX = "{t}:"
app = Celery("app", broker=URL, backend=URL)
app.conf.update(
    broker_transport_options={"global_keyprefix": PREFIX},
    result_backend_transport_options={"global_keyprefix": PREFIX},
    broker_connection_retry_on_startup=True,
)
keys = redis.Redis.from_url(URL)


@app.task(name="t.hold")
def hold():
    keys.set("holding", "1")
    while not keys.get("go"):
        time.sleep(0.05)


@app.task(name="t.mark")
def mark(name):
    keys.rpush("marks", name)


def cli(*args):
    """What the command line prints."""
    import contextlib
    import io

    from celery.bin.celery import celery as main

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            main.main(args=["-A", "app", *args], standalone_mode=False)
        except Exception as e:
            # the command line prints it so
            print("Error:", e)
        except SystemExit:
            pass
    return out.getvalue()


def results(*ids):
    """Waits for each task; what its result says."""
    found = {}
    for task_id in ids:
        result = app.AsyncResult(task_id)
        try:
            value = result.get(timeout=20)
        except Exception as e:
            value = repr(e)
        found[task_id] = [result.state, value]
    return found
