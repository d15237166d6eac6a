"""DyPRAG: sizes as published, and losses, gradients and training against the equations in plain loops."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from coldframe.tasks.corpus import Passage
from coldframe.tasks.fact_corpus import fact_corpus
from tests.tiny import tiny
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from coldframe.errors import ConfigError, DataError, TrainingError
from coldframe.frozen.anatomy import anatomy_of
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import EMPTY, Conditioning
from coldframe.frozen.sequence_loss import TokenSequence, counted_states, mean_nll, nll_and_kl
from coldframe.methods.weight_deltas.adapters import Layout
from coldframe.methods.weight_deltas.dyprag import (
    DyPRAGConfig,
    DyTrainer,
    Hypernetwork,
    embedding_ids,
    passage_embeddings,
)
from coldframe.methods.weight_deltas.prag import train_adapters
from coldframe.storage.checkpoints import CheckpointStore

FACTS = fact_corpus(4).corpus
SMALL: dict[str, Any] = {"epochs": 3, "batch_size": 5, "width": 4, "init_std": 0.05, "teacher_epochs": 3}


class Setting:
    """A tiny model, four passages, and their PRAG adapters."""

    def __init__(self, architecture: str = "llama", **settings: Any) -> None:
        self.lm = FrozenLM(*tiny(architecture))
        self.config = DyPRAGConfig(**{**SMALL, **settings})
        self.layout = Layout.of(self.lm.anatomy, self.config.rank, self.config.targets)
        given = [(passage, FACTS.given[passage.id]) for passage in FACTS.passages]
        taught = [self.config.teacher.prompts.of(self.lm, *one) for one in given]
        self.adapters, _ = train_adapters(self.lm, self.layout, self.config.teacher, taught)
        self.sequences = [self.config.sequences_of(self.lm, *one) for one in given]
        self.embeddings = passage_embeddings(self.lm, FACTS.passages)

    def trainer(self, parts: CheckpointStore | None = None) -> DyTrainer:
        return DyTrainer(
            self.lm,
            self.layout,
            self.config,
            self.sequences,
            self.embeddings,
            lambda rows: self.adapters[list(rows)],
            parts=parts,
        )


def written_out(network: Hypernetwork, layout: Layout, embedding: Tensor) -> list[tuple[Tensor, Tensor]]:
    """A and B of every target for one passage, from plain modules."""
    found = []
    seconds = network.second.split(layout.pieces)
    for m, (name, (d_in, d_out)) in enumerate(zip(layout.names, layout.sizes, strict=True)):
        layer = int(re.findall(r"\.(\d+)\.", name)[0])
        u = torch.cat((embedding, torch.tensor([float(layer)])))
        pair = []
        for place, shape in ((2 * m, (layout.rank, d_in)), (2 * m + 1, (d_out, layout.rank))):
            width = network.first.shape[1]
            net = nn.Sequential(
                nn.Linear(len(u), width, bias=False),
                nn.ReLU(),
                nn.Linear(width, shape[0] * shape[1], bias=False),
            )
            net[0].weight.data, net[2].weight.data = network.first[place].data, seconds[place].data
            pair.append(net(u).view(shape))
        found.append((pair[0], pair[1]))
    return found


@pytest.mark.parametrize(
    ("settings", "parameters"),
    [
        ({"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16}, 37_751_808),
        ({"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28}, 64_689_408),
        ({"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32}, 138_418_176),
    ],
    ids=["Llama-3.2-1B", "Qwen2.5-1.5B", "Llama-3-8B"],
)
def test_sizes_are_the_published_ones(settings: dict[str, int], parameters: int) -> None:
    config = AutoConfig.for_model("llama", vocab_size=100, num_attention_heads=32, num_key_value_heads=8, **settings)
    with torch.device("meta"):
        anatomy = anatomy_of(AutoModelForCausalLM.from_config(config))
        layout = Layout.of(anatomy, rank=2, targets="mlp")
        network = Hypernetwork(layout, anatomy.d_model, DyPRAGConfig().width)
    assert sum(weight.numel() for weight in network.parameters()) == parameters


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "phi3", "opt-projected"])
def test_adapters_are_those_of_the_equation(architecture: str) -> None:
    lm = FrozenLM(*tiny(architecture))
    layout = Layout.of(lm.anatomy, 2, "mlp")
    network = Hypernetwork(layout, lm.d_model, width=5, init_std=0.3, seed=1)
    embeddings = torch.randn(3, lm.d_model, generator=torch.Generator().manual_seed(2))
    for row, embedding in enumerate(embeddings):
        for (a, b), (wanted_a, wanted_b) in zip(
            layout.factors(network(embeddings)), written_out(network, layout, embedding), strict=True
        ):
            torch.testing.assert_close(a[row], wanted_a)
            torch.testing.assert_close(b[row], wanted_b)
    # Layers differ in what they get, so in what they make, even of the same embedding and weights.
    assert max(layout.layers) == lm.anatomy.n_layers - 1
    with torch.no_grad():
        network.first.copy_(network.first[:1].expand_as(network.first))
    hidden = (network.first[0] @ torch.cat((embeddings[0], torch.tensor([1.0])))).relu()
    last = layout.layers.index(1)
    start = sum(layout.pieces[: 2 * last])
    a = network(embeddings)[0, start : start + layout.pieces[2 * last]]
    torch.testing.assert_close(a, network.second[start : start + len(a)] @ hidden)


def test_the_start_has_the_spread_that_is_asked_for() -> None:
    layout = Layout.of(FrozenLM(*tiny("llama")).anatomy, 2, "mlp")
    one, two = (Hypernetwork(layout, 32, 32, std, seed=0) for std in (1e-3, 1e-7))
    for weight, small in zip(one.parameters(), two.parameters(), strict=True):
        assert float(weight.detach().std()) == pytest.approx(1e-3, rel=0.05)
        torch.testing.assert_close(weight, 1e4 * small)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt-projected"])
def test_an_embedding_is_the_last_state_of_the_last_token(architecture: str) -> None:
    lm = FrozenLM(*tiny(architecture))
    passages = [FACTS.passages[0], Passage.of("red"), FACTS.passages[1], Passage.of("a long one " * 8, "Title")]
    found = passage_embeddings(lm, passages)
    for row, passage in enumerate(passages):
        ids = torch.tensor([lm.tokenizer(passage.shown).input_ids])
        with torch.no_grad():
            hidden = lm.model(input_ids=ids, output_hidden_states=True).hidden_states[-1]
            alone = lm.body(input_ids=ids).last_hidden_state
        torch.testing.assert_close(found[row], alone[0, -1], atol=1e-5, rtol=1e-4)
        if hidden.shape == alone.shape:  # OPT projects after what it lists last
            torch.testing.assert_close(found[row], hidden[0, -1], atol=1e-5, rtol=1e-4)


def hand_made(lm: FrozenLM, ids: Sequence[int], factors: list[tuple[Tensor, Tensor]], scale: float) -> Tensor:
    """Log-probabilities ``[tokens, vocab]`` of a model whose weights are the sums ``W + scale B A``."""
    layout = Layout.of(lm.anatomy, factors[0][0].shape[0], "mlp")
    changed = {}
    for name, (a, b) in zip(layout.names, factors, strict=True):
        module = lm.model.get_submodule(name)
        update = scale * (b @ a)  # Conv1D stores its weight transposed
        changed[f"{name}.weight"] = module.weight + (update.T if type(module).__name__ == "Conv1D" else update)
    output = torch.func.functional_call(lm.model, changed, (torch.tensor([list(ids)]),))
    logits: Tensor = output.logits[0]
    return logits.log_softmax(-1)


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("llama", {}),
        ("llama", {"loss": "sequence", "sequences": "published", "scaling": "published", "rank": 3}),
        ("llama", {"kl_weight": 0.0}),
        ("llama", {"mse_weight": 0.0, "form": "published"}),
        ("gpt2", {}),
    ],
)
def test_loss_and_gradient_are_those_of_the_equation(architecture: str, settings: dict[str, Any]) -> None:
    """One passage, one sequence at a time, with the weights changed by hand."""
    setting = Setting(architecture, kl_weight=settings.pop("kl_weight", 0.3), **settings)
    config, layout, lm = setting.config, setting.layout, setting.lm
    trainer = setting.trainer()
    trainer.taught = trainer.taught or trainer._teach()
    places = [0, len(trainer.pairs) - 1, 1, 2]
    nll, kl, mse = trainer.losses_of(places)
    total = (nll + config.kl_weight * kl + config.mse_weight * mse).mean()
    total.backward()
    ours = [weight.grad for weight in trainer.network.parameters()]

    network = Hypernetwork(layout, lm.d_model, config.width, config.init_std, config.seed)
    wanted = torch.zeros(())
    for i, place in enumerate(places):
        row, sequence = trainer.pairs[place]
        generated = layout.factors(network(setting.embeddings[row : row + 1])[0])
        target = layout.factors(setting.adapters[row])
        student = hand_made(lm, sequence.ids, generated, 1.0 if config.scaling == "published" else 32 / config.rank)
        teacher = hand_made(lm, sequence.ids, target, 32 / config.rank)
        likely, apart, count = torch.zeros(()), torch.zeros(()), 0
        for t in range(max(sequence.start, 1), len(sequence)):
            likely = likely - student[t - 1, sequence.ids[t]]
            apart = apart + (teacher[t - 1].exp() * (teacher[t - 1] - student[t - 1])).sum()
            count += 1
        squares = sum(
            ((a - ta) ** 2).mean() + ((b - tb) ** 2).mean() for (a, b), (ta, tb) in zip(generated, target, strict=True)
        )
        torch.testing.assert_close(nll[i], likely / count, atol=1e-4, rtol=1e-4)
        if config.kl_weight:
            torch.testing.assert_close(kl[i], apart, atol=1e-4, rtol=1e-3)
        if config.mse_weight:
            torch.testing.assert_close(mse[i], squares, atol=1e-6, rtol=1e-4)
        wanted = wanted + (likely / count + config.kl_weight * apart + config.mse_weight * squares) / len(places)
    wanted.backward()
    for found, weight in zip(ours, network.parameters(), strict=True):
        assert found is not None and weight.grad is not None
        torch.testing.assert_close(found, weight.grad, atol=1e-4, rtol=1e-2)
        assert float(weight.grad.abs().max()) > 1e-4


def test_kl_to_oneself_is_nothing_and_nll_is_that_of_mean_nll() -> None:
    lm = FrozenLM(*tiny("llama"))
    some = [TokenSequence((1, 20, 30, 40), 2), TokenSequence((1, 21, 31), 1), TokenSequence(tuple(range(1, 9)), 6)]
    states, target, per_row = counted_states(lm, some, EMPTY)
    assert target.tolist() == [30, 40, 21, 31, 7, 8] and per_row.tolist() == [2, 2, 2]
    nll, kl = nll_and_kl(lm, some, EMPTY, states)
    torch.testing.assert_close(nll, mean_nll(lm, some, EMPTY))
    torch.testing.assert_close(kl, torch.zeros(3), atol=1e-5, rtol=0)
    assert float(nll_and_kl(lm, some, EMPTY, states.flip(0))[1].min()) > 0.1


def test_sequences_are_pressed_into_weights_or_published() -> None:
    passage = FACTS.passages[0]
    lm, augmentation = FrozenLM(*tiny("llama")), FACTS.given[FACTS.passages[0].id]
    everything = DyPRAGConfig().sequences_of(lm, passage, augmentation)
    assert everything == DyPRAGConfig().teacher.prompts.of(lm, passage, augmentation) and len(everything) == 3
    (only,) = DyPRAGConfig(sequences="published").sequences_of(lm, passage, augmentation)
    text = lm.tokenizer.decode(only.ids)
    assert passage.text in text and augmentation.qa[0].question in text


def test_both_scales_and_the_teachers() -> None:
    assert (DyPRAGConfig().scale, DyPRAGConfig(scaling="published").scale) == (16.0, 1.0)
    for scaling in ("repaired", "published"):
        teacher = DyPRAGConfig(scaling=scaling, rank=4, teacher_epochs=7, weight_decay=0.1).teacher  # type: ignore[arg-type]
        assert (teacher.scale, teacher.rank, teacher.epochs, teacher.weight_decay) == (8.0, 4, 7, 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"scaling": "published", "mse_weight": 0.0}])
def test_training_learns_and_every_passage_has_its_own_adapter(settings: dict[str, Any]) -> None:
    setting = Setting(epochs=40, width=8, init_std=0.02, learning_rate=3e-3, batch_size=6, **settings)
    lm, before = setting.lm, setting.lm.weight_hash
    found = setting.trainer().train()
    assert FrozenLM(lm.model, lm.tokenizer).weight_hash == before
    assert len(found.losses) == 40 and found.losses[-1] < 0.5 * found.losses[0]
    with torch.no_grad():
        adapters = found.network(setting.embeddings)

    def loss(rows: list[int]) -> float:
        each = [
            mean_nll(lm, own, Conditioning(deltas=setting.layout.deltas(setting.layout.factors(adapters[row]), scale)))
            for own, row in zip(setting.sequences, rows, strict=True)
        ]
        return float(torch.cat(each).mean())

    scale = setting.config.scale
    closed = float(torch.cat([mean_nll(lm, own, EMPTY) for own in setting.sequences]).mean())
    own, swapped = loss([0, 1, 2, 3]), loss([3, 0, 1, 2])
    assert own < 0.7 * closed and own < swapped - 0.1


def test_with_the_published_scale_a_perfect_fit_is_not_the_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for scaling in ("repaired", "published"):
        setting = Setting(scaling=scaling, teacher_learning_rate=1e-2, teacher_epochs=10)
        trainer = setting.trainer()
        trainer.taught = trainer._teach()
        adapters = setting.adapters
        monkeypatch.setattr(trainer.network, "forward", lambda embeddings, adapters=adapters: adapters)
        nll, kl, mse = (part.mean() for part in trainer.losses_of(range(len(trainer.pairs))))
        found[scaling] = (float(nll), float(kl))
        assert float(mse) == 0
    assert found["repaired"][1] == pytest.approx(0, abs=1e-3)
    assert found["published"][0] > found["repaired"][0] + 0.5 and found["published"][1] > 0.5


def test_an_interrupted_training_ends_at_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DyTrainer, "CHECKPOINT_EVERY", 4)
    setting = Setting()
    whole = setting.trainer().train()

    class Killed(Exception):
        pass

    def die(step: int, loss: float) -> None:
        if step == 7:
            raise Killed

    first = setting.trainer(CheckpointStore(tmp_path))
    first.report = die
    with pytest.raises(Killed):
        first.train()
    second = setting.trainer(CheckpointStore(tmp_path))
    steps: list[int] = []
    second.report = lambda step, loss: steps.append(step)
    found = second.train()
    assert steps == [5, 6, 7, 8, 9]
    assert found.losses == whole.losses
    for one, other in zip(found.network.parameters(), whole.network.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
def test_a_half_precision_model_trains_a_network_in_float32() -> None:
    setting = Setting(epochs=10, learning_rate=3e-3, width=8)
    setting.lm = FrozenLM(setting.lm.model.bfloat16(), setting.lm.tokenizer)
    setting.embeddings = passage_embeddings(setting.lm, FACTS.passages)
    found = setting.trainer().train()
    assert setting.embeddings.dtype == torch.float32 == found.network.first.dtype
    assert found.losses[-1] < 0.9 * found.losses[0]


def test_bad_input_is_told() -> None:
    lm = FrozenLM(*tiny("llama"))
    with pytest.raises(DataError, match=r"longer than the model's context .*row 7.*at most 256"):
        embedding_ids(lm, Passage.of("word " * 300, "Long", row=7))
    setting = Setting(learning_rate=1e30)
    with pytest.raises(TrainingError, match="loss of DyPRAG is not finite"):
        setting.trainer().train()
    layout = Layout.of(lm.anatomy, 2, "mlp")
    state = Hypernetwork(layout, 32, 4).state_dict()
    assert torch.equal(Hypernetwork.from_state(layout, state).second, state["second"])
    with pytest.raises(ConfigError, match="do not fit the layout"):
        Hypernetwork.from_state(Layout.of(lm.anatomy, 3, "mlp"), state)


@pytest.mark.parametrize(
    "wrong",
    [
        {"width": 0},
        {"batch_size": 0},
        {"train_passages": 0},
        {"init_std": 0.0},
        {"kl_weight": -0.1},
        {"mse_weight": -1.0},
        {"teacher_epochs": 0},
        {"teacher_per_step": 0},
        {"epochs": 0},
        {"teacher_learning_rate": 0.0},
    ],
)
def test_settings_out_of_range_are_told(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        DyPRAGConfig(**wrong)
