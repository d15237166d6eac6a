"""Around the application: what is too large, too slow or of the wrong kind is refused before anything reads it.

Every request gets an id, a line in the log and a place in the metrics, whatever becomes of it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from coldframe.serving.gateway.logs import event, failure
from coldframe.serving.gateway.metrics import Metrics
from coldframe.serving.gateway.problems import HttpProblem, body_of, status_of
from coldframe.serving.gateway.settings import GatewaySettings

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

NOTE = "coldframe.note"
"""Where a route leaves what log and metrics may know: ``adapter`` (a known name), ``inputs``, ``tokens``."""

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
VERBS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")
_ID = re.compile(r"[A-Za-z0-9-]{8,64}")


class Guard:
    """An ASGI application around another one.

    Args:
        app: Which.
        settings: Limits.
        metrics: Gets a count for every request.
        hosts: Names by which the gateway may be called; any, if None. It keeps pages of other sites, which a browser
            on this machine shows, from asking a gateway without keys under a name that they made point here.
    """

    def __init__(
        self, app: App, settings: GatewaySettings, metrics: Metrics, hosts: Collection[str] | None = None
    ) -> None:
        self.app, self.settings, self.metrics, self.hosts = app, settings, metrics, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status, begun = time.perf_counter(), 500, False
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        sent_id = headers.get("x-request-id", "")
        request_id = sent_id if _ID.fullmatch(sent_id) else secrets.token_hex(8)
        note: dict[str, Any] = {"request": request_id}
        scope[NOTE] = note
        more = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
        more.append((b"x-request-id", request_id.encode()))

        async def answer(message: MutableMapping[str, Any]) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                status, begun = message["status"], True
                message["headers"] = [*message.get("headers", []), *more]
            await send(message)

        try:
            self._check_head(scope, headers)
            await self.app(scope, _replayed(await self._body(scope, headers, receive), receive), answer)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            if not begun:
                await refuse(answer, error, request_id)
            if not isinstance(error, HttpProblem):
                event("failed", logging.ERROR, request=request_id, **failure(error))
        finally:
            self._tell(scope, note, status, time.perf_counter() - started)

    def _check_head(self, scope: Scope, headers: dict[str, str]) -> None:
        host = re.sub(r":\d*$", "", headers.get("host", "")).lower()
        if self.hosts is not None and host not in self.hosts:
            raise HttpProblem(
                421,
                "This gateway has no keys, so it answers only under its own name",
                expected=", ".join(sorted(self.hosts)),
                fix="Give it keys (--access), or start it with --allow-unauthenticated.",
            )
        if scope["method"] in ("POST", "PUT", "PATCH"):
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise HttpProblem(415, "The body is not JSON", got=kind[:80] or "no content type",
                                  expected="application/json")  # fmt: skip

    async def _body(self, scope: Scope, headers: dict[str, str], receive: Receive) -> bytes:
        """The whole body, which has an end and comes in time."""
        most = self.settings.body
        too_large = HttpProblem(413, "The body is too large", expected=f"at most {most:,} bytes")
        length = headers.get("content-length", "")
        if length.isdecimal() and (len(length) > 18 or int(length) > most):
            raise too_large
        if scope["method"] in ("GET", "HEAD") and not length and "transfer-encoding" not in headers:
            return b""
        pieces, size = [], 0
        try:
            async with asyncio.timeout(self.settings.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise HttpProblem(400, "The request ended before its body was there")
                    piece = message.get("body", b"")
                    size += len(piece)
                    if size > most:
                        raise too_large
                    pieces.append(piece)
                    if not message.get("more_body", False):
                        return b"".join(pieces)
        except TimeoutError:
            seconds = f"{self.settings.body_seconds:g} seconds"
            raise HttpProblem(408, "The body did not arrive in time", expected=f"within {seconds}") from None

    def _tell(self, scope: Scope, note: dict[str, Any], status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", None) or "-"  # its template: a path may hold anything
        adapter = note.get("adapter", "-")
        self.metrics.requests.labels(route, adapter, str(status)).inc()
        self.metrics.seconds.labels(route, adapter).observe(seconds)
        if "inputs" in note and status == 200:
            self.metrics.inputs.labels(adapter).inc(note["inputs"])
            self.metrics.tokens.labels(adapter).inc(note.get("tokens", 0))
        level = logging.INFO if status < 500 else logging.WARNING
        verb = scope["method"] if scope["method"] in VERBS else "other"
        facts = {"method": verb, "route": route, "status": status, "ms": round(1000 * seconds, 1)}
        event("request", level, **note, **facts)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body in one piece, and then whatever comes."""
    read = False

    async def replay() -> MutableMapping[str, Any]:
        nonlocal read
        if read:
            return await receive()
        read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def refuse(send: Send, error: Exception, request_id: str) -> None:
    """Answer with an error in words."""
    body = json.dumps(body_of(error, request_id), ensure_ascii=False).encode("utf-8", "replace")
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.encode(), value.encode()) for name, value in extra_headers(error).items()]
    if status_of(error) in (408, 413):
        headers.append((b"connection", b"close"))  # what is left of the body is not read
    await send({"type": "http.response.start", "status": status_of(error), "headers": headers})
    await send({"type": "http.response.body", "body": body})


def extra_headers(error: Exception) -> dict[str, str]:
    """Headers that belong to an error."""
    headers = {}
    if isinstance(error, HttpProblem) and error.retry_after is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after)))
    if status_of(error) == 401:
        headers["www-authenticate"] = "Bearer"
    return headers
