"""Passages in other words and as questions: given, or written by a model or a server. What failed is told."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from coldframe.errors import DataError
from coldframe.frozen.chat import in_chat
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Prompt
from coldframe.inference.client import Client, Refusal
from coldframe.progress import Bar
from coldframe.storage.files import writing
from coldframe.tasks.cells import as_text
from coldframe.tasks.corpus import QA, Augmentation, Corpus, Passage
from coldframe.tasks.task import content_hash

QUESTIONS = 3
"""Questions per passage, the papers' number."""

REWRITE = (
    "Write the passage below anew in other words. Keep every name, number and fact. Reply with the new passage only."
    "\n\nPassage: {passage}"
)
ASK = (
    "Write {count} different questions that the passage below answers. Reply with a JSON list of {count} objects with "
    'the fields "question", "answer" (a few words) and "full_answer" (a sentence).\n\nPassage: {passage}'
)

_END = ("]",)
"""Of the list: what a model writes after it is read by nobody, and may be long."""

_LINES = r"(?:Question|Q)[ \d]*[:.] *(.+?)\s*\n+\W*(?:Answer|A)[ \d]*[:.] *(.+)"


class Augmenter(Protocol):
    """Rewrites passages and asks about them."""

    @property
    def hash(self) -> str:
        """Names who does it and how: what one wrote is not taken for what another would. If empty, nothing is kept."""
        ...

    def write(self, passages: Sequence[Passage]) -> Iterator[tuple[Passage, Augmentation | str]]:
        """Every passage with its augmentation, or with the reason why there is none, as they become known."""
        ...


class Given:
    """The augmentations that came with the corpus.

    Args:
        corpus: Where they are.
    """

    hash = ""

    def __init__(self, corpus: Corpus) -> None:
        self._given = corpus.given

    def write(self, passages: Sequence[Passage]) -> Iterator[tuple[Passage, Augmentation | str]]:
        """Those that are there."""
        for passage in passages:
            yield passage, self._given.get(passage.id, "the corpus brings no questions for it (fields rewrite and qa)")


class ByModel:
    """A local model writes them: the one that is adapted, as in the papers, or a larger one.

    Settings of the papers where they can be had: temperature 0.7, 512 new tokens, three questions. (They also cut the
    sampling at the 50 likeliest tokens; here it is cut at ``top_p``.)

    Args:
        lm: The model; one that follows instructions.
        retries: Further attempts where its answer cannot be read, each with another seed.
        rewrites: Also write the passage in other words; the form ``closed-book`` does not read that, and it takes a
            good part of the time.
        batch_size: Passages at a time.
        max_new_tokens: Of the rewrite, and of the questions.
        temperature: Of the sampling.
        top_p: Of the sampling.
    """

    def __init__(
        self,
        lm: FrozenLM,
        *,
        retries: int = 5,
        rewrites: bool = True,
        batch_size: int = 16,
        max_new_tokens: int = 512,
        temperature: float = 0.7,
        top_p: float = 0.95,
    ) -> None:
        self.lm, self.retries, self.rewrites, self.batch_size = lm, retries, rewrites, batch_size
        self.sampling: dict[str, Any] = {
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "top_p": top_p,
        }

    @property
    def hash(self) -> str:
        """Names model, instructions and sampling."""
        asked = [REWRITE, ASK] if self.rewrites else [ASK]
        return content_hash(self.lm.weight_hash, *asked, repr(sorted(self.sampling.items())))

    def write(self, passages: Sequence[Passage]) -> Iterator[tuple[Passage, Augmentation | str]]:
        """In batches; when all were asked, those whose questions cannot be read are asked again, together."""
        open_, rewrites, said = list(passages), dict[str, str](), dict[str, str]()
        for attempt in range(self.retries + 1):
            unread: list[Passage] = []
            for start in range(0, len(open_), self.batch_size):
                batch, seed = open_[start : start + self.batch_size], 1_000_003 * attempt + start
                if self.rewrites and not attempt:
                    asked = [REWRITE.format(passage=one.shown) for one in batch]
                    rewrites |= zip((one.id for one in batch), self._generate(asked, seed), strict=True)
                asked = [ASK.format(count=QUESTIONS, passage=one.shown) for one in batch]
                for passage, text in zip(batch, self._generate(asked, seed, _END), strict=True):
                    if len(qa := parse_qa(text)) >= QUESTIONS:
                        yield passage, Augmentation(rewrites.get(passage.id, ""), qa[:QUESTIONS])
                    else:
                        said[passage.id] = text
                        unread.append(passage)
            open_ = unread
        for passage in open_:
            yield passage, _unread(self.retries, said[passage.id])

    def _generate(self, instructions: Sequence[str], seed: int, stop: Sequence[str] = ()) -> list[str]:
        prompts = [Prompt(self._chat(one)) for one in instructions]
        return self.lm.generate(prompts, seed=seed, stop=stop, **self.sampling)

    def _chat(self, instruction: str) -> str:
        return in_chat(self.lm, instruction) if self.lm.tokenizer.chat_template else f"{instruction}\n\n"


class ByEndpoint:
    """A server that speaks OpenAI's protocol writes them (``chat/completions``).

    Args:
        client: Which server and model.
        retries: Further attempts where its answer cannot be read.
        rewrites: Also have the passage written in other words; the form ``closed-book`` does not read that.
        temperature: Of the sampling.
    """

    def __init__(self, client: Client, *, retries: int = 5, rewrites: bool = True, temperature: float = 0.7) -> None:
        self.client, self.retries, self.rewrites, self.temperature = client, retries, rewrites, temperature

    @property
    def hash(self) -> str:
        """Names model and instructions; a server may change behind its name."""
        asked = [REWRITE, ASK] if self.rewrites else [ASK]
        return content_hash(self.client.url, self.client.model, *asked, str(self.temperature))

    def write(self, passages: Sequence[Passage]) -> Iterator[tuple[Passage, Augmentation | str]]:
        """One passage after the other; one that the server refuses is told, and the next is asked."""
        for passage in passages:
            try:
                yield passage, self._augmentation(passage)
            except Refusal as error:
                yield passage, str(error)

    def _augmentation(self, passage: Passage) -> Augmentation | str:
        rewrite, said = "", ""
        for _ in range(self.retries + 1 if self.rewrites else 0):
            if rewrite := self._reply(REWRITE.format(passage=passage.shown)).strip():
                break
        else:
            if self.rewrites:
                return f"no rewrite in {self.retries + 1} answers"
        for _ in range(self.retries + 1):
            said = self._reply(ASK.format(count=QUESTIONS, passage=passage.shown))
            if len(qa := parse_qa(said)) >= QUESTIONS:
                return Augmentation(rewrite, qa[:QUESTIONS])
        return _unread(self.retries, said)

    def _reply(self, instruction: str) -> str:
        messages = [{"role": "user", "content": instruction}]
        body = {"messages": messages, "temperature": self.temperature, "max_tokens": 1024}
        answer = self.client.post("chat/completions", body)
        try:
            return str(answer["choices"][0]["message"]["content"] or "")
        except (KeyError, IndexError, TypeError):
            return ""


@dataclasses.dataclass(frozen=True)
class Augmented:
    """Augmentations by passage id, and for the passages without one the reason."""

    found: dict[str, Augmentation]
    failed: dict[str, str]


def augment(
    corpus: Corpus, augmenter: Augmenter, path: Path, quiet: bool = False, ask_again: bool = False
) -> Augmented:
    """Augment a corpus; what is written is kept line by line, so that an interrupted call goes on.

    What failed is kept too: else the same command would find other passages to train on each time it is run.

    Args:
        corpus: The passages.
        augmenter: Who writes.
        path: A JSON lines file that keeps what was written, under the name of who wrote it.
        quiet: No progress bar.
        ask_again: Also for passages that failed before.
    """
    failed: dict[str, str] = {}
    if not augmenter.hash:
        written = dict(augmenter.write(corpus.passages))
        failed = {passage.id: one for passage, one in written.items() if isinstance(one, str)}
        return Augmented({p.id: one for p, one in written.items() if isinstance(one, Augmentation)}, failed)
    known = {key: one for key, one in _read(path, augmenter.hash).items() if key in corpus.by_id}
    found = {key: one for key, one in known.items() if isinstance(one, Augmentation)}
    if not ask_again:
        failed = {key: one for key, one in known.items() if isinstance(one, str)}
    wanted = [passage for passage in corpus.passages if passage.id not in found and passage.id not in failed]
    with writing(path), open(path, "a", encoding="utf-8") as out, Bar(len(wanted), "augment", quiet) as bar:
        for passage, one in augmenter.write(wanted):
            bar.advance(1)
            record: dict[str, Any] = {"id": passage.id, "by": augmenter.hash}
            if isinstance(one, str):
                failed[passage.id] = record["failed"] = one
            else:
                found[passage.id] = one
                record |= {"rewrite": one.rewrite, "qa": [dataclasses.asdict(qa) for qa in one.qa]}
            out.write(json.dumps(record, ensure_ascii=False) + "\n")
            out.flush()
    return Augmented(found, failed)


def parse_qa(text: str) -> tuple[QA, ...]:
    r"""Questions with answers out of what a model wrote: JSON objects wherever they stand, else lines.

    >>> parse_qa('Sure! ```json\n[{"question": "Who?", "answer": "Ada", "full_answer": "It was Ada."}, {"que')
    (QA(question='Who?', answer='Ada', full_answer='It was Ada.'),)
    >>> parse_qa("1. Question: Who?\nAnswer: Ada")
    (QA(question='Who?', answer='Ada', full_answer=''),)
    """
    found: dict[str, QA] = {}
    decoder, place = json.JSONDecoder(strict=False), text.find("{")
    while place >= 0:
        try:
            value, end = decoder.raw_decode(text, place)
        except ValueError:
            end, value = place + 1, None
        if (qa := _qa(value)) is not None:
            found.setdefault(qa.question, qa)
            place = text.find("{", end)
        else:
            place = text.find("{", place + 1)
    if not found:
        for question, answer in re.findall(_LINES, text):
            question, answer = question.strip(" *"), answer.strip(" *")
            found.setdefault(question, QA(question, answer))
    return tuple(found.values())


def _qa(value: Any) -> QA | None:
    if not isinstance(value, dict):
        return None
    try:
        cells = {key: as_text(value.get(key)) for key in ("question", "answer", "full_answer")}
    except DataError:
        return None
    return QA(**cells) if cells["question"] and cells["answer"] else None


def _unread(retries: int, said: str) -> str:
    return f"no {QUESTIONS} questions could be read in {retries + 1} answers; the last began {said[:60]!r}"


def _read(path: Path, by: str) -> dict[str, Augmentation | str]:
    """What was written before, or why nothing was; a line that a crash cut off is left out."""
    if not path.exists():
        return {}
    found: dict[str, Augmentation | str] = {}
    text = path.read_text(encoding="utf-8", errors="replace")
    for line in text.split("\n"):
        try:
            record = json.loads(line)
            if record["by"] != by:
                continue
            if "failed" in record:
                found[record["id"]] = str(record["failed"])
            else:
                found[record["id"]] = Augmentation(record["rewrite"], tuple(QA(**qa) for qa in record["qa"]))
        except (ValueError, KeyError, TypeError):
            continue
    if text and not text.endswith("\n"):
        with open(path, "a", encoding="utf-8") as out:
            out.write("\n")
    return found
