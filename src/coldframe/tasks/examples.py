"""Rows to examples: checked, canonical, each with its identity."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence

from coldframe.errors import DataError
from coldframe.tasks.cells import as_texts, text_in, texts_in
from coldframe.tasks.columns import Columns
from coldframe.tasks.contexts import OwnPassages, passages_of
from coldframe.tasks.molecules import canonical_smiles, first_word, molecule_key
from coldframe.tasks.table import Problems, Row, Table, located
from coldframe.tasks.task import Domain, Example, Kind, Passage, content_hash, text_key


class ExampleReader:
    """Makes examples of one task's rows; the unusable ones go to ``problems``.

    Args:
        domain: Molecules are canonicalised.
        kind: A classification target is a single label; in a generation task a list gives several answers.
        raw_smiles: Keep the spelling of molecules.
        store: Passages that are there already.
        names: Their ids, by what they may be called.
        drop_names: Read molecules up to the first blank.

    Attributes:
        written: The input as its source spelled it, by example id.
        own: The passages that came with rows.
    """

    def __init__(
        self,
        domain: Domain = "text",
        kind: Kind = "generation",
        raw_smiles: bool = False,
        store: Iterable[Passage] = (),
        names: Mapping[str, Sequence[str]] | None = None,
        drop_names: bool = False,
    ) -> None:
        self.domain, self.kind, self.raw_smiles, self.drop_names = domain, kind, raw_smiles, drop_names
        self.names, self.own = names or {}, OwnPassages(store)
        self.written: dict[str, str] = {}

    def read(self, table: Table, columns: Columns, prefix: str, problems: Problems) -> list[tuple[Example, str]]:
        """Examples, each with the part its row names.

        Args:
            table: Rows as read.
            columns: What is where.
            prefix: Of the ids, which end in the row number with leading zeros, so that they sort by row. Rows that
                have an id of their own keep it. If the prefix is empty, the others are named by their content.
            problems: Raises, or counts what is skipped.
        """
        examples: dict[str, tuple[Example, str]] = {}
        for row in table.rows:
            try:
                example = self._example(row, columns, prefix, examples)
                if (first := examples.get(example.id)) is not None:
                    raise DataError(
                        f"the row has the id of row {first[0].row}",
                        got=example.id,
                        fix="Give every row an id of its own, or none.",
                    )
            except DataError as error:
                problems.add(located(table, row, error))
                continue
            examples[example.id] = example, row.part
        return list(examples.values())

    def _example(self, row: Row, columns: Columns, prefix: str, taken: Container[str]) -> Example:
        text = columns.text(row.values)
        if self.drop_names:
            text = first_word(text)
        targets = self._targets(row, columns.label)
        contexts, called = self._contexts(row, columns)
        gold = self._gold(row, columns.gold, contexts, called)
        name = text_in(row.values, columns.id)
        if not name and prefix:
            name = f"{prefix}-{row.part}-{row.number:07d}" if row.part else f"{prefix}-{row.number:07d}"
        elif not name:
            content = content_hash(text, *targets, *(contexts or ()))
            name = content if content not in taken else f"{content}-{row.number}"
        self.written[name] = text
        key = text_key(text)
        if self.domain == "molecules":
            key = molecule_key(text)
            text = text if self.raw_smiles else canonical_smiles(text)
        hops = text_in(row.values, columns.hops)
        if hops and not (hops.isdecimal() and int(hops) >= 1):
            raise DataError("hops is not a number of facts", got=hops, expected="1, 2, ...")
        group = text_in(row.values, columns.group)
        return Example(text, targets[0], name, key, row.number, targets[1:], gold, contexts, int(hops or 1), group)

    def _targets(self, row: Row, label: str) -> tuple[str, ...]:
        if row.values.get(label) is None and label == "answers":
            label = "answer"
        single = self.kind == "classification"
        targets = (text_in(row.values, label),) if single else texts_in(row.values, label)
        if not targets[0]:
            raise DataError(f"the label is empty (column {label!r})")
        return targets

    def _contexts(self, row: Row, columns: Columns) -> tuple[tuple[str, ...] | None, dict[str, list[str]]]:
        """Ids of the passages that came with a row (None if there are none), and these by what they are called."""
        cell = row.values.get(columns.contexts) if columns.contexts is not None else None
        if cell in (None, "") and columns.gold is not None and _are_mappings(row.values.get("passages")):
            cell = row.values["passages"]
        if cell in (None, ""):
            return None, {}
        brought = passages_of(cell)
        entries = [self.own.add(passage) for passage in brought]
        called: defaultdict[str, list[str]] = defaultdict(list)
        for passage, entry in zip(brought, entries, strict=True):
            for name in {passage.id, passage.title, entry.id}:
                called[name].append(entry.id)
        return tuple(entry.id for entry in entries), called

    def _gold(
        self, row: Row, column: str | None, contexts: Sequence[str] | None, called: Mapping[str, Sequence[str]]
    ) -> tuple[str, ...]:
        """Ids of the passages that hold the answer, out of their places, or of what they are called."""
        value = row.values.get(column) if column is not None else None
        if value in (None, "", []) or _are_mappings(value):
            return ()
        if contexts is not None and type(value) is int:
            if not 0 <= value < len(contexts):
                raise DataError("there is no such passage", got=value, expected=f"0 to {len(contexts) - 1}")
            return (contexts[value],)
        ids: list[str] = []
        for name in as_texts(value):
            passages = called.get(name) or self.names.get(name, ())
            if len(passages) != 1:
                several = f"{len(passages)} passages have the title {name!r}"
                fix = "Name passages by their id, or by a title that no other has."
                raise DataError(several if passages else f"there is no passage {name!r}", fix=fix)
            ids += passages
        return tuple(ids)


def _are_mappings(value: object) -> bool:
    return isinstance(value, list) and any(isinstance(item, Mapping) for item in value)
