"""The task of an artifact, loaded again from where it came."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coldframe.errors import ConfigError, DataError
from coldframe.tasks.load import FILES, load_task
from coldframe.tasks.memory import MEMORY
from coldframe.tasks.options import TaskConfig
from coldframe.tasks.task import Task

_FIX = "name the rows: a file, or a built-in task."


def load_again(origin: Mapping[str, Any]) -> Task:
    """The task that an artifact was fitted to, with the same rows in the same parts.

    Args:
        origin: ``Pipeline.task``: the task's ``options``, and the ``source`` of its bytes.

    Raises:
        ConfigError: The artifact does not say (its task was made by hand, or of rows in memory).
        DataError: The data is not there, or is not what it was.
    """
    options, source = origin.get("options"), origin.get("source", {})
    if not options or MEMORY in (options.get(name) for name in FILES):
        raise ConfigError("The artifact does not say where its task came from", fix=_FIX.capitalize())
    try:
        task = load_task(TaskConfig.from_dict(options))
    except DataError as error:
        raise DataError(
            f"The artifact's own task cannot be loaded: {error.problem}",
            got=error.got,
            fix=f"Run where that path is right, or {_FIX}",
        ) from error
    changed = [name for name, value in task.source.items() if name.endswith("sha256") and source.get(name) != value]
    if changed:
        raise DataError(
            f"{options['data']} is not the data that the artifact was fitted to: other bytes", fix=_FIX.capitalize()
        )
    return task
