"""What may be said about a task; everything but the data has a default or is inferred, and then said."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from coldframe.config import Config, check
from coldframe.tasks.table import OnError, Table
from coldframe.tasks.task import Solved

Split = Literal["auto", "given", "random", "stratified", "scaffold", "test"]


@dataclasses.dataclass(frozen=True)
class TaskConfig(Config):
    """The options of :func:`coldframe.tasks.load_task`; travels to JSON and YAML.

    Args:
        data: A built-in task's name, a file (CSV, TSV, JSON lines, a JSON array, Parquet, Excel) or a hub data set id
            (``owner/name`` or ``owner/name:configuration``).
        text: Input column; several, separated by commas, make one text: the first as it is, the others as
            ``Name: value`` lines.
        label: Column of the label or the reference answer.
        positive: The label counted as positive when there are two.
        template: Body of the prompt with ``{text}``, or with columns of the table in braces, and ``{label}`` at its
            end if you like.
        instruction: Said once before everything; ``""`` for none.
        words: Answer word of each label that should not answer with its own name.
        end: What ends an answer, in training, scoring and generation: a text, ``"<end of turn>"``, ``"<end of text>"``
            or nothing.
        test: File of test rows with the same columns.
        questions: File of the questions to be answered, if the data is a corpus of passages.
        title: Title column of passages.
        contexts: Column that holds a row's own passages: a list of texts, or of mappings with title and text.
        store: What may be retrieved in the place of training rows: a file of passages, or ``fact-corpus``.
        split: How test (and validation) rows are chosen. ``"auto"``: given where a test file or a split
            column is there, else by scaffold for molecules, stratified for labels, random for free text.
            ``"test"``: all are test rows, and there is nothing to learn from.
        test_size: Share (float) or number (int) of test rows; 0.2 unless the task says otherwise.
        validation_size: Share or number of *train* rows held out for choices; 0 for none.
        seed: Of every random choice in the split, and of the rows of a task that is made up.
        max_train: Keep at most so many training rows (validation rows are cut from these).
        metric: Primary metric.
        domain: ``"molecules"`` canonicalises SMILES and compares without stereo.
        kind: Classification or free generation.
        on_error: Raise at the first row that cannot be used, or skip such rows and count them.
        deduplicate: Keep one row of those that are the same thing (the shortest as written), none if their
            labels differ. Default: yes for built-in tasks, no for yours.
        merge_labels: Make one class of labels that differ only in case, blanks or Unicode form: the most frequent.
        drop_names: Read a cell such as ``CCO ethanol`` as the SMILES before its first blank.
        raw_smiles: Show SMILES as written instead of their canonical spelling.
        allow_leaks: Report test rows that are also in train instead of refusing.
    """

    section = "task options"

    data: str = "b3db"
    text: str | None = None
    label: str | None = None
    positive: str | None = None
    template: str | None = None
    instruction: str | None = None
    words: dict[str, str] | None = None
    end: str = "\\n"
    test: str | None = None
    questions: str | None = None
    title: str = "title"
    contexts: str | None = None
    store: str | None = None
    split: Split = "auto"
    test_size: int | float | None = None
    validation_size: int | float = 0.15
    seed: int = 0
    max_train: int | None = None
    metric: str | None = None
    domain: Literal["auto", "molecules", "text"] = "auto"
    kind: Literal["auto", "classification", "generation"] = "auto"
    on_error: OnError = "raise"
    deduplicate: bool | None = None
    merge_labels: bool = False
    drop_names: bool = False
    raw_smiles: bool = False
    allow_leaks: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        size = "a share between 0 and 1, or a whole number of rows"
        for name, value in (("test_size", self.test_size), ("validation_size", self.validation_size)):
            if isinstance(value, float):
                check(0 <= value < 1, f"{name} is out of range", got=value, expected=size)
            elif value is not None:
                check(value >= 0, f"{name} is out of range", got=value, expected=size)
        check(self.max_train is None or self.max_train > 1, "max_train is too small", got=self.max_train)

    def filled(self, defaults: Mapping[str, Any]) -> TaskConfig:
        """A copy in which what was left open (None or ``"auto"``) has the given defaults."""
        open_fields = {k: v for k, v in defaults.items() if getattr(self, k) in (None, "auto")}
        return dataclasses.replace(self, **open_fields)


@dataclasses.dataclass(frozen=True)
class Source:
    """Rows and what is known about them: what a built-in task, a file or the hub brings.

    Attributes:
        name: The task's name.
        table: The rows.
        defaults: Options that hold where the user left them open.
        notes: What a reader of a score must know.
        test: Test rows from a file of their own.
        test_columns: Text and label column in ``test``, where they differ.
        test_is_part: The test rows are rows of ``table`` too, and are taken out of it.
        store: Entries to retrieve, with the same columns, where these are not the training rows.
        questions: The questions to be answered, where ``table`` holds passages.
        solved: Solved examples of the same kind about passages that no row is about.
    """

    name: str
    table: Table
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    test: Table | None = None
    test_columns: tuple[str, str] | None = None
    test_is_part: bool = False
    store: Table | None = None
    questions: Table | None = None
    solved: tuple[Solved, ...] = ()
