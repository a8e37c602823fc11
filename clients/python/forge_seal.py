# SPDX-License-Identifier: MIT OR Apache-2.0
"""Seals tasks for Forge from a Celery program, and opens what Forge sealed for it.

A task in a queue of Forge's runs as whoever its seal names. A program that has the host's key of seals (``FileKeyring::export_seal_key``)
makes such seals itself::

    import forge_seal                       # beside the Celery application: it connects to Celery's signals

    ana = forge_seal.Principal("acme", "ana", "analyst", compliance_flags=("gdpr",))
    add.apply_async((2, 3), queue="acme.default", headers=forge_seal.headers(ana))
    forge_seal.apply_async(add, (2, 3), principal=ana, queue="acme.default")        # the same

    @app.task(bind=True)
    def forward(self, document):
        context = forge_seal.context_of(self.request)       # checked: seal, task, queue, body, time
        forge_seal.apply_async(index, (document,), principal=context, queue="acme.default")

What Celery does with a seal, as tested against 5.7: ``.retry()`` keeps it, and it still holds; the later tasks of a chain, callbacks and the
body of a chord do not get it. :func:`stamp` seals those: it covers the tree's root, the queue and the context, but no body, so Forge takes it
only from queues that are bound to the same tenant.

The key is 32 bytes in base64, in ``FORGE_SEAL_KEY`` or given as ``key=``: bytes, text, or a function that returns either. Whoever has it can
act as anybody, in every tenant of that host: keep it as you keep the host's master key. Nothing here logs it or puts it into an error.

One file for Python 3.9 and later; it needs nothing but the standard library, and Celery where tasks are sent.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import secrets
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any, Callable, Iterable, Mapping, Optional, Union

__all__ = [
    "Context", "Principal", "SealError", "apply_async", "context_of", "headers", "key_id", "open_sealed", "seal", "stamp",
]

#: Where the key is, if none is given.
KEY_VARIABLE = "FORGE_SEAL_KEY"
#: The header that carries a seal.
HEADER = "x-forge-context"
#: How long a seal holds where the task has no ``expires``: a day, in seconds.
LIFETIME = 24 * 3600

Key = Union[bytes, str, Callable[[], Union[bytes, str]], None]

# the digest of a received body, on its way to the task; behind a word of this process and its children, so that no message brings one
_BODY = "x-forge-body"
_HERE = secrets.token_hex(16) + ":"
_TENANT = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
_SLUG = re.compile(r"(?!.*\.\.)[a-z0-9][a-z0-9_.-]{0,63}")
_USER = re.compile(r"(?!.*\.\.)[A-Za-z0-9_.@+-]{1,128}")
_TOKEN = re.compile(r"(?!.*\.\.)[A-Za-z0-9_.-]{1,128}")
_TRACE = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_LEVELS = ("public", "internal", "confidential", "restricted")


class SealError(Exception):
    """A seal that cannot be made, or one that does not hold."""


@dataclass(frozen=True)
class Principal:
    """Who acts, in one tenant. The rules of the fields are Forge's; a wrong one is a :class:`SealError`."""

    tenant: str
    employee: str
    role: str
    user: Optional[str] = None
    security_level: str = "internal"
    compliance_flags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check("tenant", _TENANT, self.tenant)
        _check("employee", _SLUG, self.employee)
        _check("role", _SLUG, self.role)
        _check("user", _USER, self.user, optional=True)
        if self.security_level not in _LEVELS:
            raise SealError("security_level must be one of " + ", ".join(_LEVELS))
        object.__setattr__(self, "compliance_flags", tuple(dict.fromkeys(self.compliance_flags)))
        for flag in self.compliance_flags:
            _check("a compliance flag", _SLUG, flag)

    def _record(self) -> dict[str, Any]:
        record: dict[str, Any] = {"tenant": self.tenant, "employee": self.employee, "role": self.role}
        if self.user is not None:
            record["user"] = self.user
        record["security_level"] = self.security_level
        if self.compliance_flags:
            record["compliance_flags"] = list(self.compliance_flags)
        return record


@dataclass(frozen=True)
class Context:
    """One request of a principal. What is made from a :class:`Principal` alone is a new request."""

    principal: Principal
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    case_id: Optional[str] = None
    session_id: Optional[str] = None
    on_behalf_of: Optional[str] = None
    trace: str = ""

    def __post_init__(self) -> None:
        _check("request_id", _UUID, self.request_id)
        _check("case_id", _TOKEN, self.case_id, optional=True)
        _check("session_id", _TOKEN, self.session_id, optional=True)
        _check("on_behalf_of", _SLUG, self.on_behalf_of, optional=True)
        if not self.trace:
            digest = _digest_of_parts(b"request", uuid.UUID(self.request_id).bytes)
            trace_id = max(int.from_bytes(digest[:16], "big"), 1)
            object.__setattr__(self, "trace", f"00-{trace_id:032x}-{0:016x}-01")
        _check("trace", _TRACE, self.trace)

    def _record(self) -> dict[str, Any]:
        record: dict[str, Any] = {"principal": self.principal._record(), "request_id": self.request_id}
        for name in ("case_id", "session_id", "on_behalf_of"):
            if getattr(self, name) is not None:
                record[name] = getattr(self, name)
        record["trace"] = self.trace
        return record


Acting = Union[Principal, Context]


def headers(principal: Acting, *, key: Key = None, lifetime: float = LIFETIME) -> dict[str, Any]:
    """Headers for ``apply_async`` that become a seal when Celery publishes the task: only then are id, queue and body known.

    They are for one task that is sent to a queue by name. Inside a chain, group or chord use :func:`stamp`: there they do not serialise.
    The seal holds until the task's ``expires``, or for ``lifetime`` seconds from now or from its ``eta``.
    """
    _connect()
    return {HEADER: _AtPublish(_context(principal), _key(key), lifetime)}


def apply_async(
    task: Any, args: Any = None, kwargs: Any = None, *, principal: Acting, key: Key = None, lifetime: float = LIFETIME, **options: Any
) -> Any:
    """``task.apply_async(args, kwargs, **options)``, sealed; ``task`` is a task or a signature of one. Returns Celery's result."""
    more = options.pop("headers", None) or {}
    return task.apply_async(args, kwargs, headers={**more, **headers(principal, key=key, lifetime=lifetime)}, **options)


def stamp(canvas: Any, principal: Acting, queues: Iterable[str], *, key: Key = None, lifetime: float = LIFETIME) -> Any:
    """A copy of a chain, group, chord or signature of which each task carries a seal for these queues; what is stamped already is not again.

    Send it with ``stamp(canvas, …).apply_async()``. The seals cover the root of the tree, which is chosen here, the queue and the context, but
    no body: whoever can read one of the messages can put another task into the same tree. Forge takes them only from a queue that is
    bound to the same tenant, and refuses a task of the tree that comes by another queue than these.
    """
    context, secret = _context(principal), _key(key)
    now = datetime.now(timezone.utc)
    root = str(uuid.uuid4())
    until = now + timedelta(seconds=lifetime)
    stamps = {
        f"{HEADER}:{queue}": json.dumps(_sealed(context, _bound(f"root:{root}", "*", queue, b""), secret, now, until))
        for queue in queues
    }
    canvas = canvas.clone()
    # without a visitor the body of a chord gets no stamps
    canvas.stamp(_visitor(stamps))
    canvas.options["root_id"] = root
    return canvas


def context_of(request: Any, *, key: Key = None) -> Context:
    """The context that the task of this ``self.request`` was sent with: its seal is checked against id, name, queue, body and time.

    A task without a seal, and one whose seal does not hold, is a :class:`SealError`. Import this module where the Celery application is made:
    the digest of the body is taken when the worker receives the message.
    """
    found, digest = getattr(request, HEADER, None), getattr(request, _BODY, None)
    if not found:
        raise SealError("the task has no seal")
    if not isinstance(digest, str) or not digest.startswith(_HERE):
        raise SealError("the body was not seen; import forge_seal where the Celery application is made")
    queue = (request.delivery_info or {}).get("routing_key")
    return open_sealed(found, task_id=request.id, name=request.task, queue=queue, digest=digest[len(_HERE):], key=key)


def seal(
    principal: Acting, *, task_id: str, name: str, queue: str, body: bytes, key: Key = None,
    issued: Optional[datetime] = None, not_after: Optional[datetime] = None,
) -> dict[str, Any]:
    """The value of the header for a message that is made without Celery. ``body`` is the decoded body, before compression."""
    context = _context(principal)
    issued = issued or datetime.now(timezone.utc)
    bound = _bound(_task_id(context.principal.tenant, task_id), name, queue, body)
    return _sealed(context, bound, _key(key), issued, not_after or issued + timedelta(seconds=LIFETIME))


def open_sealed(
    sealed: Union[str, Mapping[str, Any]], *, task_id: str, name: str, queue: Optional[str],
    body: Optional[bytes] = None, digest: Optional[str] = None, key: Key = None, now: Optional[datetime] = None,
) -> Context:
    """Checks a seal and gives its context, or raises :class:`SealError`. ``digest`` is the SHA-256 of the body in hex, for who has no body."""
    secret = _key(key)
    try:
        sealed = json.loads(sealed) if isinstance(sealed, str) else sealed
        text, given = sealed["header"], sealed["seal"]
        key_of_seal, mac = given["key_id"], given["mac"]
        if key_of_seal != key_id(secret):
            raise SealError("the seal is under another key; export the host's key of seals again")
        if not hmac.compare_digest(mac.encode(), _mac(secret, text.encode()).hex().encode()):
            raise SealError("the seal does not fit what it is on")
        header = json.loads(text)
        if header["v"] != 1:
            raise SealError("the seal has a version that this module does not know")
        record = dict(header["context"])
        principal = dict(record.pop("principal"))
        principal["compliance_flags"] = tuple(principal.get("compliance_flags", ()))
        context = Context(Principal(**principal), **record)
        bound, until = header["bound"], header["not_after"]
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        raise SealError("the seal does not parse") from e
    if (bound["id"], bound["name"]) != (_task_id(context.principal.tenant, task_id), name):
        raise SealError("the seal belongs to another task")
    if bound["queue"] != queue:
        raise SealError("the seal belongs to another queue")
    if bound["body"] != (digest or hashlib.sha256(body or b"").hexdigest()):
        raise SealError("the seal belongs to another body")
    if _parse(until) <= (now or datetime.now(timezone.utc)):
        raise SealError("the seal is past its time")
    return context


def key_id(key: Key = None) -> str:
    """Names a key without telling it; the same as in Forge's ``seal_keys``."""
    return _mac(_key(key), b"forge key id").hex()[:16]


class _AtPublish:
    """Stands in the headers until the task is published. It does not serialise: a task is sent with its seal or not at all."""

    def __init__(self, context: Context, key: bytes, lifetime: float) -> None:
        self.context, self.key, self.lifetime = context, key, lifetime

    def __json__(self) -> Any:
        raise SealError("this task cannot be sealed; send one task to a queue by name, and stamp() a chain, group or chord")

    def __repr__(self) -> str:
        return "<a seal of Forge's, made when the task is published>"


def _connect() -> None:
    """Connects to Celery's signals; again is the same."""
    try:
        from celery import signals
    except ImportError as e:
        raise SealError("Celery is not installed; seal() makes seals without it") from e
    signals.before_task_publish.connect(_on_publish, weak=False, dispatch_uid="forge_seal.publish")
    signals.task_received.connect(_on_received, weak=False, dispatch_uid="forge_seal.received")


def _on_publish(headers: dict[str, Any], body: Any, exchange: Any = None, routing_key: str = "", **_: Any) -> None:
    # a retry sends the headers that it came with
    headers.pop(_BODY, None)
    pending = headers.get(HEADER)
    if not isinstance(pending, _AtPublish):
        return
    from kombu.serialization import dumps

    if getattr(exchange, "name", exchange):
        # Celery only logs what a receiver raises; what is left in the headers says why when it does not serialise
        return
    _, _, text = dumps(body, serializer="json")
    now = datetime.now(timezone.utc)
    begins = max(now, _parse(headers["eta"])) if headers.get("eta") else now
    until = _parse(headers["expires"]) if headers.get("expires") else begins + timedelta(seconds=pending.lifetime)
    context = pending.context
    bound = _bound(_task_id(context.principal.tenant, headers["id"]), headers["task"], routing_key, text.encode())
    headers[HEADER] = _sealed(context, bound, pending.key, now, until)
    headers.setdefault("traceparent", context.trace)


def _on_received(request: Any, **_: Any) -> None:
    body = request.body
    text = body.encode() if isinstance(body, str) else bytes(body)
    request.request_dict[_BODY] = _HERE + hashlib.sha256(text).hexdigest()


def _visitor(stamps: dict[str, str]) -> Any:
    from celery.canvas import StampingVisitor

    class Visitor(StampingVisitor):
        def on_signature(self, sig: Any, **headers: Any) -> dict[str, Any]:
            return dict(stamps)

    return Visitor()


def _context(principal: Acting) -> Context:
    context = principal if isinstance(principal, Context) else Context(principal)
    if context.principal.employee.startswith("system."):
        raise SealError("names that begin with `system.` are the host's own")
    return context


def _bound(task_id: str, name: str, queue: str, body: bytes) -> dict[str, str]:
    return {"id": task_id, "name": name, "queue": queue, "body": hashlib.sha256(body).hexdigest()}


def _sealed(context: Context, bound: dict[str, str], key: bytes, issued: datetime, not_after: datetime) -> dict[str, Any]:
    header = {"v": 1, "context": context._record(), "bound": bound, "issued": _rfc3339(issued), "not_after": _rfc3339(not_after)}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False)
    return {"header": text, "seal": {"key_id": key_id(key), "mac": _mac(key, text.encode()).hex()}}


def _task_id(tenant: str, task_id: str) -> str:
    """The id that Forge knows a task by: Celery's own, or one derived from what is no UUID."""
    if _UUID.fullmatch(task_id):
        return task_id
    derived = bytearray(_digest_of_parts(b"celery", tenant.encode(), task_id.encode())[:16])
    # UUIDv8, so that it is never taken for an id that Forge gave
    derived[6], derived[8] = derived[6] & 0x0F | 0x80, derived[8] & 0x3F | 0x80
    return str(uuid.UUID(bytes=bytes(derived)))


def _digest_of_parts(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(len(p).to_bytes(8, "big") + p for p in parts)).digest()


def _mac(key: bytes, text: bytes) -> bytes:
    return hmac.new(key, text, hashlib.sha256).digest()


def _key(key: Key) -> bytes:
    value = key() if callable(key) else os.environ.get(KEY_VARIABLE) if key is None else key
    if value is None:
        raise SealError(f"there is no key: set {KEY_VARIABLE} or give one")
    if isinstance(value, str):
        try:
            value = base64.b64decode(value.strip(), validate=True)
        except ValueError:
            value = b""
    if len(value) != 32:
        raise SealError("the key must be 32 bytes, or their base64")
    return value


def _rfc3339(at: datetime) -> str:
    text = at.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f"{at.microsecond:06}".rstrip("0")
    return f"{text}.{fraction}Z" if fraction else f"{text}Z"


def _parse(text: str) -> datetime:
    """RFC 3339, and what Celery writes; nanoseconds are cut off, and a time without a zone is UTC."""
    text = re.sub(r"(\.\d{1,6})\d*", lambda m: m.group(1).ljust(7, "0"), text.replace("Z", "+00:00"))
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=timezone.utc)


def _check(what: str, rule: re.Pattern[str], value: Any, optional: bool = False) -> None:
    if value is None and optional:
        return
    if not isinstance(value, str) or not rule.fullmatch(value):
        raise SealError(f"{what} does not follow Forge's rule for it")


try:
    _connect()
except SealError:
    # without Celery there is nothing to connect to, and seal() works
    pass
