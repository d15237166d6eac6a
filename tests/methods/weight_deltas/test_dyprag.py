"""DyPRAG: sizes as published; losses, gradients and training against the equations in plain loops; what is kept."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.methods.weight_deltas.support import (
    adapters_of,
    conditioning,
    facts,
    fitted,
    loss_with,
    part,
    passages_of,
    questions_of,
    sequences_of,
    set_up,
    steps,
    tiny_lm,
    trained_problems,
    with_passages,
)
from tests.tiny import tiny
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

import coldframe as cf
from coldframe.errors import ArtifactError, ConfigError, DataError, TrainingError
from coldframe.frozen.anatomy import anatomy_of
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import EMPTY
from coldframe.frozen.sequence_loss import TokenSequence, counted_states, mean_nll, nll_and_kl
from coldframe.methods.weight_deltas.adapters import Layout
from coldframe.methods.weight_deltas.banks import AdapterShards, GeneratedAdapters
from coldframe.methods.weight_deltas.dyprag import DyPRAG, DyPRAGConfig, embedding_ids, passage_embeddings
from coldframe.methods.weight_deltas.hypernetwork import Hypernetwork
from coldframe.methods.weight_deltas.prag import PRAG
from coldframe.pipeline.pipeline import Pipeline
from coldframe.tasks.task import Passage
from coldframe.training.trainer import Trainer

pytest.importorskip("bm25s")
FOUR = facts(4)
SMALL: dict[str, Any] = {"epochs": 3, "batch_size": 4}


def dyprag(**settings: Any) -> DyPRAG:
    return DyPRAG(**{"width": 4, "init_std": 0.05, "teacher_epochs": 2, "stored": "float32", **settings})


def bank_of(pipeline: Pipeline) -> GeneratedAdapters:
    bank = pipeline.method.bank
    assert isinstance(bank, GeneratedAdapters)
    return bank


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
    first, second, *_ = passages_of(FOUR)
    passages = [first, Passage.of("red"), second, Passage.of("a long one " * 8, "Title")]
    found = passage_embeddings(lm, passages)
    for row, passage in enumerate(passages):
        ids = torch.tensor([lm.tokenizer(passage.text).input_ids])
        with torch.no_grad():
            hidden = lm.model(input_ids=ids, output_hidden_states=True).hidden_states[-1]
            alone = lm.body(input_ids=ids).last_hidden_state
        torch.testing.assert_close(found[row], alone[0, -1], atol=1e-5, rtol=1e-4)
        if hidden.shape == alone.shape:  # OPT projects after what it lists last
            torch.testing.assert_close(found[row], hidden[0, -1], atol=1e-5, rtol=1e-4)


@pytest.mark.slow
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
def test_loss_and_gradient_are_those_of_the_equation(
    architecture: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One passage, one sequence at a time, with the weights changed by hand."""
    lm, method = FrozenLM(*tiny(architecture)), dyprag(**{"kl_weight": 0.3, **settings})
    config, checked = method.config, list[str]()

    def compared(trainer: Trainer) -> list[dict[str, float]]:
        """Instead of training the hypernetwork: its losses and gradients as it starts."""
        if not isinstance(trainer.method, DyPRAG):
            return train(trainer)
        layout, items, targets = method.layout, trainer.items.items, method._targets(torch.arange(4))
        batch = trainer.items.take([0, len(items) - 1, 1, 2])
        nll, kl, mse = method.losses_of(lm, batch)
        torch.testing.assert_close(method.loss(lm, batch), nll + config.kl_weight * kl + config.mse_weight * mse)
        method.loss(lm, batch).mean().backward()
        ours = [weight.grad for weight in method.network.parameters()]
        network = Hypernetwork(layout, lm.d_model, config.width, config.init_std)
        embeddings, total = passage_embeddings(lm, passages_of(FOUR)), torch.zeros(())
        for i, (_, row, sequence) in enumerate(batch):
            generated, target = layout.factors(network(embeddings[row : row + 1])[0]), layout.factors(targets[row])
            student = hand_made(lm, sequence.ids, generated, 1.0 if config.scaling == "published" else 32 / config.rank)
            teacher = hand_made(lm, sequence.ids, target, 32 / config.rank)
            likely, apart, count = torch.zeros(()), torch.zeros(()), 0
            for t in range(max(sequence.start, 1), len(sequence)):
                likely = likely - student[t - 1, sequence.ids[t]]
                apart = apart + (teacher[t - 1].exp() * (teacher[t - 1] - student[t - 1])).sum()
                count += 1
            squares = sum(
                ((a - ta) ** 2).mean() + ((b - tb) ** 2).mean()
                for (a, b), (ta, tb) in zip(generated, target, strict=True)
            )
            torch.testing.assert_close(nll[i], likely / count, atol=1e-4, rtol=1e-4)
            if config.kl_weight:
                torch.testing.assert_close(kl[i], apart, atol=1e-4, rtol=1e-3)
            if config.mse_weight:
                torch.testing.assert_close(mse[i], squares, atol=1e-6, rtol=1e-4)
            total = total + (likely / count + config.kl_weight * apart + config.mse_weight * squares) / len(batch)
        total.backward()
        for gradient, weight in zip(ours, network.parameters(), strict=True):
            assert gradient is not None and weight.grad is not None
            torch.testing.assert_close(gradient, weight.grad, atol=1e-4, rtol=1e-2)
            assert float(weight.grad.abs().max()) > 1e-4
        checked.append(architecture)
        return []

    train = Trainer.train
    monkeypatch.setattr(Trainer, "train", compared)
    fitted(method, lm, FOUR, **SMALL)
    assert checked


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


def test_kl_to_oneself_is_nothing_and_nll_is_that_of_mean_nll() -> None:
    lm = FrozenLM(*tiny("llama"))
    sequences = [TokenSequence((1, 20, 30, 40), 2), TokenSequence((1, 21, 31), 1), TokenSequence(tuple(range(1, 9)), 6)]
    states, target, per_row = counted_states(lm, sequences, EMPTY)
    assert target.tolist() == [30, 40, 21, 31, 7, 8] and per_row.tolist() == [2, 2, 2]
    nll, kl = nll_and_kl(lm, sequences, EMPTY, states)
    torch.testing.assert_close(nll, mean_nll(lm, sequences, EMPTY))
    torch.testing.assert_close(kl, torch.zeros(3), atol=1e-5, rtol=0)
    assert float(nll_and_kl(lm, sequences, EMPTY, states.flip(0))[1].min()) > 0.1


def test_sequences_are_pressed_into_weights_or_published() -> None:
    lm, passage, questions = tiny_lm(), passages_of(FOUR)[0], questions_of(FOUR)[0]
    everything = set_up(dyprag()).sequences_of(passage, questions)
    assert everything == set_up(PRAG()).sequences_of(passage, questions) and len(everything) == 3
    (only,) = set_up(dyprag(sequences="published")).sequences_of(passage, questions)
    text = lm.tokenizer.decode(only.ids)
    assert passage.text in text and questions[0].text in text


def test_both_scales_and_the_teachers() -> None:
    assert (DyPRAGConfig().scale, DyPRAGConfig(scaling="published").scale) == (16.0, 1.0)
    for scaling in ("repaired", "published"):
        teacher = DyPRAGConfig(scaling=scaling, rank=4, form="published", teacher_per_step=2).teacher  # type: ignore[arg-type]
        assert (teacher.scale, teacher.rank, teacher.form, teacher.per_step) == (8.0, 4, "published", 2)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"scaling": "published", "mse_weight": 0.0}])
def test_training_learns_and_every_passage_has_its_own_adapter(settings: dict[str, Any]) -> None:
    lm = FrozenLM(*tiny("llama"))
    before, method = lm.weight_hash, dyprag(width=8, init_std=0.02, teacher_epochs=3, **settings)
    pipeline = fitted(method, lm, FOUR, epochs=40, learning_rate=3e-3, batch_size=6)
    assert FrozenLM(lm.model, lm.tokenizer).weight_hash == before
    losses = [record["train_loss"] for record in pipeline.history if record["problem"] == 1]
    assert len(losses) == 40 and losses[-1] < 0.5 * losses[0]
    assert [record["problem"] for record in pipeline.history].count(0) == 3  # the teacher's epochs
    adapters, sequences = adapters_of(pipeline, FOUR), sequences_of(lm, FOUR)

    def loss(rows: Sequence[int]) -> float:
        scale = method.config.scale
        own = zip(sequences, rows, strict=True)
        return sum(loss_with(lm, each, conditioning(method.layout, adapters[row], scale)) for each, row in own) / 4

    closed = sum(loss_with(lm, own) for own in sequences) / 4
    assert loss(range(4)) < 0.7 * closed and loss(range(4)) < loss([3, 0, 1, 2]) - 0.1


@pytest.mark.slow
def test_with_the_published_scale_a_perfect_fit_is_not_the_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    parts: dict[str, tuple[float, float, float]] = {}

    def measured(trainer: Trainer) -> list[dict[str, float]]:
        method = trainer.method
        if not isinstance(method, DyPRAG):
            return train(trainer)
        targets = method._targets(torch.arange(4))
        monkeypatch.setattr(method.network, "forward", lambda embeddings: targets)
        nll, kl, mse = method.losses_of(trainer.lm, trainer.items.take(range(len(trainer.items))))
        parts[method.config.scaling] = (float(nll.mean()), float(kl.mean()), float(mse.mean()))
        return []

    train = Trainer.train
    monkeypatch.setattr(Trainer, "train", measured)
    for scaling in ("repaired", "published"):
        fitted(dyprag(scaling=scaling, teacher_learning_rate=1e-2, teacher_epochs=10), task=FOUR, **SMALL)
    assert parts["repaired"][2] == parts["published"][2] == 0
    assert parts["repaired"][1] == pytest.approx(0, abs=1e-3)
    assert parts["published"][0] > parts["repaired"][0] + 0.5 and parts["published"][1] > 0.5


@pytest.mark.slow
def test_a_half_precision_model_trains_a_network_in_float32() -> None:
    model, tokenizer = tiny("llama")
    lm = FrozenLM(model.bfloat16(), tokenizer)
    pipeline = fitted(dyprag(width=8), lm, FOUR, epochs=10, learning_rate=3e-3)
    losses = [record["train_loss"] for record in pipeline.history if record["problem"] == 1]
    assert passage_embeddings(lm, passages_of(FOUR)).dtype == torch.float32 == bank_of(pipeline).network.first.dtype
    assert losses[-1] < 0.9 * losses[0]


def test_bad_input_is_told() -> None:
    lm = tiny_lm()
    with pytest.raises(DataError, match=r"row 7 is longer than the model's context.*at most 256"):
        embedding_ids(lm, Passage.of("word " * 300, "Long", row=7))
    with pytest.raises(TrainingError, match="not finite.*The passage in row"):
        fitted(dyprag(), task=FOUR, learning_rate=1e30, epochs=3)
    layout = Layout.of(lm.anatomy, 2, "mlp")
    state = Hypernetwork(layout, 32, 4).state_dict()
    assert torch.equal(Hypernetwork.from_state(layout, state).second, state["second"])
    with pytest.raises(ConfigError, match="do not fit the layout"):
        Hypernetwork.from_state(Layout.of(lm.anatomy, 3, "mlp"), state)


@pytest.mark.parametrize(
    "wrong",
    [
        {"width": 0},
        {"train_passages": 0},
        {"init_std": 0.0},
        {"kl_weight": -0.1},
        {"mse_weight": -1.0},
        {"teacher_epochs": 0},
        {"teacher_per_step": 0},
        {"teacher_learning_rate": 0.0},
    ],
)
def test_settings_out_of_range_are_told(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        DyPRAG(**wrong)


# ---- what is kept -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_artifact_holds_network_and_embeddings_and_not_the_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = dataclasses.replace(facts(), train=tuple(e for e in facts().train if e.gold[0] in ids_of(0, 5)))
    pipeline = fitted(dyprag(train_passages=5), task=bare, out=tmp_path / "a", **SMALL)
    bank, every = bank_of(pipeline), passages_of(facts())
    embeddings = passage_embeddings(tiny_lm(), every)
    torch.testing.assert_close(bank.embeddings([p.id for p in every]), embeddings)
    torch.testing.assert_close(adapters_of(pipeline, facts()), bank.network(embeddings))
    # Bytes as they are counted: both nets of every target, and an embedding for each passage.
    numbers = 2 * 9 * 4 * 33 + bank.layout.parameters * 4 + 7 * 32
    assert 4 * numbers <= 7 * pipeline.method.entry_bytes < 4 * numbers + 1000
    # The teacher is PRAG of the five passages.
    prag = fitted(PRAG(stored="float32"), task=part(facts(), 0, 5), epochs=2)
    teacher = pipeline.method.teacher.adapters
    assert isinstance(teacher, AdapterShards)
    torch.testing.assert_close(teacher.adapters([p.id for p in every[:5]]), adapters_of(prag, part(facts(), 0, 5)))
    assert (tmp_path / "a" / "teacher" / "adapters").is_dir()
    again = cf.load(tmp_path / "a", tiny_lm())
    again.save_pretrained(tmp_path / "b")
    assert {path.name for path in (tmp_path / "b").iterdir()} == {
        "README.md",
        "coldframe_config.json",
        "embeddings.safetensors",
        "exemplars.jsonl",
        "hypernetwork.safetensors",
        "trained_keys.json",
    }
    assert torch.equal(adapters_of(cf.load(tmp_path / "b", tiny_lm())), adapters_of(pipeline))
    # The same command again trains nothing, and a corpus that grew behind the trained passages is only embedded.
    names, made = trained_problems(monkeypatch), steps(monkeypatch)
    more = with_passages(bare, Passage.of("red", id="red"))
    assert len(fitted(dyprag(train_passages=5), task=more, out=tmp_path / "a", **SMALL).store) == 8
    assert names == ["dyprag"] and not made
    # Other trained passages make another network; other settings of the teacher are refused.
    for method, on in ((dyprag(train_passages=3), bare), (dyprag(train_passages=5, teacher_epochs=3), bare)):
        with pytest.raises(ArtifactError, match="other settings"):
            fitted(method, task=on, out=tmp_path / "a", **SMALL)


def ids_of(first: int, last: int) -> set[str]:
    return {passage.id for passage in passages_of(part(facts(), first, last))}


@pytest.mark.slow
def test_a_killed_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the network's training: what the teacher has finished is not trained again, the network goes on."""
    settings = {**SMALL, "checkpoint_every": 2}
    whole = fitted(dyprag(), task=FOUR, **settings)
    made = steps(monkeypatch, stop_at=6 + 5)  # six are the teacher's
    with pytest.raises(KeyboardInterrupt):
        fitted(dyprag(), task=FOUR, out=tmp_path, **settings)
    monkeypatch.undo()
    rest = steps(monkeypatch)
    pipeline = fitted(dyprag(), task=FOUR, out=tmp_path, **settings)
    assert made == [*range(6), 0, 1, 2, 3, 4] and rest == [4, 5, 6, 7, 8]
    assert torch.equal(adapters_of(pipeline), adapters_of(whole))


@pytest.mark.slow
def test_growth_embeds_and_trains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start, lm = part(facts(), 0, 5), tiny_lm()
    fitted(dyprag(), task=start, out=tmp_path, **SMALL)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    pipeline = cf.load(tmp_path, lm)
    before, made = adapters_of(pipeline, start), steps(monkeypatch)
    bare = dataclasses.replace(facts(), train=(), validation=())
    assert cf.grow(pipeline, bare, quiet=True) == 2 and cf.grow(pipeline, bare, quiet=True) == 0 and not made
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files
    assert torch.equal(adapters_of(pipeline, start), before)
    new = adapters_of(pipeline, part(facts(), 5, 7))
    torch.testing.assert_close(new, bank_of(pipeline).network(passage_embeddings(lm, passages_of(facts())[5:])))
    assert not torch.equal(new[0], new[1])
    pipeline.save_pretrained(tmp_path)
    assert torch.equal(adapters_of(cf.load(tmp_path, lm)), adapters_of(pipeline))
    with pytest.raises(DataError, match="no embedding of passage 'nobody'"):
        bank_of(pipeline).adapters(["nobody"])
    with pytest.raises(ConfigError, match="'routing' cannot be changed"):
        pipeline.replace(routing="uniform")


@pytest.mark.slow
def test_unusable_passages_are_told_before_the_work_or_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    bare, long = Passage.of("nothing is asked", row=9), Passage.of("word " * 300, "Long", row=10)
    about = dataclasses.replace(facts().train[0], id="long", gold=(long.id,))
    on = with_passages(part(facts(), 0, 3), bare, long, questions=[about])
    names = trained_problems(monkeypatch)
    with pytest.raises(DataError, match="row 10 is longer than the model's context"):
        fitted(dyprag(train_passages=3), task=on, **SMALL)
    with pytest.raises(DataError, match="row 9 has no questions"):
        fitted(dyprag(), task=dataclasses.replace(on, store=(on.store or ())[:4]), **SMALL)
    assert not names
    seen = dyprag(train_passages=3, skip_unusable=True)
    assert len(fitted(seen, task=on, **SMALL).store) == 4 and set(seen.left_out) == {long.id}
    every = dyprag(skip_unusable=True)
    assert len(fitted(every, task=on, **SMALL).store) == 3 and set(every.left_out) == {bare.id, long.id}
