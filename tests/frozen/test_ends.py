"""What ends an answer is part of it: in losses, in the scores of labels, and when a model writes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.frozen import naive
from tests.tiny import tiny

from coldframe.errors import ConfigError
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Conditioning, LowRank, Prompt

CHAT = (
    "{% for m in messages %}<user>{{ m['content'] }}<eos>\n{% endfor %}{% if add_generation_prompt %}<model>{% endif %}"
)
CLOSE: dict[str, Any] = {"atol": 1e-4, "rtol": 0}
QUERIES = ["How many? one\nAnswer:", "How many? ten, I say\nAnswer:"]


def lm_of(architecture: str = "llama") -> FrozenLM:
    return FrozenLM(*tiny(architecture))


def ending(end: str, queries: list[str] = QUERIES) -> list[Prompt]:
    return [Prompt(query, "Count.", end) for query in queries]


def naive_loss(lm: FrozenLM, prompt: Prompt, answer: str, *ids: int) -> torch.Tensor:
    """Of the answer's text, and of the tokens that follow it."""
    tokens = [*lm.tokenizer(answer, add_special_tokens=False).input_ids, *ids]
    return naive.loss(lm.model, naive.tokens_of(lm, prompt), tokens)


# ---- losses -----------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize(
    ("end", "text", "own"), [("", "", 0), ("\n", "\n", 0), (".\n", ".\n", 0), ("<end of text>", "", 1)]
)
def test_a_loss_counts_what_ends_the_answer(end: str, text: str, own: int) -> None:
    lm = lm_of()
    ids = [lm.tokenizer.eos_token_id] * own
    prompts = ending(end)
    wanted = torch.stack([naive_loss(lm, prompt, " yes" + text, *ids) for prompt in prompts])
    torch.testing.assert_close(lm.loss(prompts, ["yes", "yes"]), wanted, **CLOSE)
    torch.testing.assert_close(lm.losses(prompts, [["yes", "no"]] * 2)[:, 0], wanted, **CLOSE)
    torch.testing.assert_close(lm.answer(prompts, [["yes"]] * 2, max_new_tokens=2)[0][:, 0], wanted, **CLOSE)


def test_the_tokens_of_an_answer_with_its_end() -> None:
    lm = lm_of()
    yes, line = lm.tokenize(" yes"), lm.tokenize("\n")
    assert lm.answer_tokens("yes") == lm.answer_tokens(" yes", "") == yes
    assert lm.answer_tokens("yes", "\n") == (*yes, *line)
    assert lm.answer_tokens("yes", "<end of text>") == (*yes, lm.tokenizer.eos_token_id)


def test_an_end_and_its_answer_are_tokenised_together() -> None:
    """``No`` is one token; ``N`` and ``o`` apart would be two."""
    lm = lm_of()
    assert lm.answer_tokens("Yes N", "o") == lm.tokenize(" Yes No") != (*lm.tokenize(" Yes N"), *lm.tokenize("o"))


def test_the_end_of_a_turn_is_the_chat_template_s() -> None:
    lm = lm_of()
    with pytest.raises(ConfigError, match="no chat template"):
        lm.answer_tokens("yes", "<end of turn>")
    lm = lm_of()
    lm.tokenizer.chat_template = CHAT
    assert lm.answer_tokens("yes", "<end of turn>") == (*lm.tokenize(" yes"), lm.tokenizer.eos_token_id)
    lm = lm_of()
    lm.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(ConfigError, match="does not end"):
        lm.answer_tokens("yes", "<end of turn>")


def test_a_model_without_an_end_of_text_says_so() -> None:
    lm = lm_of()
    lm.tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="end of text"):
        lm.loss(ending("<end of text>"), ["yes", "no"])


# ---- labels -----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_label_that_begins_another_is_scored_with_its_end() -> None:
    lm = lm_of()
    for end, ids in (("\n", []), ("<end of text>", [lm.tokenizer.eos_token_id])):
        prompts, text = ending(end), "" if ids else end
        scores = lm.label_scores(prompts, ["1", "10", "2"])
        for i, prompt in enumerate(prompts):
            wanted = [-naive_loss(lm, prompt, f" {word}{text}", *ids) for word in ("1", "10", "2")]
            torch.testing.assert_close(scores[i], torch.stack(wanted), **CLOSE)
    with pytest.raises(ConfigError, match="'1' begins the label '10', and nothing ends"):
        lm.label_scores(ending(""), ["1", "10", "2"])


@torch.no_grad()
def test_where_no_label_begins_another_the_end_decides_nothing() -> None:
    lm = lm_of()
    for words in (["yes", "no"], ["yes", "the molecule", "not"]):
        with_end, without = (lm.label_scores(ending(end), words) for end in ("\n", ""))
        assert torch.equal(with_end, without)


def test_prompts_that_end_differently_do_not_share_labels_that_need_an_end() -> None:
    lm = lm_of()
    prompts = [ending("\n")[0], ending("")[1]]
    assert torch.isfinite(lm.label_scores(prompts, ["yes", "no"])).all()
    with pytest.raises(ConfigError, match="end differently"):
        lm.label_scores(prompts, ["1", "10"])


@pytest.mark.slow
def test_trained_on_as_many_of_both_both_are_predicted() -> None:
    """Ratings 1 and 10: the tokens of the one begin those of the other."""
    lm, words = lm_of(), ["1", "10"]
    linear = lm.anatomy.linears("attention")[-1]
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(4, linear.d_in, generator=generator).mul_(0.1).requires_grad_()
    b = torch.zeros(linear.d_out, 4, requires_grad=True)
    soft = torch.randn(2, lm.d_model, generator=generator).requires_grad_()
    optimizer = torch.optim.Adam([a, b, soft], lr=0.1)
    prompts = ending("\n")
    for _ in range(60):
        put = Conditioning(soft_tokens=soft, deltas={linear.name: LowRank(a, b)})
        scores = lm.label_scores(prompts, words, put)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(scores, torch.tensor([0, 1])).backward()
        optimizer.step()
    assert scores.argmax(-1).tolist() == [0, 1]


# ---- writing ----------------------------------------------------------------------------------------------


def test_writing_ends_where_the_answer_ends() -> None:
    lm = lm_of()
    free = lm.generate(ending(""), max_new_tokens=12)
    mark = free[0].lstrip()[4:6]
    wanted = [text.lstrip().split(mark)[0] for text in free]
    assert lm.generate(ending(mark), max_new_tokens=12) == wanted != [text.lstrip() for text in free]
    _, written = lm.answer(ending(mark), [["yes"]] * 2, max_new_tokens=12)
    assert written == wanted


def test_every_prompt_has_its_own_end() -> None:
    lm = lm_of()
    free = lm.generate(ending(""), max_new_tokens=12)
    mark = next(c for c in free[0].lstrip()[1:] if c in free[1].lstrip()[1:] and not c.isspace())
    got = lm.generate([ending(mark)[0], ending("")[1]], max_new_tokens=12)
    assert got == [free[0].lstrip().split(mark)[0], free[1]]


def test_no_further_token_is_read_once_every_answer_has_ended() -> None:
    lm, passes = lm_of(), []
    mark = lm.generate(ending("")[:1], max_new_tokens=12)[0].lstrip()[2]
    lm.body.register_forward_pre_hook(lambda *_: passes.append(1))
    lm.generate(ending(mark)[:1], max_new_tokens=64)
    assert len(passes) < 15


def test_the_end_of_a_turn_ends_what_is_written() -> None:
    lm, (prompt,) = lm_of(), ending("<end of turn>")[:1]
    free = naive.greedy(lm.model, naive.tokens_of(lm, prompt), 12)
    turn = next(i for i in free[1:] if lm.tokenize(lm.decode([i]).strip()) == (i,))  # a token that its text gives again
    lm.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + '" + lm.decode([turn]) + "' }}{% endfor %}"
    assert lm.generate([prompt], max_new_tokens=12) == [lm.decode(free[: free.index(turn)])]
