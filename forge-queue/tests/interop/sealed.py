"""The application again, as a program that has the host's key of seals."""

import json
import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "clients/python"))
GOLDEN = json.loads((ROOT / "clients/python/golden/seal.json").read_text())
os.environ["FORGE_SEAL_KEY"] = GOLDEN["seal_key"]

import forge_seal  # noqa: E402
from app import *  # noqa: E402, F403

ANA = forge_seal.Context(
    forge_seal.Principal("acme", "ana", "analyst", security_level="confidential", compliance_flags=("gdpr", "hipaa")),
    case_id="Case-7",
    session_id="s.1",
    on_behalf_of="bo",
)
GLOBEX = forge_seal.Principal("globex", "gil", "analyst")


def who(context=ANA):
    """A context as `rs.who` answers it."""
    p = context.principal
    fields = {"tenant": p.tenant, "employee": p.employee, "role": p.role, "user": p.user}
    fields |= {"security_level": p.security_level, "compliance_flags": list(p.compliance_flags)}
    fields |= {"request": context.request_id, "case": context.case_id, "session": context.session_id}
    return fields | {"on_behalf_of": context.on_behalf_of, "trace": context.trace}


def seen(request):
    """What came with a task beside its arguments."""
    return {"header": getattr(request, "x-test", None), "stamp": (request.stamps or {}).get("x-stamp")}


@app.task(name="py.pass")
def hand_on(value):
    return value


@app.task(name="py.again", bind=True, default_retry_delay=0)
def again(self, so_far=()):
    """Tries again until it was tried twice; gives what it saw in each try."""
    if self.request.retries == 0:
        raise self.retry()
    return [*so_far, seen(self.request)]


@app.task(name="py.held", bind=True, default_retry_delay=0)
def held(self):
    """The context of its seal, after a retry."""
    forge_seal.context_of(self.request)
    if self.request.retries == 0:
        raise self.retry()
    return who(forge_seal.context_of(self.request))


@app.task(name="py.forward", bind=True)
def forward(self, value):
    """Asks Rust who it is, as whoever asked here."""
    context = forge_seal.context_of(self.request)
    with allow_join_result():
        return forge_seal.apply_async(sig("rs.who", value), principal=context, queue="acme.default").get(timeout=20)
