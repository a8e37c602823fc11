"""A Celery worker with tools of the real LlamaIndex."""

import json
import os
import pathlib
import sys

CLIENTS = pathlib.Path(__file__).parents[2] / "clients/python"
sys.path.insert(0, str(CLIENTS))
os.environ["FORGE_SEAL_KEY"] = json.loads((CLIENTS / "golden/seal.json").read_text())["seal_key"]

import celery  # noqa: E402
import forge_llamaindex  # noqa: E402
from llama_index.core.tools import FunctionTool  # noqa: E402

URL = os.environ["BROKER_URL"]
app = celery.Celery("tools", broker=URL, backend=URL)
app.conf.update(
    broker_transport_options={"global_keyprefix": "{t}:"},
    result_backend_transport_options={"global_keyprefix": "{t}:"},
    broker_connection_retry_on_startup=True,
)


def weather(city: str, days: int = 1) -> dict:
    """The weather of a city."""
    return {"city": city, "sky": ["clear"] * days}


def nowhere(city: str) -> str:
    """Fails."""
    raise ValueError(f"no such city: {city}")


def unlucky() -> str:
    """Is never reached."""
    app.backend.client.incr("{t}:tries")
    raise ConnectionError("the far side is away")


def whoami() -> dict:
    """For whom it works."""
    context = forge_llamaindex.context()
    who = context.principal
    return {
        "tenant": who.tenant,
        "employee": who.employee,
        "role": who.role,
        "compliance_flags": list(who.compliance_flags),
        "request": context.request_id,
    }


forge_llamaindex.serve(app, [FunctionTool.from_defaults(f) for f in (weather, nowhere, unlucky, whoami)], base_delay=0.05)
