"""Rows of a table to a task: columns, examples, duplicates, splits, labels, leak guard."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

from coldframe.errors import ConfigError, DataError, nearest
from coldframe.tasks import infer
from coldframe.tasks.cells import missing_words
from coldframe.tasks.columns import Columns, table_columns
from coldframe.tasks.duplicates import check_duplicates, class_balance, deduplicate
from coldframe.tasks.examples import ExampleReader
from coldframe.tasks.labels import absent_classes, joined_labels, known_label, one_spelling
from coldframe.tasks.leaks import check_leaks
from coldframe.tasks.metrics import METRICS
from coldframe.tasks.molecules import canonical_smiles, scaffold
from coldframe.tasks.options import Source, TaskConfig
from coldframe.tasks.passages import read_passages
from coldframe.tasks.splits import random_split, scaffold_split, stratified_split
from coldframe.tasks.table import Problems, Table
from coldframe.tasks.task import Domain, Example, Kind, Passage, Schema, Task
from coldframe.tasks.text_metrics import TEXT_METRICS

MAX_MISSING = 0.05
"""Largest share of a benchmark's test rows that another edition of its full data set may lack."""

SAME_SCAFFOLD = 0.1
"""A given test with a smaller share of scaffolds that train has too counts as a scaffold split."""


@dataclasses.dataclass
class _Rows:
    """The rows of a task while it is built."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    store: list[Example] | None
    notes: list[str]
    about: tuple[Example, ...] = ()

    def spell_labels_alike(self, merge: bool) -> list[str]:
        """One spelling for labels that are the same in other letters; returns notes on them."""
        parts = [self.train, self.validation, self.test, self.store or []]
        solved = [row for part in parts for row in part if not isinstance(row, Passage)]
        spelling, notes = one_spelling([row.target for row in solved], merge)
        for part in parts:
            part[:] = [dataclasses.replace(row, target=spelling.get(row.target, row.target)) for row in part]
        return notes

    def sizes(self) -> str:
        return f"{len(self.train):,} train, {len(self.validation):,} validation, {len(self.test):,} test rows"


def build_table(source: Source, config: TaskConfig, problems: Problems, builtin: bool) -> Task:
    """Rows to a task.

    Args:
        source: The rows.
        config: What the user says.
        problems: Gets the rows that cannot be used.
        builtin: The source is pinned by its checksum, so its unreadable rows are known: skipped and counted.
    """
    options, config = config, config.filled(source.defaults)
    columns, guesses = table_columns(config, source.table)
    domain, domain_guess = infer.domain(config, source.table, columns.texts)
    kind, kind_guess = infer.kind(config, source.table, columns.label)
    if domain == "molecules" and len(columns.texts) > 1:
        got = ", ".join(columns.texts)
        raise ConfigError("Molecules are read from one column", got=got, fix="Pass domain='text'.")
    rows = _read(source, config, columns, domain, kind, problems, builtin)
    rows.notes[:0] = source.notes if builtin else [*source.notes, *guesses, *domain_guess, *kind_guess]
    split = _split(rows, config, domain, kind)
    schema, label_notes = _schema(config, source.name, kind, domain, columns, rows.train)
    rows.notes += [] if builtin else label_notes
    if kind == "classification":
        if not builtin:
            rows.notes += _class_notes(rows, schema)
        rows.validation, rows.test = (
            _known(part, schema, problems, config.merge_labels) for part in (rows.validation, rows.test)
        )
        rows.store = None if rows.store is None else _known(rows.store, schema, problems, config.merge_labels)
    for name, part in (("train", rows.train), ("test", rows.test)):
        if not part and not (name == "train" and split == "test"):
            raise DataError(f"{source.name} has no {name} rows", fix="Change the split, or its sizes.")
    rows.notes += [*problems.notes(), f"Split: {split}, seed {config.seed}; {rows.sizes()}."]
    if kind == "classification" and len(schema.labels) <= 20:
        shares = ", ".join(f"{k} {n} ({n / len(rows.test):.0%})" for k, n in class_balance(rows.test).items())
        rows.notes.append(f"Classes in test: {shares}.")
    origin = {**source.table.source}
    for name, table in (("test", source.test), ("store", source.store)):
        if table is not None and not builtin:
            origin |= {f"{name}_{key}": value for key, value in table.source.items()}
    # What was inferred about the columns is fixed, so that new files are read alike.
    if not builtin:
        options = options.replace(text=",".join(columns.texts), label=columns.label, contexts=columns.contexts)
    parts = (tuple(rows.train), tuple(rows.validation), tuple(rows.test))
    store = None if rows.store is None else tuple(rows.store)
    task = Task(schema, *parts, tuple(rows.notes), origin, options.to_dict(), store, rows.about, source.solved)
    return check_leaks(task, config.allow_leaks)


def _read(
    source: Source, config: TaskConfig, columns: Columns, domain: Domain, kind: Kind, problems: Problems, builtin: bool
) -> _Rows:
    """All rows, in the parts that the source gives them; repeated ones dropped or told."""
    table, notes = infer.parts(config, source.table, [*columns.texts, columns.label], problems)
    store: list[Example] | None = None
    about: tuple[Example, ...] = ()
    names: Mapping[str, Sequence[str]] = {}
    if source.store is not None and columns.label not in source.store.columns:
        passages = read_passages(source.store, problems, title=config.title)
        store, about, names = list(passages.passages), passages.questions, passages.names
        notes += passages.notes
    stored = [entry for entry in store or () if isinstance(entry, Passage)]
    reader = ExampleReader(domain, kind, config.raw_smiles, stored, names, config.drop_names)
    read = reader.read(table, columns, source.name, problems)
    parts = {name: [example for example, part in read if part == name] for name in ("validation", "test")}
    train = [example for example, part in read if part in ("", "train")]
    rows = _Rows(train, parts["validation"], parts["test"], store, notes, about)
    if source.store is not None and store is None:
        rows.store = [example for example, _ in reader.read(source.store, columns, f"{source.name}-store", problems)]
    if source.test is not None:
        test_problems = Problems(config.on_error) if builtin else problems
        rows.test = _read_test(source.test, source, reader, columns, test_problems)
        rows.notes += test_problems.notes() if builtin else []
        if source.test_is_part:
            rows.train, taken_out = _take_out(rows.train, rows.test, source.name)
            rows.notes += taken_out
    if reader.own.added:
        rows.store = [*(rows.store or ()), *reader.own.added]
        rows.notes.append(f"The store holds {len(rows.store):,} different passages, which came with the rows.")
    repeats: list[str] = []
    if not builtin:
        read_columns = (*columns.texts, columns.label)
        rows.notes += missing_words({name: [row.values.get(name) for row in table.rows] for name in read_columns})
        rows.notes += rows.spell_labels_alike(config.merge_labels) if kind == "classification" else []
    if config.deduplicate:
        rows.train, repeats = deduplicate(rows.train, reader.written)
    elif kind == "classification":
        rows.train, repeats = check_duplicates(rows.train, None if builtin else problems)
    rows.notes += repeats
    return rows


def _split(rows: _Rows, config: TaskConfig, domain: Domain, kind: Kind) -> str:
    """Hold out test and validation rows where they are not given; returns the kind of the split."""
    split = _kind_of_split(config, domain, kind, bool(rows.test))
    if split == "test":
        rows.train, rows.test = [], rows.train
        return split
    if split != "given":
        size = config.test_size if config.test_size is not None else 0.2
        rows.train, rows.test = cut_rows(rows.train, split, size, config.seed)
    if config.max_train is not None and config.max_train < len(rows.train):
        inner = "stratified" if kind == "classification" else "random"
        _, rows.train = cut_rows(rows.train, inner, config.max_train, config.seed)
        rows.notes.append(f"Kept {len(rows.train):,} training rows (max_train).")
    if config.validation_size and not rows.validation:
        inner = split_like(split, rows.train, rows.test, domain, kind)
        rows.train, rows.validation = cut_rows(rows.train, inner, config.validation_size, config.seed)
        rows.notes.append(f"Validation rows were cut from train; split: {inner}.")
    return split


def _read_test(
    table: Table, source: Source, reader: ExampleReader, columns: Columns, problems: Problems
) -> list[Example]:
    """The rows of a test file, whose columns may have other names."""
    if source.test_columns is not None:
        columns = Columns((source.test_columns[0],), source.test_columns[1])
    for column in (*columns.texts, columns.label):
        table.require(column)
    return [example for example, _ in reader.read(table, columns, f"{source.name}-test", problems)]


def _take_out(pool: list[Example], test: Sequence[Example], name: str) -> tuple[list[Example], list[str]]:
    """Remove test rows from the full data set they are part of, and all else that is the same molecule."""
    spelled = {(canonical_smiles(e.text), e.target) for e in pool}
    missing = [e for e in test if (canonical_smiles(e.text), e.target) not in spelled]
    if len(missing) > MAX_MISSING * len(test):
        raise DataError(
            f"{len(missing)} of {len(test)} test rows are not rows of {name} (row {missing[0].row} is the first)",
            expected="rows of the same data set with the same labels",
            fix="Check that the test file belongs to this task.",
        )
    keys = {example.key for example in test}
    others = [example for example in pool if example.key not in keys]
    matched, gone = len(test) - len(missing), len(pool) - len(others)
    return others, [
        f"{matched} of the {len(test)} rows of the test file are rows of the full data set; they were taken out of "
        f"train, with {gone - matched} further row(s) of the same molecules (stereo disregarded)."
    ]


def _kind_of_split(config: TaskConfig, domain: Domain, kind: Kind, has_test: bool) -> str:
    """The kind of split, checked against what the data can do."""
    if config.split == "auto":
        cut = "scaffold" if domain == "molecules" else "stratified" if kind == "classification" else "random"
        return "given" if has_test else cut
    if (config.split == "given") != has_test:
        fix = "Leave out split, or the test rows." if has_test else "Pass test='FILE', or a column named 'split'."
        raise ConfigError(
            "The split does not fit the data", got=f"{config.split}, test rows given: {has_test}", fix=fix
        )
    if config.split == "test" and kind == "classification":
        raise ConfigError("Labels are known from training rows", got="split='test'", fix="Use split='stratified'.")
    if config.split == "scaffold" and domain != "molecules":
        raise ConfigError("A scaffold split needs molecules", got=domain, fix="Use split='stratified' or 'random'.")
    if config.split == "stratified" and kind != "classification":
        raise ConfigError("A stratified split needs labels", got=kind, fix="Use split='random'.")
    return config.split


def split_like(split: str, pool: Sequence[Example], test: Sequence[Example], domain: str, kind: str) -> str:
    """The split that makes validation rows as new to train as the test rows are."""
    if split != "given":
        return split
    if domain == "molecules":
        seen = {scaffold(example.text) for example in pool}
        if sum(scaffold(example.text) in seen for example in test) < SAME_SCAFFOLD * len(test):
            return "scaffold"
    return "stratified" if kind == "classification" else "random"


def cut_rows(pool: Sequence[Example], split: str, size: int | float, seed: int) -> tuple[list[Example], list[Example]]:
    """What stays and what is held out."""
    keys = [example.key for example in pool]
    if split == "scaffold":
        held = scaffold_split(keys, [scaffold(example.text) for example in pool], size, seed)
    elif split == "stratified":
        held = stratified_split(keys, [example.target for example in pool], size, seed)
    else:
        held = random_split(keys, size, seed)
    return [e for e, out in zip(pool, held, strict=True) if not out], [
        e for e, out in zip(pool, held, strict=True) if out
    ]


def _schema(
    config: TaskConfig, name: str, kind: Kind, domain: Domain, columns: Columns, train: Sequence[Example]
) -> tuple[Schema, list[str]]:
    """Labels, words, template and metric."""
    text, label = columns.texts[0], columns.label
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
    return Schema(name, kind, domain, template, labels, words, positive, metric, config.raw_smiles), notes


def _metric(name: str, known: Mapping[str, object]) -> str:
    if name not in known:
        raise ConfigError(f"Unknown metric {name!r} for this kind of task", fix=nearest(name, known))
    return name


def _class_notes(rows: _Rows, schema: Schema) -> list[str]:
    """What looks wrong about the classes."""
    counts = Counter(row.target for row in (*rows.train, *rows.validation, *rows.test))
    parts = {"test": [row.target for row in rows.test], "validation": [row.target for row in rows.validation]}
    return [*joined_labels(schema.labels), *absent_classes(schema.labels, counts, parts)]


def _known(examples: Sequence[Example], schema: Schema, problems: Problems, merge: bool) -> list[Example]:
    """Only rows whose label occurs in train, and passages, which have none."""
    known = []
    for example in examples:
        if isinstance(example, Passage) or example.target in schema.labels:
            known.append(example)
        else:
            alike = None if merge else known_label(example.target, schema.labels, merge=True)
            problems.add(
                DataError(
                    f"Row {example.row} ({example.id}) has a label that no training row has",
                    got=example.target,
                    expected=", ".join(schema.labels[:20]),
                    fix=alike and f"merge_labels=True (--merge-labels) reads it as {alike!r}.",
                )
            )
    return known
