"""Contract: the same run twice gives the same bytes, on several threads too."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contract.cases import ON_ROWS, TRAINED, TWO, Case, lm_of, task, task_of
from tests.tiny import tiny_tokenizer
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BertConfig, BertModel

from coldframe.pipeline.fit import fit
from coldframe.retrieval.retriever import RetrievalConfig
from coldframe.storage.files import sha256_of
from coldframe.tasks.task import Task
from coldframe.training.config import TrainingConfig
from coldframe.training.trainer import Trainer

# torch shares a sum among threads from some 30,000 elements on: batch x k x width must be beyond that.
ROWS, WIDTH = 16, 1024
ONE_EPOCH = TrainingConfig(epochs=1, batch_size=4, warmup=0.0)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def outcome(case: Case, on: Task, **options: Any) -> tuple[str, list[float]]:
    """The best weights, and the losses of all epochs: the best need not be the last."""
    settings: dict[str, Any] = {
        "retrieval": RetrievalConfig(encoder="tiny"),
        "training": TrainingConfig(epochs=2, batch_size=ROWS, warmup=0.0, seed=5, checkpoint_every=1),
        "quiet": True,
    }
    pipeline = fit(case.method(), lm_of("llama"), on, **{**settings, **options})
    with tempfile.TemporaryDirectory() as folder:  # adapters of passages are in files
        pipeline.save_pretrained(folder)
        saved = [sha256_of(path) for path in sorted(Path(folder).rglob("*.safetensors"))]
    return repr(saved), [record.get("train_loss", 0.0) for record in pipeline.history]


class OneOrder(TorchDispatchMode):
    """Fails where several numbers are added up in an order that a GPU's threads (or a CPU's) decide."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__.rstrip("_")
        if name == "index_add":
            assert len(args[2].unique()) == len(args[2]), "index_add with repeated rows"
        elif name in ("index_put", "_index_put_impl") and len(args) > 3 and args[3]:
            places = torch.stack([i.flatten() for i in torch.broadcast_tensors(*(i for i in args[1] if i is not None))])
            if places.dtype != torch.bool:
                assert places.unique(dim=1).shape == places.shape, "an indexed gradient with repeated rows"
        elif name == "scatter_add":
            ordered = args[2].sort(args[1]).values
            assert (ordered.diff(dim=args[1]) != 0).all(), "scatter_add with repeated places"
        return func(*args, **(kwargs or {}))


@pytest.mark.slow
@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("case", TRAINED, ids=lambda case: case.id)
def test_two_trainings_end_with_the_same_bytes(case: Case) -> None:
    if case.settings.get("adapter") is not None:
        case = dataclasses.replace(case, settings={**case.settings, "adapter": WIDTH})
    on = task(rows=ROWS) if case in ON_ROWS else task_of(case)
    assert outcome(case, on) == outcome(case, on)


@pytest.mark.slow
@pytest.mark.parametrize("case", TRAINED, ids=lambda case: case.id)
def test_nothing_is_added_up_in_an_order_that_threads_decide(case: Case) -> None:
    with OneOrder():
        outcome(case, task(rows=4) if case in ON_ROWS else task_of(case), training=ONE_EPOCH)


def test_labels_of_several_tokens_are_added_up_in_one_order() -> None:
    case = next(case for case in TRAINED if case.id == "prompt-tuning")
    with OneOrder():
        outcome(case, task(TWO.replace(words=("yes", "yes and not no")), rows=4), training=ONE_EPOCH)


class Interrupted(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["neural", "neural, fine-tuned", "morgan", "morgan+descriptors"])
def test_an_interrupted_training_ends_with_the_same_bytes_whatever_encodes(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From 64 queries on their neighbours are kept, so that a resumed run encodes in another order than the first."""
    monkeypatch.undo()  # here encoders are real ones
    monkeypatch.setenv("COLDFRAME_CACHE", str(tmp_path / "cache"))
    on, spec, rank = molecules(), kind, 0
    if kind.startswith("neural"):
        on, spec, rank = task(rows=64), bert(tmp_path / "bert"), 2 * ("tuned" in kind)
    case = Case("mha-esp", "mha-esp", {"heads": 2, "k": 3, "encoder": spec, "encoder_rank": rank})
    retrieval = RetrievalConfig(encoder=spec, similarity="cosine")

    def interrupted(trainer: Trainer, *_: object) -> list[float]:
        raise Interrupted

    step, out = Trainer._step, tmp_path / "out"
    for moment in (0, 3):
        calls = iter([step] * moment)
        monkeypatch.setattr(Trainer, "_step", lambda *a, calls=calls: next(calls, interrupted)(*a))
        with pytest.raises(Interrupted):
            outcome(case, on, retrieval=retrieval, out=out)
    monkeypatch.setattr(Trainer, "_step", step)
    resumed = outcome(case, on, retrieval=retrieval, out=out)
    monkeypatch.setenv("COLDFRAME_CACHE", str(tmp_path / "another cache"))
    assert resumed == outcome(case, on, retrieval=retrieval)


def bert(folder: Path) -> str:
    """A tiny random encoder in a folder, as a spec."""
    tokenizer = tiny_tokenizer()
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return f"hf:{folder}:mean"


def molecules() -> Task:
    """64 training rows of alcohols and amines."""
    on = task(rows=64)
    rename = {
        example.text: ("C" * (i % 30 + 1)) + ("O" if i % 2 else "N") + "C" * (i // 30)
        for i, example in enumerate((*on.train, *on.validation))
    }

    def renamed(examples: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(dataclasses.replace(e, text=rename[e.text], key=rename[e.text]) for e in examples)

    return dataclasses.replace(
        on,
        schema=on.schema.replace(domain="molecules"),
        train=renamed(on.train),
        validation=renamed(on.validation),
        test=renamed(on.test),
    )
