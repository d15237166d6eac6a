"""``python -m reproduction.head_gradients``: pulls beside finite differences, and what a comparison says."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from reproduction.answers.systems import LMSystem
from reproduction.head_gradients import agreement, choice_gradients, copy_gradient
from tests.reproduction.support import tiny_folder, write_data
from tests.tiny import tiny

from coldframe.errors import ConfigError
from coldframe.frozen.model import FrozenLM
from coldframe.methods.config import MethodContext
from coldframe.methods.head_gains.config import ReweightConfig
from coldframe.methods.head_gains.pear import PEAR
from coldframe.methods.head_gains.proxy import ProxyTask
from coldframe.pipeline.reweight import COPYING
from reproduction import head_gradients

PROMPTS = ["the answer is", "Question: molecule? Answer:"]
TARGETS = [["yes", "no no", "the"], ["the molecule", "no", "yes"]]


@pytest.mark.slow
def test_pulls_are_the_slopes_of_the_choice() -> None:
    lm = FrozenLM(*tiny("llama"))

    def loss(gains: torch.Tensor, i: int) -> float:
        among = LMSystem(lm, gains=gains).answer(PROMPTS[i : i + 1], TARGETS[i : i + 1], 0)[0].among
        assert among is not None
        return math.log(sum(math.exp(score - among[0]) for score in among))

    losses, pulls = choice_gradients(lm, PROMPTS, TARGETS)
    shape = (lm.anatomy.n_layers, lm.anatomy.n_heads)
    assert pulls.shape == (2, *shape) and float(pulls.abs().max()) > 1e-4
    for i in range(2):
        assert float(losses[i]) == pytest.approx(loss(torch.ones(shape), i), abs=1e-5)
        for layer in range(shape[0]):
            for head in range(shape[1]):
                step = torch.zeros(shape)
                step[layer, head] = 0.01
                slope = (loss(1 + step, i) - loss(1 - step, i)) / 0.02
                assert float(pulls[i, layer, head]) == pytest.approx(slope, rel=2e-3, abs=2e-4)


def test_the_pull_on_a_copy_is_a_slope_too() -> None:
    lm = FrozenLM(*tiny("llama"))
    config = ReweightConfig(bos="never", length=12, held_out=10)
    method = PEAR(**config.to_dict()).setup(MethodContext(lm, COPYING.schema))
    method.proxy, losses = ProxyTask(lm, config.bos, config.seed), []
    method.chosen[1, 2] = True
    for gain in (1.02, 0.98):
        method.gains.data[1, 2] = gain
        losses.append(method.held_out_loss())
    slope = (losses[0] - losses[1]) / 0.04
    assert float(copy_gradient(lm, config)[1, 2]) == pytest.approx(slope, rel=0.02, abs=1e-4)


@pytest.mark.slow
def test_a_comparison() -> None:
    noise = np.random.default_rng(0)
    effects = noise.normal(size=(4, 5))
    gains = np.ones((4, 5))
    gains[2, 3] = 0.5
    copies = noise.normal(size=(4, 5))
    same = agreement(effects + 0.1 * noise.normal(size=(40, 4, 5)), effects, copies, gains)
    assert same.questions == 40 and same.effects[0] > 0.95 and same.reachable >= same.halves > 0.95
    assert abs(same.copies[0]) < 0.6
    value, low, high = same.effects
    assert low <= value <= high
    assert same.foretold[0] == pytest.approx(-0.5 * effects[2, 3], abs=0.05)
    assert same.foretold[1] < same.foretold[0] < same.foretold[2]
    layer, head, pull, copy, effect = same.best[0]
    assert (layer, head) == divmod(int(effects.argmax()), 5) and effect == effects.max() and copy == copies[layer, head]
    assert pull == pytest.approx(effect, abs=0.1) and len(same.best) == 10
    other = agreement(noise.normal(size=(40, 4, 5)), effects, copies, gains)
    assert abs(other.effects[0]) < 0.6 and other.halves < 0.4


@pytest.mark.slow
def test_the_command(tmp_path: Path, cache: Path) -> None:
    model, data = tiny_folder(tmp_path / "tiny"), write_data(tmp_path / "data")
    quick = [
        "bos=never",
        "steps=4",
        "evaluate_every=2",
        "repetitions=[[12, 8], [10, 10]]",
        "length=20",
        "batch_size=32",
    ]
    words = [model, "--data", data, "--sets", "2wiki", "mdqa3", "--questions", 4, "--wrong", 2, "--heads", 3]
    words += ["--set", *quick, "--dtype", "float32", "--out", tmp_path / "out"]
    agreements = head_gradients.run([str(word) for word in words])
    assert {name: result.questions for name, result in agreements.items()} == {"2wiki": 4, "mdqa3": 12}
    written = json.loads((tmp_path / "out" / "pull.json").read_text())
    for name, result in agreements.items():
        assert written[name] == json.loads(json.dumps(dataclasses.asdict(result)))
    assert "| mdqa3 | 12 |" in (tmp_path / "out" / "pull.md").read_text()
    rows = {path.name: path.read_bytes() for path in (tmp_path / "out" / "pulls").iterdir()}
    assert head_gradients.run([str(word) for word in words]) == agreements
    assert {path.name: path.read_bytes() for path in (tmp_path / "out" / "pulls").iterdir()} == rows
    with pytest.raises(ConfigError, match="wrong answer"):
        head_gradients.run([str(word) for word in (*words, "--wrong", 0)])
