"""PRAG: one low-rank adapter for every passage, many of them trained in one pass."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from coldframe.errors import ArtifactError
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Conditioning
from coldframe.frozen.sequence_loss import mean_nll
from coldframe.methods.search_space import Floats, SearchSpace
from coldframe.methods.training_set import Problem, TrainingData, TrainingSet
from coldframe.methods.weight_deltas import bank_files
from coldframe.methods.weight_deltas.adapter_config import AdapterConfig
from coldframe.methods.weight_deltas.bank_files import INDEX, SHARDS
from coldframe.methods.weight_deltas.banks import AdapterShards
from coldframe.methods.weight_deltas.passage_adapters import Lesson, PassageAdapters
from coldframe.methods.weight_deltas.passage_sequences import where
from coldframe.progress import duration, say, several_processes
from coldframe.storage.artifact import Artifact

_TOKENS, _PASSAGES = 4096, 64  # on a processor: some gigabytes at most, and more at once is no faster


@dataclasses.dataclass(frozen=True)
class PRAGConfig(AdapterConfig):
    """Settings of PRAG, beside those of all :class:`AdapterConfig`.

    Args:
        per_step: Sequences of one passage in an optimiser step, at least 1 (the paper's); their mean loss counts.
        at_once: Passages trained together, at least 1. It changes time and memory, and nothing else. None: 64 on a
            processor, and on a GPU as many as fit.
    """

    section = "PRAG settings"
    at_least = {"per_step": 1, "at_once": 1}

    per_step: int = 1
    at_once: int | None = None


@dataclasses.dataclass(frozen=True)
class SideBySide(TrainingSet):
    """The sequences of several passages, the same number for each, in steps that have some of every passage.

    Attributes:
        items: ``(passage, sequence)``, all of the first passage, then all of the next.
        count: Sequences of a passage.
        per_step: Of them in a step.
    """

    count: int = 1
    per_step: int = 1

    def batches(self, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
        """The steps of an epoch, in the order of the sequences: nothing is shuffled, as in the paper's code."""
        starts = range(0, len(self.items), self.count)
        steps = [range(self.count)[i : i + self.per_step] for i in range(0, self.count, self.per_step)]
        return [[start + place for start in starts for place in step] for step in steps]


class PRAG(PassageAdapters):
    r"""An adapter for each passage, many trained side by side.

    ``y = W x + (alpha / r) B_p A_p x``, with ``A_p`` in ``R^{r x in}`` and ``B_p`` in ``R^{out x r}`` for passage p;
    in a batch every row has the pair of its own passage, so that one pass through the frozen model serves all::

        L = sum_p mean over p's sequences of this step of their loss

    The passages' gradients and steps of AdamW do not touch each other, so the result is that of training them one
    after the other, to rounding. All start from the same A, and B = 0.

    Paper: Su et al. 2025, arXiv 2501.15915. Its code: batch 1, float32, no shuffling, AdamW with weight decay 0.01, a
    learning rate of 3e-4 and one or two epochs over longer sequences than ours.

    Cost:
        ``r (in + out)`` parameters for every target and passage; no tokens; the text's states depend on them.

    Example:
        >>> PRAG(rank=4, k=3)
        PRAG(k=3, rank=4)
    """

    name: ClassVar[str] = "prag"
    paper: ClassVar[str] = "arXiv 2501.15915"
    config_class = PRAGConfig
    config: PRAGConfig
    learning_rate: ClassVar[float] = 1e-3
    training_defaults: ClassVar[Mapping[str, Any]] = {**PassageAdapters.training_defaults, "epochs": 6}
    search_space: ClassVar[SearchSpace] = {
        **PassageAdapters.search_space,
        "training.learning_rate": Floats(3e-4, 3e-3),
    }

    def problems(self, data: TrainingData) -> Iterator[Problem]:
        """Groups of passages, each stored as it is finished; a passage that is stored already is not trained again."""
        folder = data.workspace or self.scratch_folder()
        lessons = yield from self.trained(data, folder)
        self.bank = AdapterShards(bank_files.written_shards(folder), self.layout, self.config.scale, lessons)

    def growth(self, data: TrainingData) -> Iterator[Problem]:
        """The new passages."""
        before, folder = self.adapters, data.workspace or self.scratch_folder()
        assert isinstance(before, AdapterShards)  # trained or loaded by this class
        lessons = {**before.lessons, **(yield from self.trained(data, folder))}
        shards = [*before.files.values(), *bank_files.written_shards(folder)]
        self.bank = AdapterShards(shards, self.layout, self.config.scale, lessons)

    def trained(self, data: TrainingData, folder: Path) -> Generator[Problem, None, dict[str, str]]:
        """Train what the folder lacks; returns the passages by id, with the hash of what each is trained on."""
        lessons, fingerprint = self.lessons(data), self.fingerprint(data.settings)
        places = bank_files.shard_places(bank_files.written_shards(folder))
        if foreign := [path for path, _, owner in places.values() if owner != fingerprint]:
            raise ArtifactError(
                f"{foreign[0]} belongs to a run with another model or other settings",
                fix="Pass another --out, or delete the folder to start again.",
            )
        left = [lesson for lesson in lessons if (lesson[0].id, lesson[2]) not in places]
        claims = bank_files.Claims(folder) if several_processes() else None
        if 0 < len(left) < len(lessons) and not data.quiet:
            say(f"{len(lessons) - len(left)} of {len(lessons)} passages are learned already; going on with the others")
        started, done = time.monotonic(), 0
        groups = self.groups(left) if claims is None else claims.shared(list(self.groups(lessons)))
        for group in groups:
            yield self.problem(group, data)
            flat = self.flat.detach().cpu().to(self.stored_dtype)
            bank_files.write_shard(folder, {passage.id: lesson for passage, _, lesson in group}, flat, fingerprint)
            del self.flat
            done += len(group)
            if done < len(left) and not data.quiet:
                rate = (time.monotonic() - started) / done
                time_left = duration(rate * (len(left) - done))
                say(f"{done} of {len(left)} passages, {rate:.1f} s each, about {time_left} left")
        return {passage.id: lesson for passage, _, lesson in lessons}

    def save(self, folder: Path) -> list[str]:
        """The adapters, and which of them are in force."""
        bank = self.adapters
        assert isinstance(bank, AdapterShards)  # trained or loaded by this class
        names = super().save(folder)
        bank_files.write_index(folder, bank.lessons)
        return [*names, INDEX]

    def load(self, artifact: Artifact) -> None:
        """Open what was stored, and nothing that the artifact does not list."""
        lessons = bank_files.read_index(artifact / INDEX)
        shards = [path for path in artifact.files(SHARDS) if path.suffix == ".safetensors"]
        self.bank = AdapterShards(shards, self.layout, self.config.scale, lessons)

    def problem(self, group: Sequence[Lesson], data: TrainingData) -> Problem:
        """The adapters of some passages, from their common start."""
        lm, count = self.ready.lm, len(group[0][1])
        start = self.layout.start(data.seed).to(lm.device)
        self.flat = nn.Parameter(start.repeat(len(group), 1))
        items = [(row, sequence) for row, (_, sequences, _) in enumerate(group) for sequence in sequences]
        per_step = self.config.per_step
        in_step = [min(per_step, count - place // per_step * per_step) for place in range(count)]
        return Problem(
            self,
            SideBySide(
                items,
                [len(sequence) for _, sequence in items],
                weights=[1 / size for size in in_step] * len(group),
                names=[where(group[row][0]) for row, _ in items],
                count=count,
                per_step=per_step,
            ),
            parameters=[{"params": [self.flat]}],
            name=f"{self.name}: {len(group)} passages",
            checkpoints=False,
            summed=True,
            alone=True,
            at_once=len(items),
        )

    def loss(self, lm: FrozenLM, batch: Any) -> Tensor:
        """The loss of each sequence under the adapter of its passage, ``[n]``, nats a token."""
        rows = [row for row, _ in batch]
        adapters: Tensor = self.flat
        if rows != list(range(len(adapters))):
            adapters = nn.functional.embedding(torch.tensor(rows, device=lm.device), adapters)
        deltas = self.layout.deltas(self.layout.factors(adapters), self.config.scale)
        return mean_nll(lm, [sequence for _, sequence in batch], Conditioning(deltas=deltas))

    def optimizer(self, groups: list[dict[str, Any]], **settings: Any) -> torch.optim.Optimizer:
        """AdamW in one pass over memory instead of a dozen."""
        return torch.optim.AdamW(groups, fused=True, **settings)

    def groups(self, lessons: Sequence[Lesson]) -> Iterator[list[Lesson]]:
        """Passages that can be trained together: as many sequences each, of like length."""
        lm = self.ready.lm

        def longest(i: int) -> int:
            return max(map(len, lessons[i][1]))

        most = self.config.at_once or (len(lessons) if lm.on_gpu else _PASSAGES)
        tokens, group = training_tokens(lm), list[int]()
        for i in sorted(range(len(lessons)), key=lambda i: (len(lessons[i][1]), longest(i), i)):
            per_step = min(self.config.per_step, len(lessons[i][1]))
            full = len(group) == most or (len(group) + 1) * per_step * longest(i) > tokens
            if group and (full or len(lessons[i][1]) != len(lessons[group[0]][1])):
                yield [lessons[j] for j in group]
                group = []
            group.append(i)
        if group:
            yield [lessons[j] for j in group]


def training_tokens(lm: FrozenLM) -> int:
    """Tokens, pads included, that go through the model together with gradient.

    On a GPU as many as fill a quarter of its memory with what the backward pass needs: about twice what goes into and
    out of every linear. The rest is for the model, the adapters and their optimiser.
    """
    if not lm.on_gpu:
        return _TOKENS
    per_token = 2 * sum(linear.d_in + linear.d_out for linear in lm.anatomy.linears()) * lm.dtype.itemsize
    total: int = torch.cuda.get_device_properties(lm.device).total_memory
    return max(_TOKENS, total // 4 // per_token)
