"""The tasks of the Celery rival. Results are kept, in a database of their own, so that they can be counted."""

import os
import time

from celery import Celery

BROKER = os.environ["RIVAL_REDIS_URL"]
RESULTS = BROKER.rsplit("/", 1)[0] + "/1"

app = Celery("rival", broker=BROKER, backend=RESULTS)
app.conf.update(broker_connection_retry_on_startup=True, worker_hijack_root_logger=False)

# a producer that waits for nothing: with a backend, every call would first subscribe to its own result
producer = Celery("producer", broker=BROKER)


@app.task(name="rival.noop")
def noop(i):
    return None


@app.task(name="rival.waited_ms")
def waited_ms(at):
    return (time.time() - at) * 1e3
