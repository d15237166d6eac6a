"""A corpus becomes weights: augment, train, write; interrupted at any moment it goes on."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from coldframe.config import check
from coldframe.errors import ArtifactError, DataError
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.sequence_loss import TokenSequence
from coldframe.methods.weight_deltas.adapters import Layout
from coldframe.methods.weight_deltas.dyprag import DyPRAGConfig, DyTrainer, embedding_ids, passage_embeddings
from coldframe.methods.weight_deltas.poly_prag import PolyBank, PolyPRAGConfig, PolyTrainer
from coldframe.methods.weight_deltas.prag import PRAGConfig, batches, train_adapters
from coldframe.parametric.augment import Augmented, Augmenter, Given, augment
from coldframe.parametric.banks import (
    HYPERNETWORK,
    SHARDS,
    AdapterShards,
    GeneratedAdapters,
    RoutedBank,
    shard_places,
    write_bank,
    write_embeddings,
    write_hypernetwork,
    write_shard,
)
from coldframe.parametric.folder import (
    AUGMENTATIONS,
    TRAINING,
    Described,
    EncodingConfig,
    bank_name,
    embeddings_name,
    method_name,
    read_described,
    read_folder,
    same_model,
    section,
    write_described,
)
from coldframe.progress import Bar, say
from coldframe.storage.checkpoints import CheckpointStore
from coldframe.tasks.corpus import Corpus, Passage
from coldframe.tasks.rows import OnError
from coldframe.tasks.task import content_hash

Stored = Literal["bfloat16", "float32"]
T = TypeVar("T")

_TOGETHER = "2"
"""Of how a bank or a hypernetwork is trained: another number, and no checkpoint of before goes on."""


@dataclasses.dataclass(frozen=True)
class Encoding:
    """What came of encoding a corpus.

    Attributes:
        folder: Where it is.
        passages: Encoded ones.
        trained: Those that were trained now; the others were there already.
        failed: Passages left out, by id, with the reason.
        nbytes: Of adapters, of bank and table, or of hypernetwork and embeddings, on the disk.
        seconds: Of training, augmentation not counted.
    """

    folder: Path
    passages: int
    trained: int
    failed: Mapping[str, str]
    nbytes: int
    seconds: float


def encode(
    corpus: Corpus,
    lm: FrozenLM,
    config: EncodingConfig,
    out: str | Path,
    *,
    augmenter: Augmenter | None = None,
    ask_again: bool = False,
    on_error: OnError = "raise",
    stored: Stored = "bfloat16",
    quiet: bool = False,
) -> Encoding:
    """Train a corpus into adapters of a frozen model.

    Args:
        corpus: The passages.
        lm: The model.
        config: Of the method: :class:`PRAGConfig`, :class:`PolyPRAGConfig` or :class:`DyPRAGConfig`.
        out: Folder to write. What it holds of the same settings is kept: passages that PRAG has finished are not
            trained again, even if the corpus has grown since; Poly-PRAG goes on from its last checkpoint. DyPRAG does
            both: its first stage is PRAG, and a PRAG folder of the settings of that stage becomes a DyPRAG folder.
        augmenter: Who rewrites passages and asks about them, for DyPRAG those that are trained on; None takes what came
            with the corpus.
        ask_again: Also about passages that it failed at before.
        on_error: Stop where a passage has no augmentation or does not fit into the context, or leave such passages
            out; they are listed in the result and in the folder.
        stored: Number format on the disk; training is in float32.
        quiet: No progress.

    Raises:
        ArtifactError: The folder holds a corpus encoded with other settings.
        DataError: A passage cannot be used.
        TrainingError: A loss is not finite.
    """
    folder = Path(out)
    unseen: set[str] = set()
    if isinstance(config, DyPRAGConfig) and config.train_passages is not None:
        unseen = {passage.id for passage in corpus.passages[config.train_passages :]}
    seen = dataclasses.replace(corpus, passages=tuple(p for p in corpus.passages if p.id not in unseen))
    kept = augment(seen, augmenter or Given(corpus), folder / AUGMENTATIONS, quiet, ask_again)
    failed = dict(kept.failed)
    sequences: dict[str, list[TokenSequence]] = {}
    for passage in corpus.passages:
        try:
            if isinstance(config, DyPRAGConfig):
                embedding_ids(lm, passage)
            if passage.id in unseen:
                continue
            sequences[passage.id] = _sequences(lm, config, passage, kept)
        except DataError as error:
            if on_error == "raise":
                raise
            failed[passage.id] = error.problem
    if not sequences:
        raise DataError("No passage can be encoded", got=f"{len(failed)} unusable", fix="Look at the first error.")
    kept_ids = {*sequences, *(unseen - {*failed})}
    passages = tuple(passage for passage in corpus.passages if passage.id in kept_ids)
    usable = dataclasses.replace(corpus, passages=passages, given={one: kept.found[one] for one in sequences})
    layout = Layout.of(lm.anatomy, config.rank, config.targets)
    fingerprint = _fingerprint(lm, config, stored)
    if not isinstance(config, PRAGConfig):  # its bank or hypernetwork depends on all trained passages together
        fingerprint = content_hash(fingerprint, *(f"{one} {usable.given[one].hash}" for one in sequences), _TOGETHER)
    finished = read_described(folder)
    if finished is not None and isinstance(config, DyPRAGConfig):
        if finished.extra.get("fingerprint") == _fingerprint(lm, config.teacher, stored):
            finished = None  # its first stage, which is in force until the second has ended
    if finished is not None and finished.extra.get("fingerprint") != fingerprint:
        raise _other_settings(folder)
    if finished is not None and not isinstance(config, PRAGConfig) and (there := _all_there(folder, kept_ids)):
        return Encoding(folder, there[0], 0, failed, there[1], 0.0)
    started = time.perf_counter()
    if isinstance(config, PRAGConfig):
        done = _encode_prag(usable, lm, config, layout, sequences, folder, stored, fingerprint, quiet)
    elif isinstance(config, DyPRAGConfig):
        embeddings, done = passage_embeddings(lm, passages), 0
        if finished is None or not (folder / HYPERNETWORK).is_file():
            done = _encode_dyprag(usable, lm, config, layout, sequences, embeddings, folder, stored, fingerprint, quiet)
        write_embeddings(folder / embeddings_name(usable), embeddings)
    elif finished is None or not (folder / bank_name(usable)).is_file():
        done = _encode_poly(usable, lm, config, layout, sequences, folder, stored, fingerprint, quiet)
    else:
        done = 0
    seconds = time.perf_counter() - started
    base = {**lm.provenance, "weight_hash": lm.weight_hash, "dtype": str(lm.dtype)}
    extra: dict[str, Any] = {
        "fingerprint": fingerprint,
        "stored": stored,
        "seconds": round(seconds, 2),
        "trained": done,
    }
    if finished is not None and not done:
        extra = dict(finished.extra)
    write_described(folder, Described(method_name(config), config, layout, base, {**extra, "failed": failed}), usable)
    return Encoding(folder, len(passages), done, failed, read_folder(folder)[2].nbytes, seconds)


def add_passages(
    folder: str | Path,
    lm: FrozenLM,
    corpus: Corpus,
    *,
    augmenter: Augmenter | None = None,
    ask_again: bool = False,
    on_error: OnError = "raise",
    quiet: bool = False,
) -> int:
    """Add passages to a finished Poly-PRAG or DyPRAG folder; its bank or hypernetwork stays as it is.

    Poly-PRAG fits a row for each of them. DyPRAG embeds them: nothing is trained, and no augmentation is needed.

    Args:
        folder: What ``coldframe encode`` wrote.
        lm: The model it was encoded for.
        corpus: New passages, and perhaps old ones, which are left alone.
        augmenter: As in :func:`encode`.
        ask_again: As in :func:`encode`.
        on_error: As in :func:`encode`.
        quiet: No progress.

    Returns:
        How many passages were added. Interrupted, the same call goes on where it stopped.

    Raises:
        ArtifactError: The folder is of PRAG, or of another model.
        ConfigError: Its rows do not learn, so that a new one would stay as it was drawn.
        DataError: A passage cannot be used.
    """
    folder = Path(folder)
    described, old, bank = read_folder(folder)
    if described.method == "prag":
        raise ArtifactError(
            "Only Poly-PRAG and DyPRAG add passages to what they have trained",
            got=described.method,
            fix="Encode the larger corpus into the same folder: that trains the new ones alone.",
        )
    same_model(described, lm)
    new = tuple(passage for passage in corpus.passages if passage.id not in old.by_id)
    if not new:
        return 0
    if isinstance(bank, GeneratedAdapters):
        new = tuple(_usable(new, lambda passage: embedding_ids(lm, passage), on_error))
        merged = dataclasses.replace(old, passages=(*old.passages, *new))
        embeddings = torch.cat((bank.embeddings(bank.ids), passage_embeddings(lm, new)))
        write_embeddings(folder / embeddings_name(merged), embeddings)
    elif isinstance(bank, RoutedBank) and isinstance(described.config, PolyPRAGConfig):
        config = described.config
        check(config.router_learning_rate > 0, "Rows of this folder do not learn", got="router_learning_rate=0")
        wanted = dataclasses.replace(corpus, passages=new)
        kept = augment(wanted, augmenter or Given(corpus), folder / AUGMENTATIONS, quiet, ask_again)
        sequences = _usable(new, lambda passage: _sequences(lm, config, passage, kept), on_error)
        new, before = tuple(sequences), bank.trained
        parts = CheckpointStore(folder / TRAINING / content_hash(described.extra["fingerprint"], *(p.id for p in new)))
        some, first = list(sequences.values()), len(before.table)
        trainer = PolyTrainer(lm, described.layout, config, some, bank=before.bank, first=first, parts=parts)
        with Bar(trainer.steps, "fit rows", quiet) as bar:
            trainer.report = counted(bar)
            rows = trainer.train()
        together = PolyBank(before.bank, torch.cat((before.table, rows.table)))
        given = {**old.given, **{passage.id: kept.found[passage.id] for passage in new}}
        merged = dataclasses.replace(old, passages=(*old.passages, *new), given=given)
        write_bank(folder / bank_name(merged), together, getattr(torch, str(described.extra["stored"])))
        shutil.rmtree(folder / TRAINING, ignore_errors=True)
    write_described(folder, described, merged)
    return len(new)


def _sequences(lm: FrozenLM, config: EncodingConfig, passage: Passage, kept: Augmented) -> list[TokenSequence]:
    if passage.id in kept.failed:
        raise DataError(f"{_where(passage)} has no augmentation", got=kept.failed[passage.id], fix=_AUGMENT)
    return config.sequences_of(lm, passage, kept.found[passage.id])


def _usable(passages: Sequence[Passage], made: Callable[[Passage], T], on_error: OnError) -> dict[Passage, T]:
    """What is made of each passage; those of which nothing can be made are left out, or stop it."""
    found = {}
    for passage in passages:
        try:
            found[passage] = made(passage)
        except DataError as error:
            if on_error == "raise":
                raise
            say(f"left out: {error.problem}")
    if not found:
        raise DataError("No passage can be added", got=f"{len(passages)} unusable", fix="Look at the first error.")
    return found


_AUGMENT = "Bring rewrite and qa in the corpus, choose another --augment, or skip such passages with --on-error skip."


def _encode_prag(
    corpus: Corpus, lm: FrozenLM, config: PRAGConfig, layout: Layout, sequences: Mapping[str, Sequence[TokenSequence]],
    folder: Path, stored: Stored, fingerprint: str, quiet: bool,
) -> int:  # fmt: skip
    there = shard_places(folder / SHARDS)
    for path, _, owner in there.values():
        if owner != fingerprint:
            raise _other_settings(path)
    wanted = [p for p in corpus.passages if (p.id, corpus.given[p.id].hash) not in there]
    if 0 < len(wanted) < len(corpus):
        say(f"{len(corpus) - len(wanted)} of {len(corpus)} passages are encoded already; going on with the others")
    listed = [sequences[p.id] for p in wanted]
    groups = list(batches(lm, listed, config))
    with Bar(len(wanted), "encode", quiet) as bar:
        for group in groups:
            some = [wanted[i] for i in group]
            flat, losses = train_adapters(lm, layout, config, [listed[i] for i in group], [_where(p) for p in some])
            described = {"fingerprint": fingerprint, "augmentations": [corpus.given[p.id].hash for p in some]}
            write_shard(folder / SHARDS, [p.id for p in some], flat.to(getattr(torch, stored)), described)
            bar.advance(len(some), loss=float(losses.mean()))
    return len(wanted)


def _encode_poly(
    corpus: Corpus, lm: FrozenLM, config: PolyPRAGConfig, layout: Layout,
    sequences: Mapping[str, Sequence[TokenSequence]],
    folder: Path, stored: Stored, fingerprint: str, quiet: bool,
) -> int:  # fmt: skip
    # The checkpoint's folder says what it belongs to.
    trainer = PolyTrainer(
        lm,
        layout,
        config,
        [sequences[p.id] for p in corpus.passages],
        parts=CheckpointStore(folder / TRAINING / fingerprint),
    )
    with Bar(trainer.steps, "encode", quiet) as bar:
        trainer.report = counted(bar)
        found = trainer.train()
    write_bank(folder / bank_name(corpus), found, getattr(torch, stored))
    shutil.rmtree(folder / TRAINING, ignore_errors=True)
    return len(corpus)


def _encode_dyprag(
    corpus: Corpus, lm: FrozenLM, config: DyPRAGConfig, layout: Layout,
    sequences: Mapping[str, Sequence[TokenSequence]],
    embeddings: torch.Tensor, folder: Path, stored: Stored, fingerprint: str, quiet: bool,
) -> int:  # fmt: skip
    seen = dataclasses.replace(corpus, passages=tuple(p for p in corpus.passages if p.id in sequences))
    teacher, ids = config.teacher, [p.id for p in seen.passages]
    its_sequences = {p.id: teacher.sequences_of(lm, p, seen.given[p.id]) for p in seen.passages}
    its_fingerprint = _fingerprint(lm, teacher, stored)
    _encode_prag(seen, lm, teacher, layout, its_sequences, folder, stored, its_fingerprint, quiet)
    augmentations = [seen.given[one].hash for one in ids]
    adapters = AdapterShards(folder / SHARDS, layout, teacher.scale, ids, augmentations)
    trainer = DyTrainer(
        lm,
        layout,
        config,
        [sequences[one] for one in ids],
        embeddings[[row for row, p in enumerate(corpus.passages) if p.id in sequences]],
        lambda rows: adapters.adapters([ids[row] for row in rows]),
        parts=CheckpointStore(folder / TRAINING / fingerprint),
    )
    with Bar(trainer.steps, "hypernetwork", quiet) as bar:
        trainer.report = counted(bar)
        found = trainer.train()
    write_hypernetwork(folder / HYPERNETWORK, found.network, getattr(torch, stored))
    shutil.rmtree(folder / TRAINING, ignore_errors=True)
    return len(seen)


def counted(bar: Bar) -> Callable[[int, float], None]:
    """Shows steps on a bar, those too that an interrupted training had done before."""
    seen = 0

    def report(step: int, loss: float) -> None:
        nonlocal seen
        bar.advance(step - seen, loss=loss)
        seen = step

    return report


def _all_there(folder: Path, ids: set[str]) -> tuple[int, int] | None:
    """Passages and bytes of a finished folder that holds these passages, perhaps beside added ones; None if not."""
    try:
        _, corpus, bank = read_folder(folder)
    except ArtifactError:
        return None
    return (len(corpus), bank.nbytes) if ids <= corpus.by_id.keys() else None


def _fingerprint(lm: FrozenLM, config: EncodingConfig, stored: Stored) -> str:
    """Names what an adapter depends on beside its passage."""
    check(stored in ("bfloat16", "float32"), "Adapters are kept in bfloat16 or float32", got=stored)
    settings = repr(sorted(section(config).items()))
    return content_hash(lm.weight_hash, str(lm.dtype), settings, repr(config.prompts), stored)


def _other_settings(path: Path) -> ArtifactError:
    return ArtifactError(
        f"{path} belongs to a corpus encoded with another model, other settings or other passages",
        fix="Pass another --out, or delete the folder to start again.",
    )


def _where(passage: Passage) -> str:
    return f"The passage in row {passage.row}" if passage.row else f"The passage {passage.shown[:40]!r}"
