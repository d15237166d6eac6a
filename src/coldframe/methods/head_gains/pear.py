"""PEAR: find the heads that hold retrieval back, and weigh them anew."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from coldframe.frozen.hooks import head_gains
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Conditioning
from coldframe.methods.base import Method
from coldframe.methods.config import MethodConfig, MethodContext
from coldframe.methods.export import ExportRequest
from coldframe.methods.forms import Form
from coldframe.methods.head_gains.config import ReweightConfig
from coldframe.methods.head_gains.discovery import Effects, choose_heads, discover
from coldframe.methods.head_gains.fold import save_reweighted
from coldframe.methods.head_gains.proxy import ProxyTask
from coldframe.methods.head_gains.reweighting import Reweighting
from coldframe.methods.search_space import Choices, Floats, SearchSpace
from coldframe.methods.training_set import Problem, TrainingData, TrainingSet
from coldframe.progress import say
from coldframe.retrieval.store import Retrieved
from coldframe.storage.cache import cache_dir
from coldframe.tasks.task import content_hash

_FORMAT = 3  # of the cached files: with a new one, nothing older is used
_DISCOVERY = ("repetitions", "discovery", "mean_over", "bos", "seed")
_LOGITS = 1 << 26  # at most so many logits at once: 256 MB in float32


@dataclasses.dataclass(frozen=True)
class PEARConfig(ReweightConfig, MethodConfig):
    """Settings of PEAR: those of :class:`~coldframe.methods.head_gains.config.ReweightConfig`; ``k`` means nothing."""

    section = "PEAR settings"


@dataclasses.dataclass(frozen=True)
class Copies(TrainingSet):
    """What gains are trained on: random sequences that are repeated once, new ones in every step.

    An epoch ends where the held-out sequences are looked at; the last may be shorter.

    Attributes:
        items: Empty: sequences are drawn when they are wanted.
        proxy: Draws them.
        config: How many, and how long.
    """

    proxy: ProxyTask = dataclasses.field(kw_only=True)
    config: ReweightConfig = dataclasses.field(kw_only=True)

    def __len__(self) -> int:
        """Sequences of an epoch."""
        return self.config.evaluate_every * self.config.batch_size

    def take(self, rows: Sequence[int]) -> list[Tensor]:
        """Token ids of some sequences of one step, ``[BOS + 2 length]`` each."""
        size = self.config.batch_size
        sequences = self.proxy.sequences(size, self.config.length, 2, rows[0] // size)
        return [sequences[row % size] for row in rows]

    def batches(self, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
        """The steps of an epoch."""
        first = epoch * self.config.evaluate_every
        last = min(first + self.config.evaluate_every, self.config.steps)
        return [list(range(step * batch_size, (step + 1) * batch_size)) for step in range(first, last)]


class PEAR(Method):
    """Position-embedding-agnostic attention re-weighting: ``sum_h g_h O_h z_h``, with ``g`` the same for every query.

        attention output of layer l = sum_h g_h O_h z_h + bias,   g_h = tau_{l,h} if chosen, else 1

    The heads are found and their gains trained, from 1, on random sequences that are repeated once (the proxy task), so
    neither the task's rows nor what is retrieved plays a part. What is finished is kept in the cache, under the hash of
    the weights and of all settings it depends on: the same gains for another task cost nothing, and another K uses the
    same effects. Folded into a checkpoint the gains cost nothing at all (``coldframe reweight``), and that checkpoint
    goes under any other method.

    Paper: Tan et al. 2025, arXiv 2409.19745. Deviates: gains are float32 (theirs are bf16, whose steps near 1 are as
    large as the learning rate), the copy's first token is no target, and the gains of the lowest loss on held-out
    sequences are kept; see also :func:`~.discovery.threshold`.

    Cost:
        One parameter for each chosen head, no tokens; the text's states depend on the gains.

    Example:
        >>> PEAR(heads=5)
        PEAR(heads=5)
    """

    name: ClassVar[str] = "pear"
    paper: ClassVar[str] = "arXiv 2409.19745"
    config_class = PEARConfig
    config: PEARConfig
    learns_from_task: ClassVar[bool] = False
    port: ClassVar[str | None] = "head gains"
    learning_rate: ClassVar[float] = 5e-3
    search_space: ClassVar[SearchSpace] = {
        "learning_rate": Floats(1e-3, 2e-2),
        "steps": Choices((30, 60, 120)),
        "discovery": Choices(("path", "plain")),
    }

    chosen: Tensor
    clean: Tensor
    patched: Tensor

    def build(self, context: MethodContext) -> None:
        """Gains of 1, effects of 0, no head chosen."""
        shape = (context.lm.anatomy.n_layers, context.lm.anatomy.n_heads)
        self.gains = nn.Parameter(torch.ones(shape))
        self.register_buffer("chosen", torch.zeros(shape, dtype=torch.bool))
        self.register_buffer("clean", torch.zeros(len(self.config.repetitions)))
        self.register_buffer("patched", torch.zeros(len(self.config.repetitions), *shape))
        self.history: tuple[dict[str, float], ...] = ()

    @property
    def effects(self) -> Effects:
        """Of all heads on the proxy task."""
        return Effects(self.clean, self.patched)

    @property
    def heads(self) -> list[tuple[int, int]]:
        """The chosen heads, ``(layer, head)``, those of the highest effect first."""
        chosen = {(int(layer), int(head)) for layer, head in self.chosen.nonzero().tolist()}
        effects = self.effects.mean(self.config.effect)
        return sorted(chosen, key=lambda place: (-float(effects[place]), place))

    @property
    def trained_parameters(self) -> int:
        """One for each chosen head."""
        return int(self.chosen.sum())

    def condition(self, texts: Sequence[str], retrieved: Retrieved) -> Conditioning:
        """The same gains for every query."""
        return Conditioning(head_gains=self.gains.detach())

    def problems(self, data: TrainingData) -> Iterator[Problem]:
        """Find the heads, then train their gains on the proxy task, unless both are in the cache."""
        lm, config = self.ready.lm, self.config
        values = config.to_dict()
        settings = {field.name: values[field.name] for field in dataclasses.fields(ReweightConfig)}
        of_effects = content_hash(str(_FORMAT), lm.weight_hash, *(f"{key}={settings[key]}" for key in _DISCOVERY))
        of_gains = content_hash(of_effects, repr(sorted(settings.items())))
        home = cache_dir() / "head-gains"
        if not data.quiet:
            say("PEAR: finding heads and training their gains, unless they are in the cache")
        effects = discover(lm, config, home / of_effects / "effects.safetensors", quiet=data.quiet)
        self.clean.copy_(effects.clean)
        self.patched.copy_(effects.patched)
        for layer, head in choose_heads(effects.mean(config.effect), config):
            self.chosen[layer, head] = True
        self.proxy = ProxyTask(lm, config.bos, config.seed)
        if config.fixed is None:
            problem = self.problem(home / of_gains, of_gains)
            yield problem
            keys = ("step", "validation_loss", "train_loss")
            self.history = tuple({key: record[key] for key in keys if key in record} for record in problem.records)
            return
        before = self.held_out_loss()
        with torch.no_grad():
            self.gains[self.chosen] = config.fixed
        losses = (before, self.held_out_loss())
        self.history = tuple({"step": 0, "validation_loss": loss} for loss in losses)

    def problem(self, folder: Path, fingerprint: str) -> Problem:
        """The gains of the chosen heads, on the proxy task."""
        config = self.config
        settings = {
            "epochs": -(-config.steps // config.evaluate_every),
            "batch_size": config.batch_size,
            "accumulation": 1,
            "learning_rate": config.learning_rate,
            "weight_decay": 0.0,
            "clip": 0.0,
            "select": "loss",
            "patience": config.patience,
            "report_to": "none",
        }
        return Problem(
            self,
            Copies((), (), proxy=self.proxy, config=config),
            TrainingSet(self.held_out(), ()),
            settings=settings,
            rate=self.rate,
            name="PEAR gains",
            from_start=True,
            folder=folder,
            fingerprint=fingerprint,
            at_once=self.at_once,
        )

    @property
    def at_once(self) -> int:
        """Sequences that are read at once: a fixed number of logits, so that the same run adds up in the same order."""
        return max(1, _LOGITS // (self.config.length * self.ready.lm.anatomy.vocab_size))

    def rate(self, step: int) -> float:
        """Factor of the learning rate at a step, from 0: it rises over ``warmup`` steps and then falls in a line."""
        warm, end = self.config.warmup, self.config.decay_steps
        return (step + 1) / (warm + 1) if step < warm else (end - step) / (end - warm)

    def held_out(self) -> list[Tensor]:
        """The sequences on which the loss is watched."""
        return list(self.proxy.sequences(self.config.held_out, self.config.length, 1))

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """Mean loss of the copy's tokens in the held-out sequences, with the gains as they are, nats."""
        sequences, size = self.held_out(), self.at_once
        parts = [self.loss(self.ready.lm, sequences[i : i + size]) for i in range(0, len(sequences), size)]
        return float(torch.cat(parts).double().mean())

    def loss(self, lm: FrozenLM, batch: Any) -> Tensor:
        """Mean loss of the copy's tokens in each sequence, ``[n]``, nats."""
        gains = torch.where(self.chosen, self.gains, torch.ones_like(self.gains))
        # Below the lowest chosen head nothing has a gradient: nothing is kept there, and nothing goes back through it.
        layers = self.chosen.any(1).nonzero().flatten().tolist()
        with head_gains(lm.anatomy, gains, layers):
            return self.proxy.copy_losses(torch.stack(batch)).mean(1)

    @property
    def reweighting(self) -> Reweighting:
        """The gains, and how they came about."""
        effects = Effects(self.clean.cpu(), self.patched.cpu())
        return Reweighting(tuple(self.heads), effects, self.gains.detach().cpu(), self.history)

    @property
    def forms(self) -> tuple[Form, ...]:
        """An ordinary checkpoint."""
        return ("checkpoint",)

    def export(self, folder: Path, request: ExportRequest) -> list[str]:
        """Write the reweighted model: an ordinary checkpoint with the gains in it, and the gains beside it."""
        folded = save_reweighted(self.ready.lm, self.config, self.reweighting, folder)
        if not folded.folded:
            return ["The weights are packed: the gains stay beside them (coldframe.methods.head_gains.fold.attach)."]
        return [f"An ordinary checkpoint for any server: vllm serve {shlex.quote(str(request.out))}"]
