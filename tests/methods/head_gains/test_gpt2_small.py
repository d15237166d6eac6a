"""GPT-2 small's copy-suppression heads, where its weights can be had."""

from __future__ import annotations

import pytest

from coldframe.errors import ModelError
from coldframe.frozen.model import load_lm
from coldframe.methods.head_gains.config import ReweightConfig
from coldframe.methods.head_gains.discovery import discover


@pytest.mark.e2e
def test_the_known_copy_suppression_heads_are_among_the_first() -> None:
    """Heads 10.7 and 11.10: McDougall et al. 2023, arXiv 2310.04625."""
    try:
        lm = load_lm("openai-community/gpt2", dtype="float32")
    except ModelError as error:
        pytest.skip(str(error))
    effects = discover(lm, ReweightConfig(bos="always")).mean()
    first = [divmod(i, lm.anatomy.n_heads) for i in effects.flatten().argsort(descending=True)[:5].tolist()]
    assert {(10, 7), (11, 10)} <= set(first)
