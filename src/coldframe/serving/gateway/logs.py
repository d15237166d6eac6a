"""Logs as one JSON object a line: what happened, to which adapter, how long it took. No users' text and no keys."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from typing import Any

LOGGER = logging.getLogger("coldframe.gateway")


class JsonLines(logging.Formatter):
    """A record as JSON; of an exception its class and where it came from, for its message may hold a user's text."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {"time": f"{moment}.{int(record.msecs):03d}Z", "level": record.levelname.lower()}
        # What other libraries say may quote a request; their own words are its template.
        line["event"] = record.getMessage() if record.name == LOGGER.name else str(record.msg)[:200]
        line |= getattr(record, "facts", {})
        if record.exc_info and record.exc_info[1] is not None:
            line |= failure(record.exc_info[1])
        return json.dumps(line, ensure_ascii=False)


def failure(error: BaseException) -> dict[str, Any]:
    """The class of an exception and the lines that it came through, without its message."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    places = [f"{frame.filename.rpartition('site-packages/')[2]}:{frame.lineno}" for frame in frames]
    return {"error": type(error).__name__, "at": places}


def event(name: str, level: int = logging.INFO, **facts: Any) -> None:
    """Log something that happened."""
    LOGGER.log(level, name, extra={"facts": facts})


def configure(level: str = "INFO") -> None:
    """Send our lines and uvicorn's to standard error, as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in (LOGGER.name, "uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], name == "uvicorn.error"
        logger.setLevel(level if name == LOGGER.name else logging.WARNING)
    for name in (LOGGER.name, "uvicorn"):
        logging.getLogger(name).addHandler(handler)
