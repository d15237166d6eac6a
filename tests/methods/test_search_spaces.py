"""What methods say may be tuned of them: every name is a setting, and every end of a range can be set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from coldframe.methods.registry import all_methods, create
from coldframe.methods.search_space import Choices, Floats, Integers
from coldframe.training.config import TrainingConfig

#: Rivals of the text and weight ports, which used to be measured as they came.
TUNED = ("zero-shot", "icl", "icl-fixed", "lora", "prag", "poly-prag", "dyprag", "pear")
SOFT = ("prompt-tuning", "reparameterised-prompt-tuning", "idpg", "u-esp", "p-esp", "mha-esp", "latent-memory")


def ends(space: Floats | Integers | Choices) -> Iterator[Any]:
    yield from space.values if isinstance(space, Choices) else (space.low, space.high)


@pytest.mark.parametrize("name", all_methods())
def test_every_end_of_every_range_can_be_set(name: str) -> None:
    for setting, space in all_methods()[name].search_space.items():
        for value in ends(space):
            group, _, key = setting.rpartition(".")
            if group:
                assert group == "training"
                TrainingConfig.from_dict({key: value})
            else:
                assert getattr(create(name, {key: value}).config, key) == value


@pytest.mark.parametrize("name", TUNED + SOFT)
def test_rivals_can_be_tuned(name: str) -> None:
    method = all_methods()[name]
    assert method.search_space
    rates = [setting for setting in method.search_space if setting.endswith("learning_rate")]
    assert bool(rates) == method.trainable
    for setting in rates:
        space, usual = method.search_space[setting], method.learning_rate
        assert isinstance(space, Floats)
        if setting == "training.learning_rate":
            assert space.low < usual < space.high  # the usual rate lies within
