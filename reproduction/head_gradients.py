"""Are the heads that hold back copying the ones that hold back answers? Every head's pull on both, side by side.

    python -m reproduction.head_gradients smollm2 --data DIR --sets popqa nq --questions 100 --chat --out runs/pull

PEAR looks for heads on random sequences and hopes that they matter on questions. How much head ``h`` of layer ``l``
matters there is a derivative, one backward pass for a question: of the loss of the right answer among wrong ones,

    L = -log p(a_0 | prompt) / sum_i p(a_i | prompt),      pull(l, h) = dL / dg(l, h)   at g = 1,

with ``g`` the head's gain. Above 0, the right answer gains when the head is weighed down, just as an effect above 0
says for the copy. Their rank correlation over the heads says whether the one foretells the other. An effect is that of
taking the head away, by one way through the model; so the pull on the copy itself stands beside it, the same derivative
of the proxy's loss. ``sum (tau - 1) pull`` is what gains ``tau`` do to the questions to first order. All come with 95%
intervals over the questions, which for a rank correlation lie a little too near 0: resampling adds the noise once more.
From the correlation between two halves of the questions follows what could be reached.

OUT/pull.json and OUT/pull.md hold what came of it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coldframe.errors import ColdframeError, ConfigError
from coldframe.frozen.model import FrozenLM, load_lm
from coldframe.frozen.ports import Conditioning, Prompt
from coldframe.inference.intervals import interval
from coldframe.methods.head_gains.config import ReweightConfig
from coldframe.methods.head_gains.discovery import rank_correlation
from coldframe.methods.head_gains.proxy import ProxyTask
from coldframe.pipeline.reweight import reweight
from coldframe.storage.files import atomic_path
from reproduction.answers.evaluate import QASet
from reproduction.answers.result_cache import ResultCache
from reproduction.pear import Progress, question_arguments, reweight_settings, sets_of

Floats = NDArray[np.float64]
_RESAMPLES = 2000  # each ranks all heads


def choice_gradients(lm: FrozenLM, prompts: Sequence[str], targets: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor]:
    """The loss among answers of each prompt, and its derivative by the gain of every head.

    Args:
        lm: The model.
        prompts: Read as they are.
        targets: Of each prompt the right answer, then the wrong ones, as many as of the next.

    Shapes:
        Returns ``[prompts]`` and ``[prompts, layers, heads]``, float32.

    Cost: one forward and one backward pass a prompt, without a gradient of any weight.
    """
    losses, pulls = [], []
    for prompt, answers in zip(prompts, targets, strict=True):
        gains = torch.ones(lm.anatomy.n_layers, lm.anatomy.n_heads, device=lm.device, requires_grad=True)
        put = Conditioning(contexts=((prompt,),), head_gains=gains)
        negative = lm.losses([Prompt("")], [answers], put)[0]
        loss = negative[0] + torch.logsumexp(-negative, 0)
        losses.append(loss.detach().cpu())
        pulls.append(torch.autograd.grad(loss, gains)[0].float().cpu())
    return torch.stack(losses), torch.stack(pulls)


def copy_gradient(lm: FrozenLM, config: ReweightConfig) -> Tensor:
    """The derivative of the proxy's loss by the gain of every head, on the sequences that training looks at.

    Shapes:
        Returns ``[layers, heads]``, float32.
    """
    task = ProxyTask(lm, config.bos, config.seed)
    gains = torch.ones(lm.anatomy.n_layers, lm.anatomy.n_heads, device=lm.device, requires_grad=True)
    total = torch.zeros(gains.shape)
    parts = task.sequences(config.held_out, config.length, 1).split(8)
    for ids in parts:
        with lm.ports(Conditioning(head_gains=gains)):
            loss = task.copy_losses(ids).mean(1).sum()
        total += torch.autograd.grad(loss, gains)[0].float().cpu()
    return total / config.held_out


@dataclasses.dataclass(frozen=True)
class Agreement:
    """What the proxy's effects say about a set of questions.

    Attributes:
        questions: How many.
        effects: Rank correlation over all heads of the proxy's effects and the mean pull, with its interval.
        copies: The same of the pull on a copy and the mean pull.
        halves: That of the mean pulls of two halves of the questions, the mean over many halvings.
        foretold: ``sum (tau - 1) pull``: what the gains do to the loss, to first order, nats, with its interval.
        best: Heads of the largest mean pull, as ``(layer, head, pull, pull on a copy, effect)``.
    """

    questions: int
    effects: tuple[float, float, float]
    copies: tuple[float, float, float]
    halves: float
    foretold: tuple[float, float, float]
    best: list[tuple[int, int, float, float, float]]

    @property
    def reachable(self) -> float:
        """The correlation that a quantity without noise could have with the mean pull: ``sqrt(2 r / (1 + r))``.

        With r between halves (Spearman and Brown); for ranks nearly so.
        """
        r = max(self.halves, 0.0)
        return math.sqrt(2 * r / (1 + r))


def agreement(
    pulls: Floats, effects: Floats, copies: Floats, gains: Floats, seed: int = 0, shown: int = 10
) -> Agreement:
    """Compare pulls on questions with effects and pulls on a copy.

    Shapes:
        pulls: ``[questions, layers, heads]``; effects, copies and gains: ``[layers, heads]``.
    """
    rows = pulls.reshape(len(pulls), -1)
    generator, n = np.random.default_rng(seed), len(pulls)

    def like(a: Floats, b: Floats) -> float:
        return rank_correlation(torch.from_numpy(a), torch.from_numpy(b))

    def spread(of_mean: Callable[[Floats], float]) -> tuple[float, float, float]:
        def statistic(weights: Floats) -> Floats:
            return np.array([of_mean(mean) for mean in weights @ rows / weights.sum(axis=1, keepdims=True)])

        result = interval([statistic], n, kind="percentile", resamples=_RESAMPLES, seed=seed)
        return result.value, result.low, result.high

    mean, change = rows.mean(0), gains.ravel() - 1
    halves = []
    for _ in range(100):
        order, middle = generator.permutation(n), n // 2
        halves.append(like(rows[order[:middle]].mean(0), rows[order[middle:]].mean(0)))
    order = np.argsort(-mean, kind="stable")[:shown]
    return Agreement(
        questions=n,
        effects=spread(lambda mean: like(mean, effects.ravel())),
        copies=spread(lambda mean: like(mean, copies.ravel())),
        halves=float(np.mean(halves)),
        foretold=spread(lambda mean: float(mean @ change)),
        best=[
            (*divmod(int(i), effects.shape[1]), *(float(x.ravel()[i]) for x in (mean, copies, effects))) for i in order
        ],
    )


def measured(lm: FrozenLM, qa: QASet, out: Path, report: Progress) -> Floats:
    """Pulls of every question of a set, ``[questions, layers, heads]``; ``out`` holds those measured before."""
    cache = ResultCache(out, f"pull-{qa.name}", {"model": lm.weight_hash, "dtype": str(lm.dtype)})
    questions = qa.by_key()

    def measure(keys: list[str]) -> list[Mapping[str, Any]]:
        losses, pulls = choice_gradients(lm, *qa.put(questions[key] for key in keys))
        return [
            {"id": key, "loss": loss, "pull": pull}
            for key, loss, pull in zip(keys, losses.tolist(), pulls.tolist(), strict=True)
        ]

    sizes = {key: qa.prompts[question.id][1] for key, question in questions.items()}
    rows = cache.fill(sizes, measure, 1, lambda done, total: report(qa.name, done, total))
    return np.array([rows[key]["pull"] for key in questions])


def markdown(agreements: Mapping[str, Agreement]) -> str:
    """Tables of all sets."""
    lines = [
        "| set | questions | rank correlation with effects | with pulls on a copy "
        "| between halves | reachable | foretold |"
    ]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, result in agreements.items():
        effects, copies = (f"{r:.2f} [{low:.2f}, {high:.2f}]" for r, low, high in (result.effects, result.copies))
        foretold = "{:+.3f} [{:+.3f}, {:+.3f}]".format(*result.foretold)
        halves = f"{result.halves:.2f} | {result.reachable:.2f}"
        lines.append(f"| {name} | {result.questions:,} | {effects} | {copies} | {halves} | {foretold} |")
    for name, result in agreements.items():
        lines += ["", f"Heads that hold back the right answer most, {name}:", ""]
        lines += ["| head | pull | pull on a copy | effect on a copy |", "| --- | ---: | ---: | ---: |"]
        lines += [f"| {row[0]}.{row[1]} | {row[2]:+.3f} | {row[3]:+.3f} | {row[4]:+.3f} |" for row in result.best]
    return "\n".join(lines) + "\n"


def run(argv: Sequence[str] | None = None) -> dict[str, Agreement]:
    """Measure what is missing; write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], parents=[question_arguments()])
    options = parser.parse_args(argv)
    if options.wrong < 1 or options.questions < 4:
        raise ConfigError(
            "A choice needs a wrong answer, and halves two questions each", expected="--wrong 1, --questions 4"
        )
    lm = load_lm(options.model, dtype=options.dtype, device=options.device)
    report, agreements = Progress(), dict[str, Agreement]()
    sets = sets_of(options, lm)
    config = ReweightConfig.from_dict({**reweight_settings(options), "seed": options.seed})
    reweighting, copies = reweight(lm, config), copy_gradient(lm, config).double().numpy()
    effects, gains = (x.double().numpy() for x in (reweighting.effects.mean(config.effect), reweighting.gains))
    for qa in sets:
        pulls = measured(lm, qa, options.out / "pulls", report)
        agreements[qa.name] = agreement(pulls, effects, copies, gains, options.seed)
        pages = {
            "pull.json": json.dumps({name: dataclasses.asdict(x) for name, x in agreements.items()}, indent=1),
            "pull.md": markdown(agreements),
        }
        for name, text in pages.items():
            with atomic_path(options.out / name) as path:
                path.write_text(text, encoding="utf-8")
    return agreements


def main() -> None:
    """Run, and print the tables."""
    try:
        print(markdown(run()))
    except ColdframeError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
