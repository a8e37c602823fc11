# SPDX-License-Identifier: MIT OR Apache-2.0
"""Serves tools of LlamaIndex to Forge: the Celery task ``execute_llamaindex_tool``.

::

    from llama_index.core.tools import FunctionTool
    import forge_llamaindex

    app = celery.Celery("tools", broker="redis://…", backend="redis://…")
    forge_llamaindex.serve(app, [FunctionTool.from_defaults(weather)])

and ``celery -A tools worker -Q acme-tools``. Forge decides, audits and meters each call; here it is carried out. The answer has the fields of
LlamaIndex's ``ToolOutput``. What a tool raises is an answer with ``is_error``; what is worth trying again (:data:`TRANSIENT`) is tried again, three
times, and then a failure of the task.

With ``FORGE_SEAL_KEY`` set (see ``forge_seal.py``) a task without a seal of that host's is refused, and :func:`context` says for whom a tool works.
Without it, whoever can write to the queue can call the tools.
"""

from __future__ import annotations

import contextvars
import os
import random
from typing import Any, Iterable, Mapping, Optional

import forge_seal

__all__ = ["TASK", "TRANSIENT", "context", "serve"]

TASK = "execute_llamaindex_tool"
#: What is tried again.
TRANSIENT: tuple[type[BaseException], ...] = (ConnectionError, TimeoutError)
RETRIES = 3

_context: contextvars.ContextVar[Optional[forge_seal.Context]] = contextvars.ContextVar("forge", default=None)


def context() -> Optional[forge_seal.Context]:
    """For whom the running tool works, as its seal says; nothing where no key is set."""
    return _context.get()


def serve(app: Any, tools: Iterable[Any], *, key: forge_seal.Key = None, base_delay: float = 1.0) -> Any:
    """Registers the task for these tools (``FunctionTool`` or any ``BaseTool``) and returns it. Pauses between tries double from
    ``base_delay`` seconds to a minute, with full jitter."""
    known = {tool.metadata.name: tool for tool in tools}
    sealed = key is not None or bool(os.environ.get(forge_seal.KEY_VARIABLE))

    @app.task(name=TASK, bind=True, max_retries=RETRIES)
    def execute(self: Any, tool_name: str, params: Mapping[str, Any]) -> dict[str, Any]:
        token = _context.set(forge_seal.context_of(self.request, key=key) if sealed else None)
        try:
            return _call(known, tool_name, params)
        except TRANSIENT as e:
            pause = random.uniform(0, min(60.0, base_delay * 2**self.request.retries))
            raise self.retry(exc=e, countdown=pause)
        finally:
            _context.reset(token)

    return execute


def _call(known: Mapping[str, Any], tool_name: str, params: Mapping[str, Any]) -> dict[str, Any]:
    tool = known.get(tool_name)
    if tool is None:
        return _answer(tool_name, params, f"no tool is served by this name: {tool_name}", None, True)
    try:
        output = tool.call(**params)
    except TRANSIENT:
        raise
    except Exception as e:
        return _answer(tool_name, params, f"{type(e).__name__}: {e}", None, True)
    return _answer(output.tool_name, params, output.content, output.raw_output, output.is_error)


def _answer(tool_name: str, params: Mapping[str, Any], content: str, raw_output: Any, is_error: bool) -> dict[str, Any]:
    return {
        "content": content,
        "tool_name": tool_name,
        "raw_input": dict(params),
        "raw_output": _plain(raw_output),
        "is_error": bool(is_error),
    }


def _plain(value: Any) -> Any:
    """As JSON; what is none as the text that LlamaIndex shows of it."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return str(value)
