"""A small client for servers that speak OpenAI's protocol: requests with patience, and errors in words."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import socket
import ssl
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Container, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from coldframe.errors import ConfigError, DataError, ModelError, nearest
from coldframe.inference.connection import opener_for, within
from coldframe.reports.numbers import plural

T = TypeVar("T")

_TRANSIENT = frozenset({408, 409, 429, 500, 502, 503, 504, 529})
_LONGEST_PAUSE = 120.0  # seconds, whatever a server asks for
MAX_BODY = 64 << 20  # bytes of an answer
_UNREACHABLE = (OSError, http.client.HTTPException)  # URLError, time-outs and broken connections among them
_NOBODY_THERE = (ConnectionRefusedError, socket.gaierror, ssl.SSLCertVerificationError)


class Refusal(ModelError):
    """The server will not do what it was asked, and would not if it were asked again."""


class TooLarge(DataError):
    """A request is larger than it may be; nothing was sent."""

    def __init__(self, size: int, most: int) -> None:
        super().__init__("A request is too large", got=f"{size:,} bytes", expected=f"at most {most:,}")


class Client:
    """Requests to one server and model.

    Rate limits (429), server errors and broken connections are tried again after 1, 2, 4, ... waits, or after as
    long as the server asks for. An address where nobody ever answered is not waited for.

    Args:
        url: Up to and with the version: ``http://localhost:8000/v1``.
        model: As the server names it.
        api_key: Sent as a bearer token, and shown nowhere.
        timeout: Seconds for one answer, from the first byte sent to the last one received.
        retries: Further attempts.
        wait: Seconds before the first of them.
        verify: Whom to trust over https: the system's authorities, those of a file (PEM), or (False) anybody.
        max_request: Bytes of a request, at most.

    Raises:
        ConfigError: The address, the key or the file of authorities cannot be right.
    """

    def __init__(
        self,
        url: str,
        model: str,
        api_key: str | None,
        *,
        timeout: float = 60.0,
        retries: int = 5,
        wait: float = 1.0,
        verify: bool | str | Path = True,
        max_request: int = MAX_BODY,
    ) -> None:
        self.max_request = max_request
        self.url, self.model, self.timeout, self.retries, self.wait = url.rstrip("/"), model, timeout, retries, wait
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError("Not the address of a server", got=repr(url), expected="such as http://localhost:8000/v1")
        if parts.username or parts.password or parts.query:
            raise ConfigError("The address holds more than an address", fix="Pass a key as api_key.")
        self._key = (api_key or "").strip()
        if not self._key.isascii() or any(letter.isspace() for letter in self._key):
            raise ConfigError("The API key has letters that no key has", fix="Check what you copied.")
        self._opener = opener_for(verify)
        self._reached = self._new_names = False

    def post(
        self, route: str, body: Mapping[str, Any], stop: threading.Event | None = None, refusals: Container[int] = ()
    ) -> dict[str, Any]:
        """Ask, and ask again if that may help.

        Args:
            route: Below the address, such as ``"completions"``; with a slash before it, below the host.
            body: Goes out as JSON, with the model's name.
            stop: Once it is set, nothing is tried again.
            refusals: Statuses that count as a refusal although they might pass.

        Raises:
            Refusal: The server says no to this request.
            ModelError: The server cannot be reached, wants another key, has no such model, or keeps failing.
        """
        data = json.dumps({"model": self.model, **body}).encode()
        return self._ask(route, data, stop or threading.Event(), refusals)

    def get(self, route: str) -> dict[str, Any]:
        """What the server says under a route, see :meth:`post`."""
        return self._ask(route, None, threading.Event())

    def stream(self, route: str, body: Mapping[str, Any]) -> Generator[dict[str, Any]]:
        """The events of an answer as they come (server-sent events); a closed iterator closes the connection.

        Nothing is asked again once the answer has begun, and ``timeout`` counts for each event.

        Raises:
            ModelError: As for :meth:`post`; or what comes is no event.
        """
        data = json.dumps({"model": self.model, "stream": True, **body}).encode()
        response = self._attempts(route, data, threading.Event(), self._opened)
        read = 0
        with contextlib.closing(response):
            while True:
                try:
                    line: bytes = within(self.timeout, lambda: response.readline(MAX_BODY))
                except _UNREACHABLE as error:
                    raise self._silence(getattr(error, "reason", None) or error) from None
                read += len(line)
                name, _, event = line.partition(b":")
                if not line or event.strip() == b"[DONE]":
                    return
                if name == b"data":
                    yield self._parsed(event if read <= MAX_BODY else bytes(MAX_BODY + 1))

    def chat(self, prompt: str, generation: Mapping[str, Any], stop: threading.Event | None = None) -> str:
        """What the model writes to a message, see :meth:`post`.

        Newer servers call ``max_tokens`` otherwise; that is found out by the first refusal and remembered.
        """
        messages = [{"role": "user", "content": prompt}]
        settings = self._renamed(generation)
        try:
            reply = self.post("chat/completions", {"messages": messages, **settings}, stop)
        except Refusal as error:
            if self._new_names or "max_completion_tokens" not in f"{error.problem} {error.got}":
                raise
            self._new_names = True
            reply = self.post("chat/completions", {"messages": messages, **self._renamed(generation)}, stop)
        try:
            content = reply["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            content = reply
        if content is None or isinstance(content, str):
            return content or ""
        raise ModelError(f"{self.url} gave no answer", got=self.shown(reply))

    def shown(self, reply: object) -> str:
        """The beginning of an answer, to be quoted in an error: without the key."""
        return self._hidden(repr(reply))[:200]

    def _renamed(self, generation: Mapping[str, Any]) -> dict[str, Any]:
        names = {"max_tokens": "max_completion_tokens"} if self._new_names else {}
        return {names.get(name, name): value for name, value in generation.items()}

    def _ask(
        self, route: str, data: bytes | None, stop: threading.Event, refusals: Container[int] = ()
    ) -> dict[str, Any]:
        return self._parsed(self._attempts(route, data, stop, self._exchange, refusals))

    def _attempts(
        self,
        route: str,
        data: bytes | None,
        stop: threading.Event,
        exchange: Callable[[urllib.request.Request], tuple[int, Any, float]],
        refusals: Container[int] = (),
    ) -> Any:
        """What ``exchange`` gives of an answer with status 200."""
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "coldframe"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        if len(data or b"") > self.max_request:
            raise TooLarge(len(data or b""), self.max_request)
        host = "{0.scheme}://{0.netloc}".format(urllib.parse.urlsplit(self.url))
        request = urllib.request.Request(host + route if route[:1] == "/" else f"{self.url}/{route}", data, headers)
        attempt = 0
        while True:
            pause = self.wait * 2**attempt * random.uniform(0.75, 1.25)
            try:
                status, body, wanted_pause = within(self.timeout, lambda: exchange(request))
                self._reached = True
                if status == 200:
                    return body
                words = self._words(body) or http.client.responses.get(status, "no reason")
                if status not in _TRANSIENT or status in refusals:
                    raise self._refusal(status, words, route)
                times = plural(self.retries + 1, "time")
                problem = ModelError(f"{self.url}/{route} answered {status} {times}", got=words)
                pause = wanted_pause or pause
            except _UNREACHABLE as error:
                reason = getattr(error, "reason", None) or error
                problem = self._silence(reason)
                if not self._reached and isinstance(reason, _NOBODY_THERE):
                    raise problem from None
            if attempt == self.retries or stop.wait(min(pause, _LONGEST_PAUSE)):
                raise problem
            attempt += 1

    def _exchange(self, request: urllib.request.Request) -> tuple[int, bytes, float]:
        """Status and body of the answer, and for how many seconds the server asks for patience."""
        status, response, pause = self._opened(request)
        if status != 200:
            return status, response, pause
        with response:
            return 200, response.read(MAX_BODY + 1), 0.0

    def _opened(self, request: urllib.request.Request) -> tuple[int, Any, float]:
        """As :meth:`_exchange`, with an answer that is still to be read; of an error the body."""
        try:
            return 200, self._opener.open(request, timeout=self.timeout), 0.0
        except urllib.error.HTTPError as error:
            body = b""
            with error, contextlib.suppress(*_UNREACHABLE):  # the status says enough
                body = error.read(4096)
            return error.code, body, _asked_for(error.headers.get("Retry-After"))

    def _silence(self, reason: object) -> ModelError:
        if isinstance(reason, TimeoutError):
            problem = f"{self.url} did not answer within {self.timeout:g} seconds"
            return ModelError(problem, fix="Pass a longer timeout.")
        got = self._hidden(str(reason))[:300] or type(reason).__name__
        return ModelError(f"Cannot connect to {self.url}", got=got, fix="Check the address, and that the server runs.")

    def _parsed(self, body: bytes) -> dict[str, Any]:
        if len(body) > MAX_BODY:
            raise ModelError(f"{self.url} answers without end", got=f"more than {MAX_BODY >> 20} MB")
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            got = repr(self._hidden(body[:4096].decode("latin-1"))[:80])
            raise ModelError(f"{self.url} does not answer in JSON", got=got)
        return answer

    def _refusal(self, status: int, words: str, route: str) -> ModelError:
        if status in (401, 403):
            fix = "Pass another api_key." if self._key else "Pass an api_key."
            return ModelError(f"{self.url} does not let you in ({status})", got=words, fix=fix)
        if status == 404 and self.model in words and route != "models":
            known = self._models()
            fix = nearest(self.model, known) if known else "Ask the server for its models."
            return ModelError(f"{self.url} has no model {self.model!r}", got=words, fix=fix)
        if 300 <= status < 400:
            return ModelError(f"{self.url} sends elsewhere ({status})", fix="Pass the address that it leads to.")
        return Refusal(f"{self.url}/{route} answered {status}", got=words)

    def _models(self) -> Sequence[str]:
        try:
            return [str(model["id"]) for model in self.get("models")["data"]]
        except (ModelError, KeyError, TypeError):
            return []

    def _words(self, body: bytes) -> str:
        """What the server says about an error, without the key."""
        text = body.decode("utf-8", "replace")
        with contextlib.suppress(ValueError, RecursionError):
            inner = json.loads(text)
            inner = inner.get("error", inner) if isinstance(inner, dict) else inner
            text = str(inner.get("message", inner) if isinstance(inner, dict) else inner)
        return " ".join(self._hidden(text).split())[:300]

    def _hidden(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def _asked_for(header: str | None) -> float:
    """Seconds in a Retry-After header; 0 if there are none (it may also be a date)."""
    try:
        return max(0.0, float(header or 0))
    except ValueError:
        return 0.0
