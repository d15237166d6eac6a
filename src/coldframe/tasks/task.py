"""What there is to learn: examples, how they are put to a model, and what counts as right."""

from __future__ import annotations

import dataclasses
import hashlib
import string
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from coldframe.config import Config, check
from coldframe.errors import ConfigError, nearest

Domain = Literal["molecules", "text"]
Kind = Literal["classification", "generation"]
Solved: TypeAlias = tuple[str, ...]
"""A solved example: the question, its target, and the passages that it is about, if there are any."""


def content_hash(*parts: str) -> str:
    """16 hexadecimal digits that name a piece of content.

    >>> content_hash("CCO", "Yes")
    '61f5e207e364596f'
    """
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]


def text_key(text: str) -> str:
    """The same for texts that differ only in case and blanks.

    >>> text_key("Who  is it?") == text_key("who is it? ")
    True
    """
    return content_hash(" ".join(text.casefold().split()))


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """One row: an input and its target.

    Attributes:
        text: The input as models and encoders see it (a canonical SMILES, a sentence).
        target: The label's name, or the reference text of a generation task.
        id: A stable name, unique in its task; ties between neighbours are broken by it.
        key: Equal for two rows that are the same thing (the same text; for molecules the same canonical
            form without stereo). The leak guard and leave-one-out compare keys.
        row: 1-based row number in the source, for error messages; 0 if there is none.
        references: Further accepted targets (aliases); the target itself is always accepted.
        full_target: The target as a whole sentence; empty where there is none.
        gold: Ids of the store entries that hold the answer; empty where that is not known.
        contexts: Ids of the store entries that came with the row, in their order (a log of a pipeline); None where
            entries are searched for.
        hops: How many facts have to be put together for the answer.
        group: Equal for rows that are not independent (one question with its passage at several places); the key, if
            empty.
    """

    text: str
    target: str
    id: str
    key: str
    row: int = 0
    references: tuple[str, ...] = ()
    gold: tuple[str, ...] = ()
    contexts: tuple[str, ...] | None = None
    hops: int = 1
    group: str = ""
    full_target: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Passage(Example):
    """A piece of a corpus: an entry of a store that has no answer of its own.

    ``text`` is title and body as retrievers and prompts see them, and the target is empty.

    Attributes:
        title: What it is about; may be empty.
        body: What it says.
        rewrite: The same in other words, from augmentation; may be empty.
    """

    title: str = ""
    body: str = ""
    rewrite: str = ""

    @classmethod
    def of(cls, body: str, title: str = "", *, id: str = "", row: int = 0, rewrite: str = "") -> Passage:
        """A passage; without an id of its own it has the one that its content gives it.

        Blanks around title and body are no content.

        >>> Passage.of("It lies on the Seine.", "Paris").text
        'Paris: It lies on the Seine.'
        """
        body, title = body.strip(), title.strip()
        content = content_hash(title, body)
        text = f"{title}: {body}" if title else body
        return cls(text, "", id or content, content, row, title=title, body=body, rewrite=rewrite.strip())


END_OF_TURN, END_OF_TEXT = "<end of turn>", "<end of text>"
"""What :attr:`Template.end` calls the model's own tokens; anything else is a text that ends an answer."""


def end_text(end: str) -> str:
    """The text that ends an answer; none, where a token of the model does."""
    return "" if end in (END_OF_TURN, END_OF_TEXT) else end


_LABEL = "{label}"


@dataclasses.dataclass(frozen=True)
class Template(Config):
    r"""How an example becomes a prompt.

    A prompt is ``header + exemplars + query``, an answer is ``" " + word + end``. The header is the same for
    every query, so its states are computed once; a prompt is tokenised whole.

    Args:
        body: One query up to its answer; ``{text}`` is replaced, and a trailing ``{label}`` may stand
            where the answer goes, on a line of its own too.
        instruction: Said once, before everything; may be empty.
        separator: Between exemplars, and after the instruction.
        end: What ends an answer, in training, scoring and generation alike: a text such as a line break,
            ``"<end of turn>"`` or ``"<end of text>"`` for the model's own, or nothing.

    Example:
        >>> t = Template("Molecule: {text}\nToxic: {label}", instruction="Judge the molecule.")
        >>> t.header
        'Judge the molecule.\n\n'
        >>> t.query("CCO")
        'Molecule: CCO\nToxic:'
        >>> t.exemplar("CCO", "No")
        'Molecule: CCO\nToxic: No\n\n'
    """

    section = "template"

    body: str = "Input: {text}\nLabel:"
    instruction: str = ""
    separator: str = "\n\n"
    end: str = "\n"

    def __post_init__(self) -> None:
        super().__post_init__()
        body = self.body.replace("\\n", "\n").rstrip()
        if body.endswith(_LABEL):
            body = body.removesuffix(_LABEL).rstrip(" \t")
            body = body + _LABEL if body.endswith("\n") else body  # on a line of its own, and it stays there
        object.__setattr__(self, "body", body)
        object.__setattr__(self, "end", self.end.replace("\\n", "\n"))
        try:
            fields = [name for _, name, _, _ in string.Formatter().parse(self._before_label) if name is not None]
        except ValueError as error:
            raise ConfigError(f"The template is malformed: {error}", got=repr(self.body)) from error
        check(
            fields == ["text"],
            "A template names {text} exactly once (and may end in {label})",
            got=repr(self.body),
            expected="for example 'Molecule: {text}\\nToxic: {label}'",
        )

    @property
    def header(self) -> str:
        """The part that is the same for every query."""
        return self.instruction + self.separator if self.instruction else ""

    def query(self, text: str) -> str:
        """A query, up to where its answer begins."""
        return self._before_label.format(text=text)

    @property
    def _before_label(self) -> str:
        return self.body.removesuffix(_LABEL)

    def answer(self, word: str) -> str:
        """An answer as it continues a query."""
        return " " + word

    def exemplar(self, text: str, word: str) -> str:
        """A solved query, as it stands before another one."""
        return self.query(text) + self.answer(word) + self.separator

    def passage(self, text: str) -> str:
        """A passage, as it stands before a query."""
        return text + self.separator


@dataclasses.dataclass(frozen=True)
class Schema(Config):
    """All of a task but its rows: what an artifact must remember to predict.

    Args:
        name: The task's name.
        kind: ``"classification"`` scores the labels' words; ``"generation"`` writes freely.
        domain: Chooses default encoder and similarity.
        template: How examples become prompts.
        labels: Class names in a fixed order; empty for generation.
        words: The answer word of each label, in the same order (the verbaliser).
        positive: The label counted as positive in two-class metrics.
        metric: Name of the primary metric.
        max_new_tokens: Longest written answer of a generation task, at least 1.
        solved: Solved examples that text methods put before every query. :func:`coldframe.fit` draws them.
        raw_smiles: Molecules keep the spelling they came in; else they are canonicalised, new queries too.
    """

    section = "task schema"

    name: str
    kind: Kind = "classification"
    domain: Domain = "text"
    template: Template = dataclasses.field(default_factory=Template)
    labels: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    positive: str | None = None
    metric: str = "effective_accuracy"
    raw_smiles: bool = False
    max_new_tokens: int = 64
    solved: tuple[Solved, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.max_new_tokens >= 1, "An answer has a token at least", got=self.max_new_tokens)
        if self.kind == "classification":
            check(
                len(self.labels) >= 2 and len(set(self.labels)) == len(self.labels),
                "A classification task needs at least two different labels",
                got=list(self.labels),
            )
            check(
                len(self.words) == len(self.labels) and len(set(self.words)) == len(self.words),
                "Every label needs a word of its own",
                got=dict(zip(self.labels, self.words, strict=False)),
            )
            if self.positive is not None and self.positive not in self.labels:
                raise ConfigError(
                    f"The positive label {self.positive!r} is not a label", fix=nearest(self.positive, self.labels)
                )

    def word(self, target: str) -> str:
        """The answer text of a target: its word, or the target itself when generating."""
        return self.words[self.index(target)] if self.kind == "classification" else target

    def rendered(self, entry: Example) -> str:
        """An entry of the store as it stands in a prompt: a passage as it is, an exemplar solved."""
        if isinstance(entry, Passage):
            return self.template.passage(entry.text)
        return self.template.exemplar(entry.text, self.word(entry.target))

    def solved_example(self, solved: Solved, k: int) -> str:
        """A solved example as it stands in a prompt, after at most ``k`` of its passages, the first of them last."""
        question, target, *passages = solved
        texts = map(self.template.passage, reversed(passages[:k]))
        return "".join(texts) + self.template.exemplar(question, self.word(target))

    def index(self, target: str) -> int:
        """The position of a label; an unknown one is an error."""
        try:
            return self.labels.index(target)
        except ValueError:
            raise ConfigError(f"{target!r} is not a label", fix=nearest(target, self.labels)) from None

    @property
    def positive_index(self) -> int | None:
        """The position of the positive label, if there is one."""
        return None if self.positive is None else self.index(self.positive)

    def targets(self, examples: Sequence[Example]) -> list[int]:
        """Label positions of examples."""
        return [self.index(example.target) for example in examples]


@dataclasses.dataclass(frozen=True)
class Task:
    """A schema and its rows, split in three.

    Attributes:
        schema: What the task is.
        train: Rows to learn from; they are also the exemplar store, unless there is one.
        validation: Rows for every choice (learning rate, epochs, K): taken from train, never from test.
        test: Rows for the reported score, looked at once.
        notes: What a reader of the score must know (rows dropped, known leaks, the split's kind).
        source: Where the bytes came from (package and version, file, SHA-256).
        options: What ``load_task`` builds the same task from; empty for a task made by hand.
        store: Entries that may be retrieved in the place of training rows. They may answer test queries, and none is
            kept from a query: what is in a store of its own is there to be read.
        about: Questions about the passages of the store, where these are not the training rows (a table of labelled
            rows with passages beside it).
        solved: What solved examples are drawn from; the training rows that nothing to be scored is like, if empty.
    """

    schema: Schema
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    notes: tuple[str, ...] = ()
    source: Mapping[str, str] = dataclasses.field(default_factory=dict)
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    store: tuple[Example, ...] | None = None
    about: tuple[Example, ...] = ()
    solved: tuple[Solved, ...] = ()

    @property
    def exemplars(self) -> tuple[Example, ...]:
        """All that may be retrieved once the method is fitted: the store, or the rows it was fitted on."""
        return (*self.train, *self.validation) if self.store is None else self.store

    def targets(self, examples: Sequence[Example]) -> list[int]:
        """Label positions of some examples."""
        return self.schema.targets(examples)
