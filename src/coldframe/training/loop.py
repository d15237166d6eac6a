"""The training loop: one for every method."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from coldframe.errors import TrainingError
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import EMPTY
from coldframe.inference.run import prompts, run
from coldframe.methods.base import Method
from coldframe.progress import Bar
from coldframe.retrieval.store import Retrieved
from coldframe.tasks.metrics import METRICS
from coldframe.tasks.task import Example, Task, content_hash
from coldframe.training import checkpoint
from coldframe.training.batches import length_batches
from coldframe.training.checkpoint import Progress
from coldframe.training.config import TrainingConfig

_T = TypeVar("_T")
_READ_AHEAD = 512  # rows whose states are in memory at once, kept or not
_GRADIENT_TOKENS = 4096  # of text read with gradient at once: some GB of activations, however long the rows


class Trainer:
    """Trains a method on a task's training rows and keeps the weights that do best on its validation rows.

    The same settings and data give the same weights, bit for bit, whether the run was interrupted or not
    (on one machine, with one thread count).

    Args:
        method: Set up for ``lm``; trained in place.
        lm: The frozen model.
        task: Where the rows come from; test rows are not touched.
        retrieved: Neighbours of the training rows (each without itself) and of the validation rows.
        config: How to train.
        folder: Where checkpoints go; None keeps none.
        resume: Continue from the folder's checkpoint if there is one.
        quiet: No progress bar.
    """

    def __init__(
        self,
        method: Method,
        lm: FrozenLM,
        task: Task,
        retrieved: tuple[Retrieved, Retrieved],
        config: TrainingConfig,
        folder: Path | None = None,
        resume: bool = True,
        quiet: bool = False,
    ) -> None:
        self.method, self.lm, self.task, self.config = method, lm, task, config
        self.neighbours, self.validation_neighbours = retrieved
        self.folder, self.resume, self.quiet = folder, resume, quiet
        trackers = None if config.report_to == "none" else config.report_to
        self.accelerator = Accelerator(log_with=trackers, project_dir=str(folder or "."), cpu=lm.device.type == "cpu")
        rate = method.learning_rate if config.learning_rate is None else config.learning_rate
        groups = method.parameter_groups(rate)
        self.parameters = [p for group in groups for p in group["params"]]
        if not self.parameters:
            raise TrainingError(f"{method.name} has no parameters to train")
        optimizer = torch.optim.AdamW(groups, lr=rate, weight_decay=config.weight_decay)
        self.model, self.optimizer = self.accelerator.prepare(method, optimizer)
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.micro = config.batch_size
        self.lengths = [len(lm.tokenize(example.text)) for example in task.train]
        self.around = len(lm.tokenize(task.schema.template.header + task.schema.template.query("")))
        self.steps_per_epoch = math.ceil(math.ceil(len(task.train) / config.batch_size) / config.accumulation)
        self.row_weights = _weights(task, task.train, config)

    def train(self) -> list[dict[str, float]]:
        """Run to the end, restore the best weights, return one record per epoch.

        Raises:
            TrainingError: If a loss is not finite; the last good checkpoint stays.
        """
        progress = Progress()
        best = _copy(self.method)
        fingerprint = self._fingerprint()
        if self.folder is not None and self.resume:
            found = checkpoint.load(self.folder, fingerprint, self.optimizer)
            if found is not None:
                progress, weights, best = found
                self.method.load_state_dict(weights)
        self._checkpoint(progress, fingerprint, best)  # a place that cannot be written is found before the work
        if self.config.report_to != "none":
            self.accelerator.init_trackers("coldframe", {"method": self.method.name, **self.config.to_dict()})
        self._read_ahead()
        with Bar(self.config.epochs * len(self.task.train), f"train {self.method.name}", self.quiet) as bar:
            bar.advance(progress.epoch * len(self.task.train) + progress.batch * self.config.batch_size)
            while not progress.finished:
                self._epoch(progress, best, fingerprint, bar)
                best = self._judge(progress, best, bar)
                self._checkpoint(progress, fingerprint, best)
        self.method.load_state_dict(best)
        if self.config.report_to != "none":
            self.accelerator.end_training()
        return progress.history

    @torch.no_grad()
    def _read_ahead(self) -> None:
        """Compute the frozen states of all texts first, in batches that no seed or resumption changes.

        A state's last bits depend on the batch it was computed in. As much is read as can be kept.
        """
        if not self._keeps_text:
            return
        self.method.eval()
        sets = ((self.task.train, self.neighbours), (self.task.validation, self.validation_neighbours))
        for examples, retrieved in sets:
            rows = []
            for part in _parts(range(len(examples)), self.config.batch_size):
                texts = [examples[i].text for i in part]
                conditioning = EMPTY
                if getattr(self.method.config, "text_exemplars", 0):  # they are part of the text that is read
                    conditioning = self.method.condition(texts, retrieved.rows(np.array(part)))
                rows += self.lm.rows(prompts(self.task.schema, texts), conditioning)
            for some in _parts(sorted(rows, key=len), _READ_AHEAD):
                if self.lm.states.full:
                    return
                self.lm.text_states(some)

    def _epoch(self, progress: Progress, best: dict[str, Tensor], fingerprint: str, bar: Bar) -> None:
        batches = length_batches(self.lengths, self.config.batch_size, self.config.seed, progress.epoch)
        groups = [batches[i : i + self.config.accumulation] for i in range(0, len(batches), self.config.accumulation)]
        self.method.train()
        started = time.perf_counter()
        while progress.batch < len(batches):
            group = groups[progress.batch // self.config.accumulation]
            losses = self._step(group, progress.step)
            progress.step += 1
            progress.batch += len(group)
            progress.running = (progress.running[0] + sum(losses), progress.running[1] + len(losses))
            bar.advance(sum(map(len, group)), loss=progress.running[0] / progress.running[1])
            every = self.config.checkpoint_every
            if every and progress.step % every == 0:
                self._checkpoint(progress, fingerprint, best)
        seconds = time.perf_counter() - started
        progress.history.append(
            {
                "epoch": progress.epoch + 1,
                "step": progress.step,
                "train_loss": progress.running[0] / progress.running[1],
                "learning_rate": self.base_rates[0] * self._rate(progress.step - 1),
                "seconds": seconds,
            }
        )

    def _step(self, group: Sequence[Sequence[int]], step: int) -> list[float]:
        """One optimiser step over some batches; a batch that does not fit in memory is halved and tried again."""
        for base, param_group in zip(self.base_rates, self.optimizer.param_groups, strict=True):
            param_group["lr"] = base * self._rate(step)
        rows = [i for batch in group for i in batch]
        total = sum(self.row_weights[i] for i in rows)
        mine = group[self.accelerator.process_index :: self.accelerator.num_processes]
        while True:
            self.optimizer.zero_grad()
            try:
                losses = [self._backward(part, total) for batch in mine for part in _parts(batch, self._at_once(batch))]
                break
            except RuntimeError as error:
                if not _out_of_memory(error) or self.micro == 1:
                    raise
                self.micro = max(1, self.micro // 2)
                print(f"Out of memory: going on with {self.micro} rows at a time.", file=sys.stderr)
        if self.config.clip:
            self.accelerator.clip_grad_norm_(self.parameters, self.config.clip)
        self.optimizer.step()
        return [loss for some in losses for loss in some]

    def _at_once(self, batch: Sequence[int]) -> int:
        """How many rows of a batch go through the model together; most processors do not say that memory is short."""
        if self._keeps_text:
            return self.micro
        longest = max(self.lengths[i] for i in batch) + self.around
        return max(1, min(self.micro, _GRADIENT_TOKENS // longest))

    @property
    def _keeps_text(self) -> bool:
        """Whether the text is read without gradient, and its states kept."""
        return getattr(self.method.config, "placement", None) == "suffix"

    def _backward(self, rows: Sequence[int], total: float) -> list[float]:
        examples = [self.task.train[i] for i in rows]
        losses = self.losses(examples, self.neighbours.rows(np.array(rows)))
        weights = torch.tensor([self.row_weights[i] for i in rows], device=losses.device)
        loss = (losses * weights).sum() / total * self.accelerator.num_processes
        if not bool(torch.isfinite(loss)):
            raise TrainingError(
                "The training loss is not finite",
                got=[round(float(x), 4) for x in losses.detach()],
                fix=f"Rows {[e.id for e in examples]}: lower the learning rate, or look at these rows. "
                "The last checkpoint is intact.",
            )
        if not loss.requires_grad:
            raise TrainingError(f"The loss does not depend on any parameter of {self.method.name}")
        self.accelerator.backward(loss)
        return [float(x) for x in losses.detach()]

    def losses(self, examples: Sequence[Example], retrieved: Retrieved) -> Tensor:
        """Loss of each row, ``[batch]``, by the objective."""
        schema = self.task.schema
        texts = [example.text for example in examples]
        conditioning = self.model(texts, retrieved)
        asked = prompts(schema, texts)
        if schema.kind == "classification" and self.config.objective == "labels":
            scores = self.lm.label_scores(asked, schema.words, conditioning)
            targets = torch.tensor(self.task.targets(examples), device=scores.device)
            return torch.nn.functional.cross_entropy(scores, targets, reduction="none")
        answers = [schema.template.answer(schema.word(example.target)) for example in examples]
        return self.lm.loss(asked, answers, conditioning)

    def _judge(self, progress: Progress, best: dict[str, Tensor], bar: Bar) -> dict[str, Tensor]:
        """Close an epoch: validate, remember the best weights, decide whether to go on."""
        record = progress.history[-1]
        score = -record["train_loss"]
        if self.task.validation:
            record |= self._validate()
            score = -record["validation_loss"]
            if self.config.select == "metric" and "validation_metric" in record:
                metric = METRICS[self.task.schema.metric]
                # The metric moves in steps of a row; the loss decides between equals.
                score = record["validation_metric"] * (1 if metric.greater_is_better else -1)
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
        progress.batch, progress.running = 0, (0.0, 0)
        stale = self.config.patience and progress.stale >= self.config.patience
        progress.finished = progress.epoch >= self.config.epochs or bool(stale)
        bar.note({k: v for k, v in record.items() if k.startswith("validation")})
        return best

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        schema = self.task.schema
        self.method.eval()
        if schema.kind == "generation":
            losses: list[float] = []
            for rows in _parts(range(len(self.task.validation)), self.config.batch_size):
                examples = [self.task.validation[i] for i in rows]
                losses += self.losses(examples, self.validation_neighbours.rows(np.array(rows))).tolist()
            return {"validation_loss": float(np.mean(losses))}
        texts, targets = [e.text for e in self.task.validation], np.array(self.task.targets(self.task.validation))
        probabilities = run(self.method, self.lm, schema, texts, self.validation_neighbours).probabilities
        if not np.isfinite(probabilities).all():
            raise TrainingError(
                "The label scores of the validation rows are not finite",
                fix="The last step broke the weights: lower the learning rate. The last checkpoint is intact.",
            )
        chosen = probabilities[np.arange(len(targets)), targets]
        weights = np.array(_weights(self.task, self.task.validation, self.config))
        positive = None if schema.positive is None else schema.index(schema.positive)
        return {
            "validation_loss": float(-(np.log(chosen + 1e-12) * weights).sum() / weights.sum()),
            "validation_metric": METRICS[schema.metric].score(targets, probabilities, positive),
        }

    def _rate(self, step: int) -> float:
        """The schedule's factor at a step."""
        steps = self.config.epochs * self.steps_per_epoch
        warm = int(self.config.warmup * steps)
        if step < warm:
            return (step + 1) / (warm + 1)
        share = (step - warm) / max(1, steps - warm)
        schedules: dict[str, Callable[[float], float]] = {
            "constant": lambda share: 1.0,
            "linear": lambda share: 1 - share,
            "cosine": lambda share: 0.5 * (1 + math.cos(math.pi * share)),
        }
        return schedules[self.config.schedule](share)

    def _checkpoint(self, progress: Progress, fingerprint: str, best: dict[str, Tensor]) -> None:
        if self.folder is not None and self.accelerator.is_main_process:
            weights = self.method.state_dict()
            checkpoint.save(self.folder, progress, fingerprint, weights, best, self.optimizer)

    def _fingerprint(self) -> str:
        """Names everything the weights depend on."""
        encoder, sets = self.method.ready.encoder, (self.neighbours, self.validation_neighbours)
        return content_hash(
            repr(sorted(self.config.replace(report_to="none", checkpoint_every=0).to_dict().items())),
            repr(sorted(self.method.config.to_dict().items())),
            self.method.name,
            self.lm.weight_hash,
            repr(self.task.schema.to_dict()),
            "" if encoder is None else encoder.hash,
            *(f"{e.id} {e.text} {e.target}" for e in (*self.task.train, *self.task.validation)),
            *(part for found in sets for part in (found.store.hash, _hex(found.indices), _hex(found.scores))),
        )


def _weights(task: Task, examples: Sequence[Example], config: TrainingConfig) -> list[float]:
    """Weight of each row: ``n / (classes * n_class)`` counted on the training rows, or 1."""
    balanced = config.class_weights
    if balanced is None:
        balanced = task.schema.metric in ("effective_accuracy", "balanced_accuracy")
    if task.schema.kind != "classification" or not balanced:
        return [1.0] * len(examples)
    targets = task.targets(task.train)
    counts = np.bincount(targets, minlength=len(task.schema.labels))
    present = int((counts > 0).sum())
    return [len(targets) / (present * max(1, int(counts[t]))) for t in task.targets(examples)]


def _parts(rows: Sequence[_T], size: int) -> list[Sequence[_T]]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def _hex(array: NDArray[np.generic]) -> str:
    return array.tobytes().hex()


def _copy(method: Method) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in method.state_dict().items()}


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
