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

from coldframe.cli.parsing import settings_of
from coldframe.config import check
from coldframe.errors import ArtifactError, ColdframeError, ConfigError, DataError
from coldframe.evaluation.variants import retrieval_recall, variants_of
from coldframe.frozen.model import FrozenLM, load_lm
from coldframe.inference.augmenters import by_model
from coldframe.inference.predictions import Predictions
from coldframe.inference.run import predict
from coldframe.methods.registry import create
from coldframe.methods.weight_deltas.dyprag import DyPRAGConfig
from coldframe.methods.weight_deltas.passage_adapters import PassageAdapters
from coldframe.pipeline.fit import fit
from coldframe.pipeline.pipeline import Pipeline, load
from coldframe.pipeline.setup import training_settings
from coldframe.progress import say
from coldframe.retrieval.retriever import Retriever
from coldframe.retrieval.store import Store
from coldframe.storage.artifact import read_manifest
from coldframe.tasks import load_task
from coldframe.tasks.augmentation import augment
from coldframe.tasks.corpora import spread
from coldframe.tasks.passages import answered_by
from coldframe.tasks.task import Example, Passage, Task, content_hash
from coldframe.tasks.text_metrics import published_answer
from coldframe.training.config import TrainingConfig
from reproduction.multi_document_qa import draw
from reproduction.parametric_results import Place, System, Way, summary
from reproduction.parametric_tables import write
from reproduction.question_sets import READERS

PLACES: tuple[Place, ...] = ("closed-book", "text", "weights", "both")
TRAINING = {field.name for field in dataclasses.fields(TrainingConfig)}


class Spec(NamedTuple):
    """A method with its settings."""

    label: str
    method: str
    settings: dict[str, Any]
    training: dict[str, Any]

    @classmethod
    def of(cls, text: str) -> Spec:
        """From ``METHOD[,KEY=VALUE...]``; training settings and the method's own stand side by side.

        >>> Spec.of("poly-prag,adapters=20,epochs=3")[2:]
        ({'adapters': 20}, {'epochs': 3})
        """
        method, *pairs = text.split(",")
        values = settings_of(pairs)
        training = {name: value for name, value in values.items() if name in TRAINING}
        return cls(text, method, {name: value for name, value in values.items() if name not in training}, training)

    def build(self, skip: bool = False) -> PassageAdapters:
        """The method, not yet set up.

        Raises:
            ConfigError: It turns no passages into weights, or has no such setting.
        """
        method = create(self.method, {**self.settings, **({"skip_unusable": True} if skip else {})})
        if not isinstance(method, PassageAdapters):
            raise ConfigError(f"{self.method!r} turns no passages into weights", expected="prag, poly-prag or dyprag")
        return method


def task_of(options: argparse.Namespace) -> Task:
    """The corpus and the questions, the same for the same options."""
    if options.corpus.partition(":")[0] == "fact-corpus":
        task = load_task(options.corpus)
        questions = spread(task.test, options.questions or len(task.test))
    elif options.corpus not in READERS:
        raise ConfigError(f"There is no corpus {options.corpus!r}", expected=f"fact-corpus, {', '.join(READERS)}")
    elif options.data is None or not options.data.is_dir():
        raise DataError("The sets are read out of a folder", got=options.data, fix="Name it with --data.")
    else:
        task = READERS[options.corpus](options.data)
        rows = draw(task.test, options.questions or 100, options.seed)
        # Searched for among the passages of all questions: not those that came with the question.
        questions = tuple(dataclasses.replace(row, contexts=None, gold=()) for row in rows)
        pool, k = Store.of(task.store or ()), max(options.k)
        retrieved = Retriever(pool, "text", min(k, len(pool))).retrieve(questions, exclude_same_key=False)
        first = {entry.id: entry for row in range(len(rows)) for entry in retrieved.examples(row)}
        note = f"{len(first)} passages, the first {k} for {len(rows)} questions out of {len(pool)}."
        task = dataclasses.replace(task, store=tuple(first.values()), notes=(note,))
    schema = task.schema.replace(max_new_tokens=options.max_new_tokens)
    return dataclasses.replace(task, schema=schema, test=questions)


def ways(method: PassageAdapters, options: argparse.Namespace) -> Iterator[Way]:
    """All ways in which the questions are answered with a method, its controls at the first k."""
    for k in options.k:
        for place in PLACES:
            yield Way(place, 1 if place == "closed-book" else k)
        if k > 1:
            for combine in options.combine:
                yield Way("weights", k, combine)
    for place in ("weights", "both"):
        yield Way(place, options.k[0], control="swapped")
    for ablation in method.ablations:
        if ablation != "swapped-store":
            yield Way("weights", options.k[0], control=ablation.replace("-", " "))


def answered(
    pipeline: Pipeline, way: Way, questions: Sequence[Example], trained: str, options: argparse.Namespace
) -> Predictions:
    """The answers, out of the folder if they are there; ``trained`` names what the method has learned."""
    changed = pipeline.replace(k=min(way.k, len(pipeline.store)), combine=way.combine)
    answering = variants_of(changed)[way.variant(pipeline.method.name)]
    about = [pipeline.lm.weight_hash, str(pipeline.lm.dtype), pipeline.store.hash, repr(way), options.cut]
    about += [repr(pipeline.schema), *(question.id for question in questions)]
    if way.place in ("weights", "both"):  # the others do not depend on the method
        about.append(trained)
    path = options.out / "answers" / f"{content_hash(*about)}.jsonl"
    if not path.exists():
        started = time.perf_counter()
        method, lm, schema = answering.method, pipeline.lm, pipeline.schema
        retrieved = answering.retrieve(questions)
        run = predict(method, lm, schema, questions, retrieved, batch_size=options.batch_size)
        written = run.generated or ()
        if options.cut == "published":
            written = tuple(map(published_answer, written))
        dataclasses.replace(
            run,
            method=way.name(pipeline.method.name),
            generated=written,
            seed=pipeline.training.seed,
            seconds=time.perf_counter() - started,
        ).save(path)
    return Predictions.load(path)


def encoded(spec: Spec, seed: int, task: Task, lm: FrozenLM, folder: Path, skip: bool) -> Pipeline:
    """The corpus in weights: out of the folder, if it is finished there, else trained."""
    method, pipeline = spec.build(skip), None
    training = training_settings(method, {**spec.training, "seed": seed})
    try:
        pipeline = load(folder, lm)
    except ArtifactError as error:
        if "is not a coldframe artifact" not in str(error):
            raise
    finished = (
        pipeline is not None
        and (pipeline.method.config, pipeline.training) == (method.config, training)
        and {entry.id for entry in pipeline.store.examples} == {entry.id for entry in task.store or ()}
    )
    if pipeline is None or not finished:
        pipeline = fit(method, lm, task, training=training, out=folder)
    return dataclasses.replace(pipeline, schema=method.schema_for(task, seed))  # as long as its answers are to be


def run(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Encode and answer what is missing; write the results after every method."""
    options = arguments(argv)
    specs = [Spec.of(text) for text in options.methods]
    for spec in specs:  # settings that do not go together are told before the work
        training_settings(spec.build(), spec.training)
        check(not spec.training.get("seed"), "Seeds are given by --seeds", got=spec.label)
    task = task_of(options)
    lm = load_lm(options.model, dtype=options.dtype, device=options.device)
    task = augmented(task, options, lm, rewrites=any(spec.build().config.form == "published" for spec in specs))
    systems: dict[tuple[str, Way], System] = {}
    costs: list[dict[str, Any]] = []
    results: dict[str, Any] = {}
    started, skip = time.perf_counter(), options.on_error == "skip"
    for spec in specs:
        for seed in options.seeds:
            folder = options.out / "encoded" / f"{spec.label.replace(',', '-').replace('=', '_')}-{seed}"
            say(f"{spec.label}, seed {seed}: encoding {len(task.store or ())} passages")
            pipeline = encoded(spec, seed, task, lm, folder, skip)
            trained = repr(read_manifest(folder)["files"])
            for way in ways(spec.build(), options):
                baseline = way.place in ("closed-book", "text")
                label = "" if baseline else spec.label
                cut = " (published cut)" if options.cut == "published" else ""
                system = systems.setdefault((label, way), System(way.name(spec.label) + cut, label, way))
                # Those do not depend on the method; text has other solved examples for each seed.
                if (
                    baseline
                    and (way.place == "closed-book" or seed in [run.seed for run in system.runs])
                    and system.runs
                ):
                    continue
                say(f"  {system.title}")
                system.runs.append(answered(pipeline, way, task.test, trained, options))
            costs.append({"method": spec.label, "seed": seed, **cost_of(pipeline, task)})
        recall = {str(k): _recall(pipeline, task.test, k) for k in options.k}
        results = summary(list(systems.values()), costs, task.test, recall)
        results["about"] = {
            "command": " ".join(["python -m reproduction.parametric", *map(shlex.quote, argv or sys.argv[1:])]),
            "model": lm.provenance["name"],
            "dtype": str(lm.dtype),
            "corpus": task.schema.name,
            "passages": len(pipeline.store),
            "questions": len(task.test),
            "notes": list(task.notes),
            "seconds": round(time.perf_counter() - started, 1),
        }
        write(results, options.out)
    return results


def cost_of(pipeline: Pipeline, task: Task) -> dict[str, Any]:
    """Size and time of what was trained."""
    method, there = pipeline.method, {entry.id for entry in pipeline.store.examples}
    assert isinstance(method, PassageAdapters)  # no other is built here
    trained = len(there)
    if isinstance(method.config, DyPRAGConfig):
        trained = min(trained, method.config.train_passages or trained)
    return {
        "passages": len(there),
        "rank": method.config.rank,
        "numbers_per_adapter": method.layout.parameters,
        "bytes": method.adapters.nbytes,
        "bytes_per_passage": method.entry_bytes,
        "encode_seconds": round(pipeline.seconds, 2),
        "trained": trained,
        "left_out": [entry.id for entry in task.store or () if entry.id not in there],
    }


def augmented(task: Task, options: argparse.Namespace, lm: FrozenLM, rewrites: bool) -> Task:
    """The corpus with questions for its passages, once for all methods; passages without are left out, and counted."""
    if task.train or task.validation:
        return task
    same = options.augment == "self"
    writer = lm if same else load_lm(options.augment, dtype=options.dtype, device=options.device)
    author = by_model(writer, retries=options.retries, rewrites=rewrites, max_new_tokens=options.augment_tokens)
    say(f"{writer.provenance['name']} writes questions for {len(task.store or ())} passages")
    started = time.perf_counter()
    written = augment(task, author, options.out / "augmentations.jsonl")
    taught = {identity for row in (*written.train, *written.validation) for identity in row.gold}
    store = tuple(entry for entry in written.store or () if entry.id in taught)
    note = (
        f"{writer.provenance['name']} wrote three readable questions for {len(store)} of {len(task.store or ())} "
        f"passages ({time.perf_counter() - started:.0f} s now); the others are left out."
    )
    return dataclasses.replace(written, store=store, notes=(*task.notes, note))


def _recall(pipeline: Pipeline, questions: Sequence[Example], k: int) -> dict[str, float]:
    """Shares of questions: all its passages retrieved (where they are known), an answer in a retrieved passage."""
    searching = pipeline.replace(k=min(k, len(pipeline.store)))
    retrieved = searching.retrieve(questions)
    hits = [
        any(isinstance(p, Passage) and answered_by(p, (q.target, *q.references)) for p in retrieved.examples(row))
        for row, q in enumerate(questions)
    ]
    passages = retrieval_recall(searching, questions)
    return {"answer": sum(hits) / len(hits), **({} if passages is None else {"passages": passages})}


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
