"""PEAR on questions: does a reweighted model answer better, and does it keep what it knew?

    python -m reproduction.pear smollm2 --data DIR --sets mdqa10 2wiki hotpot popqa --questions 200 \
        --systems base pear random lowest all zero --mmlu 500 --texts 200 --out runs/pear-smollm2

A set is ``mdqaN`` (N documents, one with the answer; built by ``reproduction.multi_document_qa``), ``2wiki``,
``hotpot``, ``popqa``, ``nq``, ``triviaqa`` (out of DIR) or a file of questions. A system is ``base``, ``pear``, one of
its controls (``random``, ``lowest``, ``all``, ``zero``), gains by hand (``NAME=24.4:0.7,29.0:0.5``), a rival
(``ms-poe``, ``attention-buckets``, ``moice=FOLDER`` of a fitted MoICE), a folder that ``coldframe reweight`` wrote,
or ``NAME=package.module:function``: a function that takes the frozen model and gives
``generate(prompts, max_new_tokens) -> texts``, or an object that has it.

Every answer is kept in OUT/answers as it comes; the same command goes on where it was stopped, and more questions, sets
or systems use what is there. OUT/results.json, OUT/results.md and OUT/report.html hold what came of it.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from coldframe.cli.parsing import settings_of, writable
from coldframe.config import check
from coldframe.errors import ColdframeError, ConfigError, DataError, TrainingError
from coldframe.frozen.model import FrozenLM, load_lm
from coldframe.frozen.ports import Conditioning, Prompt
from coldframe.frozen.tokens import in_chat
from coldframe.methods.base import Method
from coldframe.methods.config import MethodContext
from coldframe.methods.head_gains.config import ReweightConfig
from coldframe.methods.head_gains.reweighting import Reweighting
from coldframe.methods.registry import create
from coldframe.pipeline.pipeline import load
from coldframe.pipeline.reweight import COPYING, reweight
from coldframe.progress import say
from coldframe.retrieval.store import Retrieved, Store
from coldframe.storage.artifact import MANIFEST
from coldframe.storage.files import sha256_of
from coldframe.tasks.task import content_hash
from reproduction import multi_document_qa
from reproduction import questions as question_files
from reproduction.answers.evaluate import QASet, Scores, ask, scored
from reproduction.answers.systems import CallableSystem, LMSystem, System
from reproduction.pear_results import check_sources, retained, summary, write
from reproduction.question_sets import READERS, QAPrompt
from reproduction.questions import Question, read_questions
from reproduction.reweighted.data import Reweighted
from reproduction.reweighted.report import render_markdown

VARIANTS: dict[str, dict[str, Any]] = {"pear": {}, "zero": {"fixed": 0.0}}
VARIANTS |= {choice: {"choose": choice} for choice in ("random", "lowest", "all")}
RIVALS = ("ms-poe", "attention-buckets")
GAIN = re.compile(r"(\d+)\.(\d+):([^,:/]+)")
PLACES = (0.0, 0.5, 1.0)  # of the gold document: first, middle, last


def sets_of(options: argparse.Namespace, lm: FrozenLM) -> list[QASet]:
    """All sets: drawn by the seed, so that more questions hold the fewer, and what was measured on them.

    Raises:
        ConfigError: If two have one name, or a number is out of range.
    """
    for name in ("wrong", "skip"):
        check(getattr(options, name) >= 0, f"--{name} cannot be negative", got=getattr(options, name))
    check(options.questions >= 1, "--questions must be at least 1", got=options.questions)
    names = [Path(name).stem for name in options.sets]
    check(len(set(names)) == len(names), "Two sets have the same name", got=" ".join(options.sets))
    drawn = [questions_of(name, options) for name in options.sets]
    # Room for the longest answer of any question: the wrong ones are answers to others.
    longest = max(len(lm.answer_tokens(question.target)) for _, pool in drawn for question in pool)
    prompt = prompt_of(options, lm, max(longest, getattr(options, "max_new_tokens", 0)))
    return [
        QASet.of(name, questions, prompt, options.wrong, pool)
        for name, (questions, pool) in zip(names, drawn, strict=True)
    ]


def reweight_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Settings of the reweighting, all but the seed.

    Raises:
        ConfigError: If one has a word of its own.
    """
    settings = settings_of(options.set)
    for name, word in {"seed": "--seeds", "heads": "--heads"}.items():
        check(name not in settings, f"--set {name} is said with {word}", got=settings.get(name))
    return {"heads": options.heads, **settings}


def questions_of(name: str, options: argparse.Namespace) -> tuple[list[Question], list[Question]]:
    """Questions that are drawn from a set, and all from which they were."""
    draw = multi_document_qa.draw
    if match := re.fullmatch(r"mdqa(\d+)", name):
        documents = int(match[1])
        gold = options.gold or sorted({round(share * (documents - 1)) for share in PLACES})
        rows, passages = multi_document_qa.load(_data(options))
        count = options.skip + options.questions
        questions = multi_document_qa.build(
            rows, passages, documents=documents, gold=gold, seed=options.seed, count=count
        )
        groups = set([*dict.fromkeys(question.group for question in questions)][options.skip :])
        return [question for question in questions if question.group in groups], rows
    if name not in READERS and not Path(name).is_file():
        raise ConfigError(f"There is no set {name!r}", expected=f"mdqaN, {', '.join(READERS)}, or a file of questions")
    rows = question_files.questions_of(READERS[name](_data(options))) if name in READERS else read_questions(name)
    return draw(rows, options.skip + options.questions, options.seed)[options.skip :], rows


def _data(options: argparse.Namespace) -> Path:
    if options.data is None or not options.data.is_dir():
        raise DataError("The sets are read out of a folder", got=options.data, fix="Name it with --data.")
    return Path(options.data)


Maker: TypeAlias = Callable[[], System | None]


def systems_of(options: argparse.Namespace, lm: FrozenLM, notes: list[str]) -> tuple[list[System], Reweighting | None]:
    """All systems with their seeds, and the reweighting of the first seed, if PEAR is among them.

    Every word is understood before the first system is trained.

    Raises:
        ConfigError: If a system is unknown, or two have one name.
    """
    reweightings: dict[str, Reweighting] = {}
    makers: dict[str, list[Maker]] = {}
    for word in options.systems:
        name, seeds = _system(word, options, lm, notes, reweightings)
        check(name not in makers, "Two systems have the same name", got=" ".join(options.systems))
        makers[name] = seeds
    systems = [system for seeds in makers.values() for make in seeds if (system := make()) is not None]
    return systems, reweightings.get("pear")


def _system(
    word: str, options: argparse.Namespace, lm: FrozenLM, notes: list[str], reweightings: dict[str, Reweighting]
) -> tuple[str, list[Maker]]:
    """A system's name, and what makes each of its seeds."""
    name, _, function = word.partition("=")
    own = {"base", *VARIANTS, *RIVALS}
    if word == "base":
        return word, [lambda: LMSystem(lm)]
    if word in VARIANTS:
        settings = {**reweight_settings(options), **VARIANTS[word]}
        configs = [ReweightConfig.from_dict({**settings, "seed": seed}) for seed in options.seeds]
        return word, [partial(_reweighted, word, lm, config, notes, reweightings) for config in configs]
    if word in RIVALS:
        method = create(word).setup(MethodContext(lm, COPYING.schema))
        return word, [lambda: rival(word, Positions(lm, method), lm, word)]
    if name == "moice" and Path(function).is_dir():
        trained = Positions(lm, load(function, lm).method)
        return name, [lambda: rival(name, trained, lm, sha256_of(Path(function) / MANIFEST))]
    if function:
        check(name not in own, f"{name} is the name of another system", got=word, expected="another name before the =")
        if GAIN.match(function):
            gains = by_hand(lm, function)
            return name, [lambda: LMSystem(lm, name, gains)]
        module, _, attribute = function.partition(":")
        try:
            make = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            expected = "NAME=package.module:function, NAME=LAYER.HEAD:GAIN,... or moice=FOLDER"
            raise ConfigError(f"Cannot load the system {word!r}: {error}", expected=expected) from error
        return name, [lambda: rival(name, make(lm), lm, function)]
    if Path(word).is_dir():
        name = Path(word).name
        check(name not in own, f"{name} is the name of another system", got=word, expected="another folder name")
        return name, [lambda: LMSystem(load_lm(word, dtype=options.dtype, device=options.device), name)]
    raise ConfigError(
        f"There is no system {word!r}",
        expected=f"base, {', '.join([*VARIANTS, *RIVALS])}, a folder, NAME=LAYER.HEAD:GAIN,..., NAME=module:function",
    )


def _reweighted(
    name: str, lm: FrozenLM, config: ReweightConfig, notes: list[str], reweightings: dict[str, Reweighting]
) -> System | None:
    """PEAR or one of its controls; None, and a note, if its training came to nothing."""
    try:
        reweighting = reweight(lm, config)
    except TrainingError as error:
        notes.append(f"{name}, seed {config.seed}, could not be trained: {error}")
        return None
    reweightings.setdefault(name, reweighting)
    return LMSystem(lm, name, reweighting.gains, config.seed)


def by_hand(lm: FrozenLM, text: str) -> Tensor:
    """Gains out of ``layer.head:gain,...``, 1 elsewhere.

    Raises:
        ConfigError: If the model has no such head.
    """
    gains = torch.ones(lm.anatomy.n_layers, lm.anatomy.n_heads)
    for part in text.split(","):
        match = GAIN.fullmatch(part)
        try:
            layer, head, value = int(match[1]), int(match[2]), float(match[3])  # type: ignore[index]
        except (TypeError, ValueError):
            raise ConfigError("That is no gain", got=part, expected="LAYER.HEAD:GAIN, such as 17.0:0.5") from None
        if layer >= gains.shape[0] or head >= gains.shape[1]:
            expected = f"{gains.shape[0]} layers of {gains.shape[1]} heads, counted from 0"
            raise ConfigError("There is no such head", got=f"{layer}.{head}", expected=expected)
        gains[layer, head] = value
    return gains


class Positions:
    """A model that is read with other positions, as a rival system is asked."""

    def __init__(self, lm: FrozenLM, method: Method) -> None:
        self.lm, self.method = lm, method
        self.copies = self.put([""]).copies

    def put(self, prompts: Sequence[str]) -> Conditioning:
        """The positions, for a batch of prompts."""
        return self.method.condition(prompts, Retrieved.nothing(Store.of([]), len(prompts)))

    def generate(self, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        """Continue prompts greedily."""
        return self.lm.generate([Prompt(p) for p in prompts], self.put(prompts), max_new_tokens=max_new_tokens)

    @torch.no_grad()
    def loss(self, prompts: Sequence[str], answers: Sequence[str]) -> Tensor:
        """Summed losses of the answers, ``[n]``."""
        return self.lm.loss([Prompt(p) for p in prompts], answers, self.put(prompts))


def rival(name: str, scheme: Any, lm: FrozenLM, settings: str) -> CallableSystem:
    """A system out of ``generate``, or out of an object that has it and may have ``loss(prompts, answers)`` too."""
    generate = getattr(scheme, "generate", scheme)
    loss = None
    if hasattr(scheme, "loss"):

        def loss(prompts: list[str], answers: list[str]) -> list[float]:
            sums = scheme.loss(prompts, answers).tolist()
            return [total / len(lm.answer_tokens(answer)) for total, answer in zip(sums, answers, strict=True)]

    fingerprint = content_hash(lm.weight_hash, str(lm.dtype), settings)
    return CallableSystem(name, generate, fingerprint, loss=loss, copies=getattr(scheme, "copies", 1))


def prompt_of(options: argparse.Namespace, lm: FrozenLM, reserve: int = 32) -> QAPrompt:
    """How questions are put: as long as the model's context allows, or as ``--max-tokens`` says."""
    limit = lm.anatomy.max_positions - max(reserve, 32) - len(lm.bos)
    chat = None
    if options.chat:
        if not lm.tokenizer.chat_template:
            raise ConfigError("The tokenizer has no chat template", fix="Leave --chat out.")
        chat = partial(in_chat, lm)
    return QAPrompt(lm.tokenize, min(limit, options.max_tokens or limit), chat)


class Progress:
    """Progress, a line every half minute."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Say where it stands."""
        if time.monotonic() - self.last > 30 or done == total:
            self.last = time.monotonic()
            say(f"{what}: {done} of {total}")


def question_arguments() -> argparse.ArgumentParser:
    """The words that say which model is asked what, and how; parent of a command's parser."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("model", nargs="?", default="smollm2", help="built-in name, folder or hub id")
    parser.add_argument("--data", type=Path, help="holds nq-open, 2wikimultihopqa, popqa-1000 and so on")
    parser.add_argument("--sets", nargs="+", default=["mdqa10"])
    parser.add_argument("--questions", type=int, default=200, help="of every set, drawn by the seed")
    parser.add_argument("--skip", type=int, default=0, help="leave out so many that are drawn first")
    parser.add_argument("--gold", type=int, nargs="+", help="places of the gold document in mdqaN; first, middle, last")
    parser.add_argument("--heads", type=int, help="K of PEAR and its controls; those that stand out if left out")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="other settings of the reweighting")
    parser.add_argument("--seed", type=int, default=0, help="of the questions that are drawn")
    parser.add_argument(
        "--wrong", type=int, default=7, help="answers beside the right one to choose among; 0 leaves it"
    )
    parser.add_argument("--max-tokens", type=int, help="of a prompt; the model's context if left out")
    parser.add_argument("--chat", action="store_true", help="put questions in the tokenizer's chat template")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, required=True)
    return parser


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command's words."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], parents=[question_arguments()])
    parser.add_argument("--systems", nargs="+", default=["base", "pear"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of PEAR and its controls")
    parser.add_argument("--max-new-tokens", type=int, default=32, help="of an answer; 0 measures the loss alone")
    parser.add_argument("--batch-tokens", type=int, default=4096, help="tokens at once, pads included")
    parser.add_argument("--mmlu", type=int, default=0, help="questions of MMLU-Pro, without examples")
    parser.add_argument("--texts", type=int, default=0, help="passages of nq-open's pool, or lines of --text-file")
    parser.add_argument("--text-file", type=Path, help="ordinary text, one piece a line")
    return parser.parse_args(argv)


def run(argv: Sequence[str] | None = None) -> Reweighted:
    """Measure what is missing; write the results after every set."""
    options, notes, started, report = arguments(argv), list[str](), time.perf_counter(), Progress()
    # Everything that can be wrong with the words is found before the first hour of work.
    for name in ("max_new_tokens", "mmlu", "texts"):
        check(getattr(options, name) >= 0, f"--{name.replace('_', '-')} cannot be negative", got=getattr(options, name))
    writable(options.out)
    check_sources(options)
    lm = load_lm(options.model, dtype=options.dtype, device=options.device)
    sets = sets_of(options, lm)
    for qa in sets:
        if qa.cut:
            notes.append(f"{qa.name}: {qa.cut} of {len(qa.questions)} prompts had passages cut to fit the context.")
    systems, reweighting = systems_of(options, lm, notes)
    scores: Scores = {}
    answers = options.out / "answers"
    measured = retained(systems, options, answers, report)
    sizes = {"max_new_tokens": options.max_new_tokens, "batch_tokens": options.batch_tokens}
    for i, qa in enumerate(sets, 1):
        of_set = scores.setdefault(qa.name, {})
        for system in systems:
            rows = ask(system, qa, answers, **sizes, report=report)
            of_set.setdefault(system.name, {})[system.seed] = scored(qa, rows)
            if empty := sum(row["text"] == "" for row in rows.values()):
                notes.append(f"{qa.name}: {empty} of {len(rows)} answers of {system.name} {system.seed} are empty.")
        spent = time.perf_counter() - started
        results = summary(options, lm, sets[:i], systems, scores, reweighting, measured, notes, spent)
        write(results, options.out)
    return results


def main() -> None:
    """Run, and say where the results are."""
    try:
        print(render_markdown(run()))
    except ColdframeError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
