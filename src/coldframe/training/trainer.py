"""The training loop: one for every method."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from coldframe.errors import NotFiniteError, TrainingError
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Conditioning
from coldframe.inference.run import run
from coldframe.methods.base import Method, prompts
from coldframe.methods.training_set import Problem, RetrievedRows, TrainingSet
from coldframe.progress import Bar
from coldframe.tasks.metrics import METRICS
from coldframe.tasks.task import content_hash
from coldframe.training import checkpoint, schedule
from coldframe.training.checkpoint import Progress
from coldframe.training.config import TrainingConfig
from coldframe.training.processes import Processes

_T = TypeVar("_T")
_GRADIENT_TOKENS = 4096  # of text read with gradient at once: some GB of activations, however long the rows


class Trainer:
    """Trains one problem and keeps the weights that do best on its validation items.

    The same settings and data give the same weights, bit for bit, whether the run was interrupted or not
    (on one machine, with one thread count). Several processes, see :class:`.processes.Processes`, make the steps that
    one would make with as many times the ``accumulation``, unless the problem says its own or its items are apart.

    Args:
        problem: What is trained, in place.
        lm: The frozen model.
        config: How to train; the problem's own settings change it.
        folder: Where the checkpoint goes; None keeps none.
        resume: Continue from the folder's checkpoint if there is one.
        quiet: No progress bar.
        on_record: Called with the record of each epoch when it is validated; what it raises ends the training.
    """

    def __init__(
        self,
        problem: Problem,
        lm: FrozenLM,
        config: TrainingConfig,
        folder: Path | None = None,
        resume: bool = True,
        quiet: bool = False,
        on_record: Callable[[Mapping[str, float]], None] | None = None,
    ) -> None:
        self.problem, self.method, self.lm = problem, problem.method, lm
        self.config = config = config.replace(**problem.settings)
        self.items, self.validation = problem.items, problem.validation
        self.folder, self.resume, self.on_record = folder, resume, on_record
        trackers = None if config.report_to == "none" else config.report_to
        self.accelerator = Accelerator(log_with=trackers, project_dir=str(folder or "."), cpu=lm.device.type == "cpu")
        self.processes = Processes.of(problem.alone, lm.sharded)
        self.quiet = quiet or not self.processes.first
        if "accumulation" not in problem.settings and not problem.summed:
            self.config = config = config.replace(accumulation=config.accumulation * self.processes.count)
        rate = self.method.learning_rate if config.learning_rate is None else config.learning_rate
        groups = self.method.parameter_groups(rate) if problem.parameters is None else problem.parameters
        self.parameters = [p for group in groups for p in group["params"]]
        if not self.parameters:
            raise TrainingError(f"{self.method.name} has no parameters to train")
        optimizer = self.method.optimizer(groups, lr=rate, weight_decay=config.weight_decay)
        self.optimizer = self.accelerator.prepare(optimizer)
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self._figures: dict[str, float] = {}
        self.rows_at_once = problem.at_once or config.batch_size
        batches = len(self.items.batches(config.batch_size, config.seed, 0))
        self.steps_per_epoch = math.ceil(batches / config.accumulation)

    def train(self) -> list[dict[str, float]]:
        """Run to the end, restore the best weights, return one record per epoch.

        Raises:
            TrainingError: If a loss is not finite (the last good checkpoint stays), or nothing was trained.
        """
        start, fingerprint = _moments(self.parameters), self._fingerprint()
        progress, weights, best, state = self.processes.from_first(lambda: self._begin(fingerprint))
        self.method.load_state_dict(weights)
        self.optimizer.load_state_dict(state)
        if not progress.finished:  # nothing is written where nothing is left to do: the place may be read-only
            self._checkpoint(progress, fingerprint, best)  # a place that cannot be written is told before the work
        if self.config.report_to != "none":
            self.accelerator.init_trackers("coldframe", {"method": self.method.name, **self.config.to_dict()})
        if not progress.finished:
            self._read_ahead()
        if self.problem.from_start and not progress.history and self.validation is not None:
            progress.history.append({"epoch": 0, "step": 0, "best": 1.0, **self._validate()})
            progress.best = -progress.history[0]["validation_loss"]
        with Bar(self.config.epochs * len(self.items), f"train {self.problem.name}", self.quiet) as bar:
            bar.skip(progress.epoch * len(self.items) + progress.batch * self.config.batch_size)
            while not progress.finished:
                self._epoch(progress, best, fingerprint, bar)
                best = self._judge(progress, best, bar)
                self._checkpoint(progress, fingerprint, best)
        self.method.load_state_dict(best)
        if self.config.report_to != "none":
            self.accelerator.end_training()
        if self.problem.from_start and progress.best_epoch < 0:
            first, last = (progress.history[i]["validation_loss"] for i in (0, -1))
            raise TrainingError(
                f"{self.problem.name}: no step lowered the loss on what is held out",
                got=f"{first:.4f} before, {last:.4f} at the end",
                fix="Lower the learning rate, or change what is trained.",
            )
        if _moments(self.parameters) == start:
            raise TrainingError(
                f"{self.method.name} is as it was before training",
                fix="No epoch improved on the validation rows: lower the learning rate or train longer.",
            )
        return progress.history

    def _begin(self, fingerprint: str) -> tuple[Progress, dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
        """Progress, weights, best weights and the optimiser's state, from a checkpoint if there is one."""
        folder, weights = self.folder if self.resume else None, _copy(self.method)
        resumed = None if folder is None else checkpoint.load(folder, fingerprint, self.optimizer)
        return *(resumed or (Progress(), weights, weights)), self.optimizer.state_dict()

    @torch.no_grad()
    def _read_ahead(self) -> None:
        """Compute the frozen states of all texts first."""
        if not self.method.shares_text:
            return
        self.method.eval()
        for items in (self.items, self.validation):
            if not isinstance(items, RetrievedRows):
                continue
            rows = []
            own = self.processes.own if items is self.items else self.processes.if_first
            for part in _parts(own(range(len(items))), self.config.batch_size):
                batch = items.take(part)
                conditioning = Conditioning(contexts=self.method.contexts(batch.texts, batch.retrieved))
                rows += self.lm.rows(prompts(self.method.ready.schema, batch.texts), conditioning)
            self.lm.read_ahead(rows, self.quiet)

    def _epoch(self, progress: Progress, best: dict[str, Tensor], fingerprint: str, bar: Bar) -> None:
        batches = self.items.batches(self.config.batch_size, self.config.seed, progress.epoch)
        groups = [batches[i : i + self.config.accumulation] for i in range(0, len(batches), self.config.accumulation)]
        self.method.train()
        started = time.perf_counter()
        while progress.batch < len(batches):
            group = groups[progress.batch // self.config.accumulation]
            losses = self._step(group, progress.step)
            progress.count(self._figures)
            progress.step += 1
            progress.batch += len(group)
            progress.running = (progress.running[0] + sum(losses), progress.running[1] + len(losses))
            bar.advance(sum(map(len, group)), loss=progress.running[0] / progress.running[1])
            every = self.config.checkpoint_every
            if every and progress.step % every == 0:
                self._checkpoint(progress, fingerprint, best)
        record: dict[str, float] = {
            "epoch": progress.epoch + 1,
            "step": progress.step,
            "train_loss": progress.running[0] / progress.running[1],
            "learning_rate": self.base_rates[0] * self._rate(progress.step - 1),
            "seconds": time.perf_counter() - started,
            **{name: total / count for name, (total, count) in progress.figures.items()},
        }
        progress.history.append(record)

    def _step(self, group: Sequence[Sequence[int]], step: int) -> list[float]:
        """One optimiser step over some batches; a batch that does not fit in memory is halved and tried again."""
        for base, param_group in zip(self.base_rates, self.optimizer.param_groups, strict=True):
            param_group["lr"] = base * self._rate(step)
        total = 1.0 if self.problem.summed else sum(self.items.weight(i) for batch in group for i in batch)
        self.processes.seed(self.config.seed, step)
        mine = [own for batch in group if (own := self.processes.own(batch))]
        losses = self.processes.together(lambda: self._backward_all(mine, total))
        self.processes.add_up(self.parameters)
        self._figures = self.method.step_figures()  # before clipping
        if self.config.clip:
            dense = [p for p in self.parameters if p.grad is not None and not p.grad.is_sparse]  # rows are their own
            self.accelerator.clip_grad_norm_(dense, self.config.clip)
        self.optimizer.step()
        return losses

    def _backward_all(self, batches: Sequence[Sequence[int]], total: float) -> list[float]:
        """The gradients of some batches; the losses of their items."""
        while True:
            self.optimizer.zero_grad()
            try:
                parts = [part for batch in batches for part in _parts(batch, self._at_once(batch))]
                return [loss for part in parts for loss in self._backward(part, total)]
            except RuntimeError as error:
                if not _out_of_memory(error) or self.rows_at_once == 1:
                    raise
                self.processes.check_retry(error)
                self.rows_at_once = max(1, min(self.rows_at_once, max(map(len, batches))) // 2)
                print(f"Out of memory: going on with {self.rows_at_once} rows at a time.", file=sys.stderr)

    def _at_once(self, batch: Sequence[int]) -> int:
        """How many items of a batch go through the model together; most processors do not say that memory is short."""
        if self.problem.at_once or self.method.shares_text:
            return self.rows_at_once
        longest = max(self.items.lengths[i] for i in batch)
        return max(1, min(self.rows_at_once, _GRADIENT_TOKENS // longest))

    def _backward(self, rows: Sequence[int], total: float) -> list[float]:
        losses = self.method(self.lm, self.items.take(rows))
        weights = torch.tensor([self.items.weight(i) for i in rows], device=losses.device)
        loss = (losses * weights).sum() / total
        if not bool(torch.isfinite(loss)):
            bad = [i for i, value in zip(rows, losses.detach().tolist(), strict=True) if not math.isfinite(value)]
            raise TrainingError(
                "The training loss is not finite",
                got=[round(float(value), 4) for value in losses.detach()],
                fix=f"{', '.join(self.items.name(i) for i in bad or rows)}: lower the learning rate, or look at these. "
                "The last checkpoint is intact.",
            )
        if not loss.requires_grad:
            raise TrainingError(f"The loss does not depend on any parameter of {self.method.name}")
        self.accelerator.backward(loss)
        return [float(value) for value in losses.detach()]

    def _judge(self, progress: Progress, best: dict[str, Tensor], bar: Bar) -> dict[str, Tensor]:
        """Close an epoch: validate, remember the best weights, decide whether to go on."""
        record = progress.history[-1]
        score = -record["train_loss"]
        if self.config.select == "last":
            score = float(progress.epoch)
        elif self.validation is not None and len(self.validation):
            record |= self._validate()
            score = -record["validation_loss"]
            if self.config.select == "metric" and "validation_metric" in record:
                metric = METRICS[self.method.ready.schema.metric]
                # The metric moves in steps of a row; the loss decides between equals.
                score = metric.sign * record["validation_metric"]
                score -= 1e-3 * min(record["validation_loss"], 10.0)
        if progress.best is None or score > progress.best:
            progress.best, progress.best_epoch, progress.stale = score, progress.epoch, 0
            best = _copy(self.method)
        else:
            progress.stale += 1
        record["best"] = float(progress.best_epoch == progress.epoch)
        if self.config.report_to != "none":
            self.accelerator.log(record, step=progress.step)
        progress.epoch += 1
        progress.batch, progress.running, progress.figures = 0, (0.0, 0), {}
        stale = self.config.patience and progress.stale >= self.config.patience
        progress.finished = progress.epoch >= self.config.epochs or bool(stale)
        bar.note({k: v for k, v in record.items() if k.startswith(("validation", "attention"))})
        if self.on_record is not None:
            self.on_record(record)
        return best

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        items = self.validation
        assert items is not None  # asked for only where there is something
        self.method.eval()
        return self.processes.from_first(lambda: self._validation(items))

    def _validation(self, items: TrainingSet) -> dict[str, float]:
        if isinstance(items, RetrievedRows) and self.method.ready.schema.kind == "classification":
            return self._validate_labels(items)
        losses: list[float] = []
        for rows in _parts(range(len(items)), self.problem.at_once or self.config.batch_size):
            losses += self.method.loss(self.lm, items.take(rows)).tolist()
        if not np.isfinite(losses).all():
            raise _not_finite("losses")
        return {"validation_loss": float(np.mean(losses))}

    def _validate_labels(self, items: RetrievedRows) -> dict[str, float]:
        schema = self.method.ready.schema
        targets = np.array(schema.targets(items.items))
        try:
            probabilities = run(self.method, self.lm, schema, items.texts, items.retrieved).probabilities
        except NotFiniteError as error:
            raise _not_finite("label scores") from error
        chosen = probabilities[np.arange(len(targets)), targets]
        weights = np.array([items.weight(i) for i in range(len(items))])
        return {
            "validation_loss": float(-(np.log(chosen + 1e-12) * weights).sum() / weights.sum()),
            "validation_metric": METRICS[schema.metric].score(targets, probabilities, schema.positive_index),
        }

    def _rate(self, step: int) -> float:
        """The schedule's factor at a step."""
        if self.problem.rate is not None:
            return self.problem.rate(step)
        return schedule.factor(self.config, self.steps_per_epoch, step)

    def _checkpoint(self, progress: Progress, fingerprint: str, best: dict[str, Tensor]) -> None:
        if self.folder is not None and self.problem.checkpoints and self.processes.first:
            weights = self.method.state_dict()
            checkpoint.save(self.folder, progress, fingerprint, weights, best, self.optimizer)

    def _fingerprint(self) -> str:
        """Names everything the weights depend on."""
        if self.problem.fingerprint:
            return self.problem.fingerprint
        context = self.method.ready
        validation = self.validation
        return content_hash(
            repr(sorted(self.config.replace(report_to="none", checkpoint_every=0).to_dict().items())),
            repr(sorted(self.method.config.to_dict().items())),
            self.problem.name or self.method.name,
            self.lm.weight_hash,
            repr(context.schema.to_dict()),
            "" if context.encoder is None else context.encoder.hash,
            self.items.fingerprint,
            "" if validation is None else validation.fingerprint,
        )


def _parts(rows: Sequence[_T], size: int) -> list[Sequence[_T]]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def _copy(method: Method) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in method.state_dict().items()}


def _not_finite(what: str) -> TrainingError:
    return TrainingError(
        f"The {what} of the validation rows are not finite",
        fix="The last step broke the weights: lower the learning rate. The last checkpoint is intact.",
    )


def _moments(parameters: Sequence[Tensor]) -> list[tuple[float, float]]:
    """Two sums over each parameter: they tell whether it has changed, without a copy."""
    doubles = (parameter.detach().double() for parameter in parameters)
    return [(float(values.sum()), float(values.square().sum())) for values in doubles]


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
