"""Connections: whom to trust, where not to follow, and how long to wait."""

from __future__ import annotations

import queue
import ssl
import threading
import urllib.request
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from coldframe.errors import ConfigError

T = TypeVar("T")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: the key would be sent on to wherever it leads."""

    def redirect_request(self, *_: Any) -> None:
        """Follow nothing."""


def opener_for(verify: bool | str | Path) -> urllib.request.OpenerDirector:
    """Opens addresses and follows no redirect.

    Args:
        verify: Whom to trust over https: the system's authorities, those of a file (PEM), or (False) anybody.

    Raises:
        ConfigError: The file cannot be read.
    """
    return urllib.request.build_opener(_NoRedirect(), urllib.request.HTTPSHandler(context=_trusting(verify)))


def _trusting(verify: bool | str | Path) -> ssl.SSLContext:
    """Whom to trust over https."""
    if verify is True:
        return _trusting_the_system()
    try:
        context = ssl.create_default_context(cafile=None if isinstance(verify, bool) else str(verify))
    except OSError as error:  # SSLError is one
        raise ConfigError(f"Cannot read the authorities in {verify}", got=error, expected="a file in PEM") from None
    if verify is False:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


@cache
def _trusting_the_system() -> ssl.SSLContext:
    """Made once: reading all authorities takes some 30 ms, and every client of a process trusts the same ones."""
    return ssl.create_default_context()


def within(seconds: float, work: Callable[[], T]) -> T:
    """What a piece of work gives, or TimeoutError: a server that sends a byte now and then holds nobody.

    The thread is left to itself; what it reads has an end.
    """
    box: queue.SimpleQueue[tuple[T | None, Exception | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            box.put((work(), None))
        except Exception as error:
            box.put((None, error))

    threading.Thread(target=run, name="coldframe request", daemon=True).start()
    try:
        value, error = box.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    return value  # type: ignore[return-value]  # there is one where there is no error
