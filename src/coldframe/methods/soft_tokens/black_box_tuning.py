"""Black-Box Tuning: a prompt that is found from losses alone, without a gradient."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from coldframe.config import check
from coldframe.errors import ArtifactError, MissingExtraError, TrainingError
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Conditioning
from coldframe.methods.base import Method, prompts
from coldframe.methods.search_space import Choices, Floats, SearchSpace
from coldframe.methods.soft_tokens.prompt_tuning import PromptTuning, PromptTuningConfig
from coldframe.methods.training_set import Problem, RetrievedRows, TrainingData
from coldframe.progress import Bar, first_process
from coldframe.storage.tensors import read_tensors, reading, write_tensors
from coldframe.tasks.metrics import METRICS
from coldframe.tasks.task import content_hash

_ROUND = 5  # generations between two looks at the validation rows: 100 evaluations, as in the authors' code
_FILE = "search.safetensors"


@dataclasses.dataclass(frozen=True)
class BlackBoxTuningConfig(PromptTuningConfig):
    """Settings of Black-Box Tuning.

    Args:
        tokens: Soft tokens m, at least 1; 50 in the paper.
        dimensions: Length d of the vector that is searched, at least 2.
        population: Candidates of a generation, at least 4.
        evaluations: Candidates in all, at least one generation; what is left of one is not used. 8,000 in the paper.
        sigma: Standard deviation of the first generation, above 0: at 1, what is added to a token is as long as a
            token's embedding.
    """

    section = "Black-Box Tuning settings"
    at_least = {"dimensions": 2, "population": 4}
    at_most = {"dimensions": 10_000}
    above = {"sigma": 0}

    dimensions: int = 500
    population: int = 20
    evaluations: int = 2_000
    sigma: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        enough = self.evaluations >= self.population
        check(enough, "There is no whole generation", got=self.evaluations, expected=f"evaluations={self.population}")


class BlackBoxTuning(PromptTuning):
    """Prompt Tuning without a gradient: ``P = P_0 + A z``, where evolution finds ``z`` in ``R^d``.

    ``P_0`` in ``R^{m x D}`` are embeddings of random vocabulary entries, ``A`` in ``R^{mD x d}`` is drawn once from
    ``N(0, s^2 / d)`` with ``s`` an entry of a usual embedding. A generation of CMA-ES draws n candidates
    ``z ~ N(mu, sigma^2 C)``, measures for each

        L(z) = mean over a batch of training rows of -log p(y | P_0 + A z, x)

    and moves ``mu``, ``sigma`` and ``C`` towards those with the smallest. After every fifth generation ``mu`` is
    validated; the best is kept. The model may be on a server, as long as it takes vectors and gives scores.

    Paper: Sun et al. 2022, arXiv 2201.03514; the scale of ``A``: 2205.11200. Deviates: the loss is cross-entropy, on a
    fresh batch for every generation, the same for all its candidates, and not on all rows; ``z`` has no bounds; ``mu``
    is validated, not a candidate; ``C`` has negative weights too (the library's default); suffix placement by default.

    Of the training settings ``batch_size``, ``objective``, ``class_weights``, ``select`` and ``seed`` count.

    Shapes:
        z ``[d]`` -> P ``[m, D]``, the same for every query.

    Raises:
        MissingExtraError: pycma is not installed (extra ``blackbox``); it is needed to be fitted only.
        TrainingError: A loss is not finite.

    Cost:
        d numbers are searched, m tokens a query. ``evaluations`` times ``batch_size`` rows are read, without gradient;
        those of validation come on top. ``m D d`` numbers in memory while it is fitted.

    Relations:
        :class:`PromptTuning` finds the same prompts by gradient, with far fewer rows.

    Example:
        >>> BlackBoxTuning(evaluations=8000)
        BlackBoxTuning(evaluations=8000)
    """

    name: ClassVar[str] = "black-box-tuning"
    paper: ClassVar[str] = "arXiv 2201.03514"
    config_class = BlackBoxTuningConfig
    config: BlackBoxTuningConfig
    needs_gradient: ClassVar[bool] = False
    search_space: ClassVar[SearchSpace] = {
        "sigma": Floats(0.1, 3.0),
        "dimensions": Choices((50, 200, 500)),
        "population": Choices((10, 20, 40)),
        "tokens": Choices((8, 16, 32)),
    }

    @property
    def trained_parameters(self) -> int:
        """The length of z."""
        return self.config.dimensions

    def problems(self, data: TrainingData) -> Iterator[Problem]:
        """The training rows, searched and not trained."""
        yield Problem(self, data.train, data.validation, name=self.name, search=self.search)

    @torch.no_grad()
    def search(
        self,
        problem: Problem,
        lm: FrozenLM,
        training: Any,
        folder: Path | None = None,
        resume: bool = True,
        quiet: bool = False,
        on_record: Callable[[Mapping[str, float]], None] | None = None,
    ) -> list[dict[str, float]]:
        """Find the prompt; one record for every round of generations. The arguments are those of the training loop.

        What is resumed asks for the same candidates again and is told the losses that it measured before.
        """
        config, method = self.config, problem.method
        strategy, batches = evolution(config, training.seed), _batches(problem.items, training)
        start, projection = self.prompt.clone(), self._projection(training.seed)
        path = None if folder is None else folder / _FILE
        told = Told(_fingerprint(problem, lm, training), self.prompt.clone())
        if path is not None and resume and path.exists():
            told.read(path)
        generations, before = config.evaluations // config.population, len(told.losses)
        if before < generations:
            _read_ahead(problem, lm, quiet)

        def place(z: NDArray[np.float64]) -> None:
            self.prompt.copy_(start + (projection @ torch.from_numpy(z).to(projection)).view_as(start))

        def measured(z: NDArray[np.float64], rows: list[int]) -> float:
            place(z)
            loss = _mean(method.loss(lm, problem.items.take(rows)), [problem.items.weight(i) for i in rows])
            bar.advance(1, loss=loss)
            return loss

        with Bar(generations * config.population, f"search {problem.name}", quiet) as bar:
            bar.skip(before * config.population)
            for first in range(0, generations, _ROUND):
                started, last = time.perf_counter(), min(first + _ROUND, generations)
                for number in range(first, last):
                    candidates, rows = strategy.ask(), next(batches)
                    if number >= before:
                        told.losses.append([measured(z, rows) for z in candidates])
                    strategy.tell(candidates, told.losses[number])
                if last <= before:
                    continue
                place(strategy.result.xfavorite)  # mu
                record = {"step": float(last), "train_loss": float(np.mean(told.losses[first:last]))}
                record |= _validated(problem, lm, training.batch_size)
                bar.note({name: value for name, value in record.items() if name.startswith("validation")})
                record["seconds"] = time.perf_counter() - started
                told.judge(record, self.prompt, training.select, self.ready.schema.metric)
                if path is not None and first_process():
                    told.write(path)
                if on_record is not None:
                    on_record(told.history[-1])
        self.prompt.copy_(told.best)
        return told.history

    def _projection(self, seed: int) -> Tensor:
        """``A``, ``[m D, d]``."""
        lm, d = self.ready.lm, self.config.dimensions
        normal = torch.randn(self.prompt.numel(), d, generator=torch.Generator().manual_seed(seed))
        projection: Tensor = normal * (lm.embedding_norm() / (lm.d_model * d) ** 0.5)
        return projection.to(self.prompt.device)


@dataclasses.dataclass
class Told:
    """What a search was told, which is all that it depends on, and what it chose.

    Attributes:
        fingerprint: Of settings, rows and model.
        best: The best prompt, ``[m, D]``.
        losses: Of the candidates of every generation.
        history: One record for every round.
        score: Of the best prompt, more is better; None before the first round.
    """

    fingerprint: str
    best: Tensor
    losses: list[list[float]] = dataclasses.field(default_factory=list)
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    score: float | None = None

    def judge(self, record: dict[str, float], prompt: Tensor, select: str, metric: str) -> None:
        """Close a round: keep its prompt if it is the best, by the rule of the training loop."""
        score = -record.get("validation_loss", record["train_loss"])
        if select == "last":
            score = record["step"]
        elif select == "metric" and "validation_metric" in record:
            score = METRICS[metric].sign * record["validation_metric"] + 1e-3 * max(score, -10.0)
        best = self.score is None or score > self.score
        if best:
            self.score, self.best = score, prompt.clone()
        self.history.append({"epoch": len(self.history) + 1.0, **record, "best": float(best)})

    def write(self, path: Path) -> None:
        """Replace the file once all of it is written."""
        values = {"fingerprint": self.fingerprint, "history": self.history, "score": self.score}
        tensors = {"best": self.best, "losses": torch.tensor(self.losses, dtype=torch.float64)}
        write_tensors(path, tensors, search=values)

    def read(self, path: Path) -> None:
        """Take what :meth:`write` wrote.

        Raises:
            ArtifactError: It is damaged, or belongs to other settings, data or model.
        """
        with reading(path, fix := "Delete it to start again from the beginning."):
            tensors, values = read_tensors(path, fix)
            search = values["search"]
            if search["fingerprint"] != self.fingerprint:
                raise ArtifactError(f"{path} belongs to a run with other settings, data or model", fix=fix)
            self.best, self.losses = tensors["best"].to(self.best.device), tensors["losses"].tolist()
            self.history, self.score = search["history"], search["score"]


def evolution(config: BlackBoxTuningConfig, seed: int) -> Any:
    """CMA-ES of pycma from ``mu = 0``, with a generator of its own: the global one of numpy stays as it is.

    Raises:
        MissingExtraError: pycma is not installed.
    """
    try:
        import cma
    except ImportError as error:
        raise MissingExtraError("cma", "blackbox", "Black-Box Tuning") from error
    normal = np.random.default_rng(seed).standard_normal
    options = {"randn": lambda *shape: normal(shape), "seed": np.nan, "popsize": config.population}
    silent = {"verbose": -9, "verb_log": 0}
    return cma.CMAEvolutionStrategy(np.zeros(config.dimensions), config.sigma, {**options, **silent})


def _batches(items: Any, training: Any) -> Iterator[list[int]]:
    """Those of the training loop, one epoch after another."""
    for epoch in itertools.count():
        yield from items.batches(training.batch_size, training.seed, epoch)


def _read_ahead(problem: Problem, lm: FrozenLM, quiet: bool) -> None:
    method: Method = problem.method
    for items in (problem.items, problem.validation):
        if method.shares_text and isinstance(items, RetrievedRows) and len(items):
            conditioning = Conditioning(contexts=method.contexts(items.texts, items.retrieved))
            lm.read_ahead(lm.rows(prompts(method.ready.schema, items.texts), conditioning), quiet)


def _validated(problem: Problem, lm: FrozenLM, batch_size: int) -> dict[str, float]:
    """Loss and metric on the validation rows, if there are any."""
    method, items = problem.method, problem.validation
    if not isinstance(items, RetrievedRows) or not len(items):
        return {}
    schema, weights = method.ready.schema, [items.weight(i) for i in range(len(items))]
    batches = [items.take(range(len(items))[i : i + batch_size]) for i in range(0, len(items), batch_size)]
    if schema.kind != "classification":
        return {"validation_loss": _mean(torch.cat([method.loss(lm, batch) for batch in batches]), weights)}
    parts = []
    for batch in batches:
        conditioning = method.condition(batch.texts, batch.retrieved)
        parts.append(method.label_scores(lm, prompts(schema, batch.texts), schema.words, conditioning))
    scores, targets = torch.cat(parts).double().cpu(), np.array(schema.targets(items.items))
    losses = nn.functional.cross_entropy(scores, torch.from_numpy(targets), reduction="none")
    metric = METRICS[schema.metric].score(targets, scores.softmax(-1).numpy(), schema.positive_index)
    return {"validation_loss": _mean(losses, weights), "validation_metric": metric}


def _mean(losses: Tensor, weights: list[float]) -> float:
    """The weighted mean.

    Raises:
        TrainingError: A loss is not finite.
    """
    if not bool(losses.isfinite().all()):
        problem = "A loss is not finite, and candidates cannot be told apart by it"
        raise TrainingError(problem, got=losses.tolist()[:5], fix="Lower sigma, or load the model in float32.")
    return float(np.average(losses.double().cpu().numpy(), weights=weights))


def _fingerprint(problem: Problem, lm: FrozenLM, training: Any) -> str:
    """Names everything that the prompt depends on."""
    method, validation = problem.method, problem.validation
    return content_hash(
        repr(sorted(training.replace(report_to="none", checkpoint_every=0).to_dict().items())),
        repr(sorted(method.config.to_dict().items())),
        lm.weight_hash,
        repr(method.ready.schema.to_dict()),
        problem.items.fingerprint,
        "" if validation is None else validation.fingerprint,
    )
