"""Who may use which adapter, and how often."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import ipaddress
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from coldframe.config import Config, check
from coldframe.errors import ConfigError
from coldframe.serving.gateway.problems import HttpProblem

ADMIN_KEY, API_KEY = "COLDFRAME_ADMIN_KEY", "COLDFRAME_API_KEY"
"""Variables of the environment that hold a key for the administrator, and one for every adapter."""

_SHORTEST = 16
_DIGEST = "sha256:"


def digest(key: str) -> str:
    """What is kept of a key: its SHA-256. ``env:NAME`` is a variable of the environment, ``sha256:...`` a digest.

    >>> digest("a key that is long enough")[:14], digest(digest("a key that is long enough"))[:14]
    ('sha256:8954b7c', 'sha256:8954b7c')
    """
    if key.startswith(_DIGEST):
        check(len(key) == len(_DIGEST) + 64, "A digest of a key has 64 hexadecimal digits", got=len(key) - len(_DIGEST))
        return key.lower()
    if key.startswith("env:"):
        name = key.removeprefix("env:")
        if not (key := os.environ.get(name, "")):
            raise ConfigError(f"The variable {name} holds no key", fix=f"Set {name}, or take the entry out.")
    check(len(key) >= _SHORTEST, "A key is too short to be safe", got=f"{len(key)} characters", expected=_SHORTEST)
    return _DIGEST + hashlib.sha256(key.encode()).hexdigest()


def _digests(keys: Any) -> tuple[str, ...]:
    keys = [keys] if isinstance(keys, str) else keys
    check(
        isinstance(keys, list | tuple) and all(isinstance(key, str) for key in keys),
        "Keys are a text or a list of texts",
        got=type(keys).__name__,
    )
    return tuple(digest(key) for key in keys)


@dataclasses.dataclass(frozen=True)
class Limits(Config):
    """Keys and limits of one adapter; None takes what holds for all.

    Args:
        keys: Who holds one of these may use it: texts, ``env:NAME`` or ``sha256:DIGEST``. Only digests are kept.
        requests_per_minute: Of each key; without keys, of all clients together.
        inputs_per_request: At most so many.
    """

    section = "limits of an adapter"
    at_least = {"requests_per_minute": 1, "inputs_per_request": 1}
    plain = {"keys": _digests}

    keys: tuple[str, ...] = ()
    requests_per_minute: int | None = None
    inputs_per_request: int | None = None


@dataclasses.dataclass(frozen=True)
class Access(Config):
    """Keys and limits of a gateway.

    Args:
        admin: Keys that may change adapters and their stores; nobody may without one.
        keys: Keys for every adapter.
        requests_per_minute: Of each key and adapter; None has no limit.
        inputs_per_request: At most so many.
        adapters: :class:`Limits` by the name of an adapter.

    Example:
        >>> access = Access.from_dict({"adapters": {"bbb": {"keys": ["a key of 16 signs"], "requests_per_minute": 60}}})
        >>> access.of("bbb").requests_per_minute, access.of("other").inputs_per_request
        (60, 256)
    """

    section = "access file"
    at_least = {"requests_per_minute": 1, "inputs_per_request": 1}
    plain = {"admin": _digests, "keys": _digests}

    admin: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    requests_per_minute: int | None = None
    inputs_per_request: int = 256
    adapters: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        limits = {}
        for name, values in self.adapters.items():
            check(
                isinstance(values, Mapping | Limits), f"The limits of {name!r} are a mapping", got=type(values).__name__
            )
            limits[str(name)] = values if isinstance(values, Limits) else Limits.from_dict(values)
        object.__setattr__(self, "adapters", limits)
        whole = {name: self._whole(own) for name, own in limits.items()}
        object.__setattr__(self, "_limits", whole)
        object.__setattr__(self, "_usual", self._whole(Limits()))

    def _whole(self, own: Limits) -> Limits:
        """Limits of an adapter with what holds for all."""
        return dataclasses.replace(
            own,
            keys=(*self.keys, *own.keys),
            requests_per_minute=own.requests_per_minute or self.requests_per_minute,
            inputs_per_request=own.inputs_per_request or self.inputs_per_request,
        )

    @classmethod
    def with_environment(cls, path: str | None = None) -> Access:
        """A file (JSON or YAML) and the keys in ``COLDFRAME_ADMIN_KEY`` and ``COLDFRAME_API_KEY``."""
        access = cls() if path is None else cls.from_file(path)
        admin = [os.environ[ADMIN_KEY]] if os.environ.get(ADMIN_KEY) else []
        keys = [os.environ[API_KEY]] if os.environ.get(API_KEY) else []
        return dataclasses.replace(
            access, admin=(*access.admin, *_digests(admin)), keys=(*access.keys, *_digests(keys))
        )

    def of(self, name: str) -> Limits:
        """What holds for an adapter."""
        limits: Limits = self._limits.get(name, self._usual)  # type: ignore[attr-defined]
        return limits

    @property
    def has_keys(self) -> bool:
        """Whether any client needs a key."""
        return bool(self.keys) or any(limits.keys for limits in self.adapters.values())


def is_local(host: str) -> bool:
    """Whether an address is reached from this machine alone.

    >>> is_local("127.0.0.1"), is_local("localhost"), is_local("0.0.0.0"), is_local("example.org")
    (True, True, False, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_address(host: str, access: Access, allow_unauthenticated: bool) -> bool:
    """Whether every client needs a key, or an error: an outside address without keys is open to anybody.

    Raises:
        ConfigError: The address is not this machine's own, there are no keys, and nobody said that this is meant.
    """
    if is_local(host) or allow_unauthenticated:
        return False
    if not access.has_keys:
        raise ConfigError(
            f"The address {host} can be reached from outside, and there are no keys",
            expected="127.0.0.1, or a key",
            fix=f"Set {API_KEY}, give --access FILE, or say --allow-unauthenticated if anybody may use it.",
        )
    return True


class Gate:
    """Lets requests through, or says why not.

    Args:
        access: Keys and limits.
        every_client: Whether an adapter without keys is open to nobody (True) or to anybody.
        clock: Seconds, for tests.
    """

    def __init__(self, access: Access, every_client: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self.access, self.every_client, self._clock = access, every_client, clock
        self._buckets: dict[tuple[str, str], tuple[float, float]] = {}
        self._lock = threading.Lock()

    def allows(self, name: str, key: str | None) -> bool:
        """Whether whoever holds this key may use an adapter."""
        keys = self.access.of(name).keys
        return not self.every_client if not keys else _among(key, keys)

    def enter(self, name: str, key: str | None, inputs: int) -> None:
        """Count a request.

        Raises:
            HttpProblem: 401 for a wrong key, 413 for too many inputs, 429 for too many requests.
        """
        if not self.allows(name, key):
            raise unknown_key(key)
        limits = self.access.of(name)
        most = limits.inputs_per_request or inputs
        if inputs > most:
            raise HttpProblem(413, "Too many inputs in one request", got=inputs, expected=f"at most {most}")
        if limits.requests_per_minute is not None:
            self._spend(name, "" if key is None or not limits.keys else digest_of(key), limits.requests_per_minute)

    def admin(self, key: str | None) -> None:
        """Let the administrator through.

        Raises:
            HttpProblem: 403 where there is no administrator, 401 for a wrong key.
        """
        if not self.access.admin:
            fix = f"Start the gateway with {ADMIN_KEY}, or with `admin` in the file of --access."
            raise HttpProblem(403, "This gateway has no administrator", fix=fix)
        if not _among(key, self.access.admin):
            raise unknown_key(key)

    def figures(self, key: str | None) -> None:
        """Let whoever reads metrics through: anybody, unless every client needs a key."""
        if self.every_client and not _among(key, (*self.access.keys, *self.access.admin)):
            raise unknown_key(key)

    def _spend(self, name: str, who: str, per_minute: int) -> None:
        """A bucket of ``per_minute`` requests that fills up evenly within a minute."""
        now = self._clock()
        with self._lock:
            left, then = self._buckets.get((name, who), (float(per_minute), now))
            left = min(float(per_minute), left + (now - then) * per_minute / 60)
            if left < 1:
                wait = (1 - left) * 60 / per_minute
                expected = f"{per_minute} a minute"
                raise HttpProblem(429, "Too many requests", expected=expected, retry_after=wait)
            self._buckets[name, who] = (left - 1, now)


def digest_of(key: str) -> str:
    """The digest of a key that came with a request."""
    return _DIGEST + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def unknown_key(key: str | None) -> HttpProblem:
    """The refusal of a request with a wrong key, or with none."""
    if key is None:
        return HttpProblem(401, "This needs a key", fix="Send the header 'Authorization: Bearer KEY'.")
    return HttpProblem(401, "The key is not one that may do this", fix="Check the key.")


def _among(key: str | None, digests: Iterable[str]) -> bool:
    """Whether a key is one of these; takes as long whichever it is."""
    if key is None:
        return False
    own = digest_of(key)
    return any([hmac.compare_digest(own, known) for known in digests])
