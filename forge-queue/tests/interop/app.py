"""The Python half of the tests: tasks `py.*` that a worker of Celery serves, and signatures of the tasks `rs.*` that Rust serves."""

import os
import time

import celery
from celery.result import allow_join_result

URL = os.environ["BROKER_URL"]

app = celery.Celery("app", broker=URL, backend=URL)
app.conf.update(
    broker_transport_options={
        "global_keyprefix": "{t}:",
    },
    result_backend_transport_options={"global_keyprefix": "{t}:"},
    task_routes={"py.*": {"queue": "pyq"}, "rs.*": {"queue": "rsq"}, "both.*": {"queue": "both"}},
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
)


def sig(name, *args, **options):
    """A task by its name: Python knows nothing else of those in Rust."""
    return app.signature(name, args=args, options=options)


@app.task(name="py.add")
def add(a, b):
    return a + b


@app.task(name="py.tsum")
def tsum(numbers):
    return sum(numbers)


@app.task(name="py.fail")
def fail(*args):
    raise ValueError("bad thing")


@app.task(name="py.errback")
def errback(failed):
    return failed


@app.task(name="py.asks")
def asks(a, b):
    with allow_join_result():
        return sig("rs.add", a, b).delay().get(timeout=20) * 100


@app.task(name="both.add")
def both_add(a, b):
    return ["python", a + b]


@app.task(name="both.python")
def both_python():
    return "python"


@app.task(name="both.slow")
def both_slow():
    app.backend.client.set("{t}:slow-has-begun", 1)
    time.sleep(600)
