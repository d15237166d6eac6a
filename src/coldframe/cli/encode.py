"""``coldframe encode``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from coldframe.cli.options import Flat, ModelFlags, parse, settings_of, writable
from coldframe.cli.output import print_json, tell
from coldframe.config import Config, check
from coldframe.tasks.rows import OnError

if TYPE_CHECKING:
    from coldframe.frozen.model import FrozenLM
    from coldframe.parametric.augment import Augmenter
    from coldframe.tasks.corpus import Corpus, Question


@dataclasses.dataclass(frozen=True)
class Encode(Config):
    """Turn a corpus of passages into weights: adapters that are put into the frozen model when a passage is retrieved.

    PRAG trains one adapter for each passage, many in one pass. Poly-PRAG trains a few latent adapters for all of them,
    and for each passage a row that says how to mix them, at a small part of the size. DyPRAG trains, after PRAG, a
    network that writes an adapter from a passage's embedding, for passages that it has not seen too.

    For example:
      coldframe encode fact-corpus:40 --method prag --out runs/facts      (40 invented passages with questions)
      coldframe encode passages.jsonl --method poly-prag --set adapters=20 --augment self --out runs/mine
      coldframe encode fact-corpus:40 --method dyprag --set train_passages=30 --out runs/facts-dyprag
      coldframe ask runs/facts "Who is the mayor of Lovokor?"

    Interrupted, the same command goes on where it stopped. A larger corpus with the same --out trains what is new.

    Args:
        corpus: CSV, TSV, JSON lines or Parquet with a text column, or fact-corpus[:PASSAGES[:SEED]].
        method: prag, poly-prag or dyprag.
        set: A setting of the method, KEY=VALUE; may be given several times.
        out: Folder to write; runs/CORPUS-METHOD if you name none.
        text: Text column.
        title: Title column; it need not be there.
        augment: Who rewrites passages and asks about them: given (fields rewrite and qa of the corpus), self (the model
            that is adapted), another model, or the address of a server that speaks OpenAI's protocol.
        augment_model: The model as that server names it.
        augment_key_env: Environment variable with the server's key.
        ask_again: Also about passages that no questions could be had for before.
        add: Add new passages to a finished poly-prag folder, where a row is fitted for each, or to a dyprag one, where
            they are embedded; what was trained stays as it is, with its method and settings.
        stored: Number format on the disk.
        on_error: Stop at the first passage that cannot be used, or leave such passages out and list them.
        json: Print the result as JSON.
        quiet: No progress.
    """

    corpus: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CORPUS")]
    method: Literal["prag", "poly-prag", "dyprag"] = "prag"
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    out: str | None = None
    model: Annotated[ModelFlags, Flat] = dataclasses.field(default_factory=ModelFlags)
    text: str = "text"
    title: str = "title"
    augment: str = "given"
    augment_model: str | None = None
    augment_key_env: str | None = None
    ask_again: bool = False
    add: bool = False
    stored: Literal["bfloat16", "float32"] = "bfloat16"
    on_error: OnError = "raise"
    json: bool = False
    quiet: bool = False


def run(argv: Sequence[str]) -> None:
    """Read, augment, train, write, say what came of it."""
    asked = parse(Encode, "encode", argv)
    from coldframe.parametric.encode import add_passages, encode
    from coldframe.parametric.folder import QUESTIONS, method_config, read_folder
    from coldframe.tasks.corpus import write_questions

    config = method_config(asked.method, settings_of(asked.set))
    corpus, questions = _corpus(asked)
    tell(corpus.notes, asked.quiet)
    name = asked.corpus.partition(":")[0]
    out = writable(Path(asked.out or f"runs/{Path(name).stem}-{asked.method}"))
    if asked.add:
        there = read_folder(out)[0].config
        check(not asked.set or config == there, "--add keeps the settings of the folder", got=" ".join(asked.set))
        config = there
    lm = asked.model.load()
    augmenter = _augmenter(asked, corpus, lm, rewrites=config.form == "published")
    if asked.add:
        added = add_passages(
            out,
            lm,
            corpus,
            augmenter=augmenter,
            ask_again=asked.ask_again,
            on_error=asked.on_error,
            quiet=asked.quiet,
        )
        print_json({"folder": str(out), "added": added}) if asked.json else print(f"added {added} passages to {out}")
        return
    found = encode(
        corpus,
        lm,
        config,
        out,
        augmenter=augmenter,
        ask_again=asked.ask_again,
        on_error=asked.on_error,
        stored=asked.stored,
        quiet=asked.quiet,
    )
    if questions:
        write_questions(out / QUESTIONS, questions)
    if asked.json:
        print_json({**dataclasses.asdict(found), "folder": str(out), "method": asked.method})
        return
    tell([f"left out: {corpus.by_id[one].shown[:40]!r}: {why}" for one, why in found.failed.items()], asked.quiet)
    per = found.seconds / found.trained if found.trained else 0.0
    print(f"{found.passages} passages, {found.trained} of them trained now, {found.seconds:.0f} s ({per:.2f} s each)")
    print(f"{found.nbytes:,} bytes, {found.nbytes / found.passages:,.0f} for each passage")
    print(f'wrote {out}; try: coldframe ask {out} "..."' + ("  or: coldframe ask DIR --evaluate" if questions else ""))


def _corpus(asked: Encode) -> tuple[Corpus, Sequence[Question]]:
    from coldframe.tasks.corpus import read_corpus
    from coldframe.tasks.fact_corpus import as_asked, fact_corpus

    if (made := as_asked(asked.corpus)) is not None:
        found = fact_corpus(*made)
        return found.corpus, found.questions
    return read_corpus(asked.corpus, text=asked.text, title=asked.title, on_error=asked.on_error), ()


def _augmenter(asked: Encode, corpus: Corpus, lm: FrozenLM, rewrites: bool) -> Augmenter:
    import os

    from coldframe.frozen.model import load_lm
    from coldframe.inference.client import Client
    from coldframe.parametric.augment import ByEndpoint, ByModel, Given

    if asked.augment == "given":
        return Given(corpus)
    if asked.augment.startswith(("http://", "https://")):
        check(asked.augment_model is not None, "A server has several models", expected="--augment-model NAME")
        key = os.environ.get(asked.augment_key_env) if asked.augment_key_env else None
        return ByEndpoint(Client(asked.augment, str(asked.augment_model), key), rewrites=rewrites)
    writer = lm if asked.augment == "self" else load_lm(asked.augment, dtype=asked.model.dtype)
    return ByModel(writer, rewrites=rewrites)
