"""Addresses of PostgreSQL servers: what settings, artifacts and errors may hold of them, and where passwords stay."""

from __future__ import annotations

import re
from urllib.parse import unquote

VARIABLE = "COLDFRAME_INDEX_URL"

_SECRET = re.compile(r"(?<![\w])((?:ssl)?password)\s*=\s*('(?:[^'\\]|\\.)*'|[^\s&]*)&?", re.IGNORECASE)
_whole: dict[str, str] = {}  # this process's addresses with their passwords, by those without


def without_password(url: str) -> str:
    """The address without its password, which this process remembers for :func:`with_password`.

    Another process takes it from PGPASSWORD, from ~/.pgpass, or with the whole address from COLDFRAME_INDEX_URL.

    Example:
        >>> without_password("postgresql://ann:secret@db.example/stores?sslmode=require")
        'postgresql://ann@db.example/stores?sslmode=require'
        >>> without_password("host=db.example user=ann password='se cret' dbname=stores")
        'host=db.example user=ann dbname=stores'
    """
    stripped = url
    if "://" in url:
        head, _, rest = url.partition("://")
        user, at, place = rest.rpartition("@")  # the last one: a password may hold whatever it likes
        stripped = f"{head}://{user.partition(':')[0]}{at}{place}"
    stripped = re.sub(r"\s{2,}", " ", _SECRET.sub("", stripped)).strip().rstrip("?&")
    if stripped != url:
        _whole[stripped] = url
    return stripped


def with_password(url: str) -> str:
    """The address with its password, if this process was told one."""
    return _whole.get(url, url)


def secrets_of(url: str) -> set[str]:
    """What no message may hold of an address: its passwords, as they stand there and decoded, and their parts."""
    values = [match[2].strip("'") for match in _SECRET.finditer(url)]
    if "://" in url:
        values.append(url.partition("://")[2].rpartition("@")[0].partition(":")[2])
    whole = {text for value in values for text in (value, unquote(value)) if text}
    return whole | {part for text in whole for part in re.split(r"[@:/?#&\s]", text) if len(part) > 2}
