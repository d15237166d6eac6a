"""Parametric retrieval: closed book, text RAG, PRAG and what follows it, on the same questions.

    python -m reproduction.parametric fact-corpus:200 --methods prag poly-prag poly-prag,adapters=20 --out runs/facts
    python -m reproduction.parametric popqa --data DIR --questions 100 --augment self --methods prag --out runs/popqa

A corpus is ``fact-corpus[:PASSAGES[:SEED]]``, which brings its questions, or a set of questions with passages
(``2wiki``, ``hotpot``, ``popqa``) out of ``--data``. Of a set, passages of all its questions are searched by BM25, and
those are encoded that come first for one of the questions asked, as PRAG's authors do.

A method is its name with settings, such as ``poly-prag,adapters=20,epochs=30``. Everything is measured at every k; at
the first k also the controls: adapters of other passages, and, with a routing table, uniform and random routing.

Encoded corpora are kept in OUT/encoded and answers in OUT/answers; the same command goes on where it was stopped, and
more methods use what is there. OUT/results.json and OUT/results.md hold what came of it.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from coldframe.parametric.augment import ByModel, augment
from coldframe.parametric.encode import encode
from coldframe.parametric.encoded import Encoded, name_of
from coldframe.parametric.evaluate import MODES, controls_of
from coldframe.parametric.folder import method_config
from coldframe.parametric.settings import AskConfig
from coldframe.tasks.corpus import Corpus, Passage, Question, source_of
from coldframe.tasks.fact_corpus import as_asked, fact_corpus, spread

from coldframe.cli.options import settings_of
from coldframe.errors import ColdframeError, ConfigError, DataError
from coldframe.frozen.model import FrozenLM, load_lm
from coldframe.inference.predictions import Predictions
from coldframe.progress import say
from coldframe.retrieval.retriever import RetrievalConfig, Retriever
from coldframe.retrieval.store import Store
from coldframe.tasks.qa import READERS, answered_by, questions_of
from coldframe.tasks.task import content_hash
from reproduction.multi_document_qa import draw
from reproduction.parametric_results import System, summary
from reproduction.parametric_tables import write


class Spec(NamedTuple):
    """A method with its settings, as it was asked for."""

    label: str
    method: str
    settings: dict[str, Any]

    @classmethod
    def of(cls, text: str) -> Spec:
        """From ``METHOD[,KEY=VALUE...]``.

        >>> Spec.of("poly-prag,adapters=20").settings
        {'adapters': 20}
        """
        method, *pairs = text.split(",")
        return cls(text, method, settings_of(pairs))


def asked_of(asked: argparse.Namespace) -> tuple[Corpus, tuple[Question, ...]]:
    """The corpus and the questions, the same for the same words."""
    if (made := as_asked(asked.corpus)) is not None:
        found = fact_corpus(*made)
        return found.corpus, spread(found.questions, asked.questions or len(found.questions))
    if asked.corpus not in READERS:
        raise ConfigError(f"There is no corpus {asked.corpus!r}", expected=f"fact-corpus, {', '.join(READERS)}")
    if asked.data is None or not asked.data.is_dir():
        raise DataError("The sets are read out of a folder", got=asked.data, fix="Name it with --data.")
    rows = questions_of(READERS[asked.corpus](asked.data))
    pool = {p.id: p for row in rows for p in (Passage.of(one.text, one.title) for one in row.passages)}
    chosen = draw(rows, asked.questions or 100, asked.seed)
    store = Store.of([passage.example() for passage in pool.values()])
    plain = [Question.of(one.question, one.answers) for one in chosen]
    retriever = Retriever(store, "text", min(max(asked.k), len(store)), RetrievalConfig(similarity="bm25"))
    found = retriever.retrieve([one.example() for one in plain], exclude_same_key=False)
    wanted = {example.id: pool[example.id] for row in range(len(plain)) for example in found.examples(row)}
    notes = (f"{len(wanted)} passages, the first {max(asked.k)} for {len(chosen)} questions out of {len(pool)}.",)
    passages = tuple(wanted.values())
    return Corpus(asked.corpus, passages, {}, notes, source_of(asked.corpus, passages)), tuple(plain)


def settings(spec: Spec, asked: argparse.Namespace) -> Iterator[AskConfig]:
    """All ways in which an encoded corpus is asked."""
    base = AskConfig(max_new_tokens=asked.max_new_tokens, batch_size=asked.batch_size, cut=asked.cut)
    for k in asked.k:
        for mode in MODES:
            yield base.replace(mode=mode, k=k)
        if k > 1:
            for combine in asked.combine:
                yield base.replace(k=k, combine=combine)
    yield from controls_of(spec.method, base.replace(k=asked.k[0]))


def answered(encoded: Encoded, config: AskConfig, questions: Sequence[Question], folder: Path) -> Predictions:
    """The answers, out of the folder if they are there."""
    alone = config.mode in ("closed-book", "passages")  # these do not depend on the method
    key = [encoded.lm.weight_hash, str(encoded.lm.dtype), encoded.corpus.hash, repr(config), repr(encoded.prompts)]
    if not alone:
        trained = sorted(f"{one} {made.hash}" for one, made in encoded.corpus.given.items())
        key += [str(encoded.described.extra["fingerprint"]), *trained]
    path = folder / f"{content_hash(*key, *(one.id for one in questions))}.jsonl"
    if not path.exists():
        encoded.answer(questions, config).save(path)
    return Predictions.load(path)


def run(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Encode and answer what is missing; write the results after every method."""
    asked = arguments(argv)
    specs = [Spec.of(text) for text in asked.methods]
    configs = [method_config(one.method, {**one.settings, "seed": s}) for one in specs for s in asked.seeds]
    for spec in specs:  # settings that do not go together are told before the work
        list(settings(spec, asked))
    corpus, questions = asked_of(asked)
    lm = load_lm(asked.model, dtype=asked.dtype, device=asked.device)
    corpus = augmented(corpus, asked, lm, rewrites=any(one.form == "published" for one in configs))
    systems: dict[tuple[str, AskConfig], System] = {}
    costs: list[dict[str, Any]] = []
    done: dict[str, Any] = {}
    started = time.perf_counter()
    for spec in specs:
        for seed in asked.seeds:
            config = configs.pop(0)
            folder = asked.out / "encoded" / f"{spec.label.replace(',', '-').replace('=', '_')}-{seed}"
            say(f"{spec.label}, seed {seed}: encoding {len(corpus)} passages")
            made = encode(corpus, lm, config, folder, on_error=asked.on_error)
            encoded = Encoded.load(folder, lm)
            for one in settings(spec, asked):
                baseline = one.mode in ("closed-book", "passages")
                one = one.replace(k=1) if one.mode == "closed-book" else one
                label = "" if baseline else spec.label
                system = systems.setdefault((label, one), System(name_of(spec.label, one), label, one))
                if baseline and system.runs:
                    continue
                say(f"  {system.title}")
                system.runs.append(answered(encoded, one, questions, asked.out / "answers"))
            told = encoded.described.extra
            about = {"method": spec.label, "seed": seed, "encode_seconds": told["seconds"], "trained": told["trained"]}
            costs.append({**encoded.summary(), **about, "left_out": dict(made.failed)})
        recall = {str(k): _recall(encoded, questions, k) for k in asked.k}
        done = summary(list(systems.values()), costs, questions, recall)
        done["about"] = {
            "command": " ".join(["python -m reproduction.parametric", *map(shlex.quote, argv or sys.argv[1:])]),
            "model": lm.provenance["name"],
            "dtype": str(lm.dtype),
            "corpus": corpus.name,
            "passages": len(encoded.corpus),
            "questions": len(questions),
            "notes": list(corpus.notes),
            "seconds": round(time.perf_counter() - started, 1),
        }
        write(done, asked.out)
    return done


def augmented(corpus: Corpus, asked: argparse.Namespace, lm: FrozenLM, rewrites: bool) -> Corpus:
    """The corpus with questions for its passages, once for all methods; passages without are left out, and counted."""
    if corpus.given:
        return corpus
    writer = lm if asked.augment == "self" else load_lm(asked.augment, dtype=asked.dtype, device=asked.device)
    by_model = ByModel(writer, retries=asked.retries, rewrites=rewrites, max_new_tokens=asked.augment_tokens)
    say(f"{writer.provenance['name']} writes questions for {len(corpus)} passages")
    started = time.perf_counter()
    kept = augment(corpus, by_model, asked.out / "augmentations.jsonl")
    if not kept.found:
        raise DataError("No passage has questions", got=next(iter(kept.failed.values())))
    note = (
        f"{writer.provenance['name']} wrote three readable questions for {len(kept.found)} of {len(corpus)} passages "
    )
    note += f"({time.perf_counter() - started:.0f} s now); the others are left out."
    passages = tuple(passage for passage in corpus.passages if passage.id in kept.found)
    return dataclasses.replace(corpus, passages=passages, given=kept.found, notes=(*corpus.notes, note))


def _recall(encoded: Encoded, questions: Sequence[Question], k: int) -> dict[str, float]:
    """Shares of questions: all its passages retrieved (where they are known), an answer in a retrieved passage."""
    found = encoded.retrieve(questions, AskConfig(k=k))
    rows = [[encoded.corpus.by_id[example.id] for example in found.examples(row)] for row in range(len(questions))]
    shares = {"answer": [any(_holds(p, one) for p in row) for one, row in zip(questions, rows, strict=True)]}
    known = [(one, row) for one, row in zip(questions, rows, strict=True) if one.passages]
    if known:
        shares["passages"] = [set(one.passages) <= {p.id for p in row} for one, row in known]
    return {name: sum(hits) / len(hits) for name, hits in shares.items()}


def _holds(passage: Passage, question: Question) -> bool:
    from coldframe.tasks.qa import Passage as Shown

    return answered_by(Shown(passage.title, passage.text), question.answers)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command's words."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("corpus", nargs="?", default="fact-corpus:200")
    parser.add_argument("--model", default="smollm2", help="built-in name, folder or hub id")
    parser.add_argument("--data", type=Path, help="holds 2wikimultihopqa, hotpotqa, popqa-1000")
    parser.add_argument("--methods", nargs="+", default=["prag", "poly-prag"], metavar="METHOD[,KEY=VALUE...]")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the methods")
    parser.add_argument("--questions", type=int, help="how many; all of a fact corpus, 100 of a set")
    parser.add_argument("--seed", type=int, default=0, help="of the questions that are drawn from a set")
    parser.add_argument("--k", type=int, nargs="+", default=[1, 3], help="passages; controls at the first")
    parser.add_argument("--combine", nargs="*", default=[], help="of several passages, beside the method's own")
    parser.add_argument("--cut", default="line", choices=["line", "published"], help="of an answer")
    parser.add_argument("--max-new-tokens", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument(
        "--augment", default="self", help="self, or another model, where the corpus brings no questions"
    )
    parser.add_argument("--retries", type=int, default=5, help="of the augmentation")
    parser.add_argument("--augment-tokens", type=int, default=512, help="of a rewrite, and of three questions")
    parser.add_argument("--on-error", default="skip", choices=["skip", "raise"], help="where that fails")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args(argv)


def main() -> None:
    """Run, and print the table."""
    try:
        done = run()
    except ColdframeError as error:
        sys.exit(f"error: {error}")
    print((Path(arguments(None).out) / "results.md").read_text(encoding="utf-8") if done else "")


if __name__ == "__main__":
    main()
