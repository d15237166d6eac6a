"""Systems, what is kept of their answers, and how their differences are measured."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from reproduction.answers.evaluate import QASet, ask, cells, overall, scored
from reproduction.answers.result_cache import ResultCache, batches
from reproduction.answers.retained import Choice, choose, copy_curve, read_choices, text_losses
from reproduction.answers.scores import (
    by_group,
    difference,
    level,
    over_sets,
    questions_needed,
    ratio,
    row_scores,
)
from reproduction.answers.systems import Answer, CallableSystem, LMSystem
from reproduction.question_sets import QAPrompt
from reproduction.questions import Passage, Question
from tests.reproduction.support import write_lines
from tests.tiny import tiny

from coldframe.errors import ArtifactError, DataError
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Prompt
from coldframe.methods.head_gains.proxy import ProxyTask

PROMPTS = ["the answer is", "Question: molecule? Answer:", "no"]
TARGETS = ["yes", "no no", "the molecule"]
ALONE = [[target] for target in TARGETS]


@pytest.fixture(scope="module")
def lm() -> FrozenLM:
    return FrozenLM(*tiny("llama"))


@pytest.fixture(scope="module")
def gains(lm: FrozenLM) -> torch.Tensor:
    return 0.2 + torch.rand(lm.anatomy.n_layers, lm.anatomy.n_heads, generator=torch.Generator().manual_seed(0))


def naive(lm: FrozenLM, prompt: str, target: str) -> tuple[float, str]:
    """Loss of the target and the greedy answer, one whole pass for every token."""
    start = [*lm.bos, *lm.tokenize(prompt)]
    gold = lm.tokenize(" " + target)
    logits = lm.model(torch.tensor([start + list(gold)])).logits[0].log_softmax(-1)
    loss = -float(np.mean([float(logits[len(start) - 1 + i, token]) for i, token in enumerate(gold)]))
    ids = list(start)
    for _ in range(6):
        ids.append(int(lm.model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == lm.tokenizer.eos_token_id:
            ids.pop()
            break
    return loss, lm.tokenizer.decode(ids[len(start) :], skip_special_tokens=True)


def test_a_text_without_blanks_is_cut_by_characters() -> None:
    rows = tuple(Passage("", sign * 300) for sign in "日本語")
    told = QAPrompt(list, 600)(*Question("q", "何?", ("日",), rows).as_row())
    assert told.cut == 3 and told.tokens <= 600 and all(told.text.count(sign * 100) for sign in "日本語")


@pytest.mark.slow
def test_a_model_answers_as_whole_passes_do(lm: FrozenLM) -> None:
    for answer, prompt, target in zip(LMSystem(lm).answer(PROMPTS, ALONE, 6), PROMPTS, TARGETS, strict=True):
        loss, text = naive(lm, prompt, target)
        assert answer.loss == pytest.approx(loss, abs=1e-4)
        assert answer.text == text.lstrip().split("\n")[0].strip()


def test_gains_of_one_are_the_base_and_others_are_not(lm: FrozenLM, gains: torch.Tensor) -> None:
    base = LMSystem(lm)
    same = LMSystem(lm, "pear", torch.ones_like(gains))
    other = LMSystem(lm, "pear", gains)
    assert same.answer(PROMPTS, ALONE, 4) == base.answer(PROMPTS, ALONE, 4)
    losses = [one.loss for one in other.answer(PROMPTS, ALONE, 4)]
    assert losses != [one.loss for one in base.answer(PROMPTS, ALONE, 4)]
    alone = other.answer(PROMPTS, ALONE, 0)
    assert [one.text for one in alone] == [None] * 3 and [one.loss for one in alone] == pytest.approx(losses, abs=1e-5)
    assert len({base.fingerprint, same.fingerprint, other.fingerprint}) == 3


def test_losses_and_texts_in_one_go_are_those_of_both_ways(lm: FrozenLM) -> None:
    prompts = [Prompt(text) for text in PROMPTS]
    losses, texts = lm.answer(prompts, [(target, "no matter") for target in TARGETS], max_new_tokens=5, stop=("e",))
    assert torch.allclose(losses[:, 0], lm.loss(prompts, TARGETS), atol=1e-5)
    assert torch.allclose(losses[:, 1], lm.loss(prompts, ["no matter"] * len(prompts)), atol=1e-5)
    assert texts == [text.lstrip() for text in lm.generate(prompts, max_new_tokens=5, stop=("e",))]


def test_a_line_break_before_the_answer_does_not_end_it(lm: FrozenLM, monkeypatch: pytest.MonkeyPatch) -> None:
    script = iter([*lm.tokenize("\n\n yes"), *lm.tokenize("\nno")])

    def head(hidden: torch.Tensor, token_ids: torch.Tensor | None = None) -> torch.Tensor:
        logits = torch.zeros(*hidden.shape[:-1], lm.anatomy.vocab_size)
        if hidden.dim() == 2:  # a step of writing
            logits[:, next(script)] = 1.0
        return logits

    monkeypatch.setattr(lm, "head", head)
    assert lm.answer([Prompt("is it?")], [["yes"]], max_new_tokens=20, stop=("\n",))[1] == ["yes"]
    assert len(list(script)) == 2  # it ended at the line break after the word


def test_a_prompt_beyond_the_context_is_an_error(lm: FrozenLM) -> None:
    with pytest.raises(DataError, match="longer than the model's context"):
        LMSystem(lm).answer(["x" * 400], [["yes"]], 4)


def test_a_callable_gives_first_lines() -> None:
    system = CallableSystem("rival", lambda prompts, n: [f"\n {p[:n]} \nmore" for p in prompts], "f")
    assert system.answer(["abcd", "xyz"], [[""], [""]], 2) == [Answer("ab", None), Answer("xy", None)]
    assert system.answer(["abcd"], [[""]], 0) == [Answer(None, None)]
    losing = CallableSystem("rival", lambda prompts, n: list(prompts), "f", loss=lambda prompts, answers: [1.5])
    assert losing.answer(["abcd"], [["x"]], 0) == [Answer(None, 1.5)] and losing.answer(["ab"], [["x"]], 2) == [
        Answer("ab", 1.5)
    ]
    with pytest.raises(DataError, match="one text for each prompt"):
        CallableSystem("rival", lambda prompts, n: ["one"], "f").answer(["a", "b"], ["", ""], 2)


def test_a_kill_loses_at_most_the_line_it_cut(tmp_path: Path) -> None:
    settings = {"system": "s"}
    kept = ResultCache(tmp_path, "set", settings)
    kept.add([{"id": "a", "x": 1}, {"id": "b", "x": 2}])
    data = kept.path.read_bytes()
    for end in range(len(data) + 1):  # wherever the kill came
        kept.path.write_bytes(data[:end])
        again = ResultCache(tmp_path, "set", settings)
        assert list(again.rows) in ([], ["a"], ["a", "b"])
        rows = again.fill({"a": 1, "b": 1}, lambda ids: [{"id": one, "x": "ab".index(one) + 1} for one in ids], 9)
        assert rows == {"a": {"id": "a", "x": 1}, "b": {"id": "b", "x": 2}}
        assert ResultCache(tmp_path, "set", settings).rows == rows
    kept.path.write_bytes(b'{"other": 1}\n')
    with pytest.raises(ArtifactError, match="other settings"):
        ResultCache(tmp_path, "set", settings)
    kept.path.write_bytes(data + b"[]\n")
    with pytest.raises(ArtifactError, match="damaged"):
        ResultCache(tmp_path, "set", settings)


def test_batches_hold_every_row_once_and_no_more_tokens_than_allowed() -> None:
    sizes = {str(i): 1 + 7 * i % 23 for i in range(40)}
    found = batches(sizes, 50)
    assert sorted(name for batch in found for name in batch) == sorted(sizes)
    assert all(len(batch) == 1 or len(batch) * max(sizes[name] for name in batch) <= 50 for batch in found)


def question(i: int, group: str = "", gold: int | None = None) -> Question:
    return Question(
        f"q{i}", "is it?", ("yes", "the answer"), (Passage("", "the answer is yes"), Passage("", "no")), gold, group
    )


class Counting:
    """A system that counts what it is asked, and dies when told."""

    name, seed, fingerprint, copies = "counting", 0, "c", 1

    def __init__(self, dies_after: int = 10**9) -> None:
        self.asked, self.dies_after = 0, dies_after

    def answer(self, prompts: Sequence[str], targets: Sequence[Sequence[str]], max_new_tokens: int) -> list[Answer]:
        if self.asked >= self.dies_after:
            raise KeyboardInterrupt
        self.asked += len(prompts)
        return [Answer("Yes.", 0.5)] * len(prompts)


def test_a_run_that_was_killed_goes_on_where_it_stopped(tmp_path: Path) -> None:
    asked = QASet.of("some", [question(i) for i in range(9)], QAPrompt(str.split, 99))
    size = max(tokens for _, tokens in asked.prompts.values()) + 4
    options = {"max_new_tokens": 4, "batch_tokens": 2 * size}
    with pytest.raises(KeyboardInterrupt):
        ask(Counting(dies_after=4), asked, tmp_path, **options)
    again = Counting()
    rows = ask(again, asked, tmp_path, **options)
    assert again.asked == 5 and list(rows) == [one.id for one in asked.questions]
    more = Counting()
    longer = QASet.of("some", [question(i) for i in range(11)], QAPrompt(str.split, 99))
    ask(more, longer, tmp_path, **options)
    assert more.asked == 2  # a larger draw asks only what is new
    other = Counting()
    ask(other, QASet.of("some", asked.questions, QAPrompt(str.split, 99, instruction="Say.")), tmp_path, **options)
    assert other.asked == 9  # another prompt is another question
    assert set(scored(asked, rows)["q0"]) == {"contains", "exact_match", "token_f1", "loss"}


def test_the_right_answer_among_wrong_ones(lm: FrozenLM) -> None:
    found = LMSystem(lm).answer(PROMPTS, [("yes", "no matter", "it")] * 3, 0)
    for prompt, answer in zip(PROMPTS, found, strict=True):
        sums = [-float(lm.loss([Prompt(prompt)], [target])) for target in ("yes", "no matter", "it")]
        assert answer.among == pytest.approx(sums, abs=1e-4)
        scores = row_scores(question(0), dataclasses.asdict(answer))
        likely = torch.tensor(sums).softmax(0)
        assert scores["choice_loss"] == pytest.approx(-float(likely[0].log()), abs=1e-4)
        assert scores["chosen"] == 100 * (int(likely.argmax()) == 0)


def test_wrong_answers_are_others_answers_and_the_same_at_every_place() -> None:
    def about(i: int, answers: tuple[str, ...], group: str = "") -> Question:
        return Question(f"q{i}", "is it?", answers, (Passage("", "text"),), None, group)

    rows = [about(0, ("Rome", "Roma")), about(1, ("The Roma",)), about(2, ("Oslo",)), about(3, ("Bern",), "g")]
    rows += [about(4, ("Bern",), "g")]
    asked = QASet.of("some", rows, QAPrompt(str.split, 99), wrong=2)
    assert set(asked.wrong["q0"]) == {"Oslo", "Bern"}  # an alias of it is none
    assert asked.wrong["q3"] == asked.wrong["q4"] and len(asked.wrong["q3"]) == 2
    assert all(len(some) == 2 for some in QASet.of("some", rows, QAPrompt(str.split, 99), wrong=9).wrong.values())
    assert set(QASet.of("some", rows[:1], QAPrompt(str.split, 99), wrong=9).wrong["q0"]) == set()
    few = QASet.of("some", rows[:2], QAPrompt(str.split, 99), wrong=2, others=rows)
    assert {name: asked.wrong[name] for name in few.wrong} == few.wrong


def test_scores_of_a_row() -> None:
    found = row_scores(question(0), {"text": "I think yes", "loss": 0.25})
    assert found == {"contains": 100.0, "exact_match": 0.0, "token_f1": 50.0, "loss": 0.25}
    assert row_scores(question(0), {"text": None, "loss": None}) == {}
    assert row_scores(question(0), {"text": "yesterday", "loss": None})["contains"] == 0.0


def naive_interval(gap: np.ndarray) -> tuple[float, float]:
    rng = np.random.default_rng(5)
    means = [gap[rng.integers(0, len(gap), len(gap))].mean() for _ in range(4000)]
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def test_a_paired_difference_agrees_with_a_plain_bootstrap() -> None:
    rng = np.random.default_rng(0)
    base = 100.0 * (rng.random(150) < 0.4)
    system = np.where(rng.random(150) < 0.15, 100 - base, base)
    found = difference([system], [base])
    low, high = naive_interval(system - base)
    assert found.interval.value == pytest.approx((system - base).mean())
    assert found.interval.low == pytest.approx(low, abs=1.0) and found.interval.high == pytest.approx(high, abs=1.0)
    assert found.deviation == pytest.approx((system - base).std(ddof=1))
    assert found.needed == questions_needed(found.deviation)
    same = difference([base], [base])
    assert (same.interval.value, same.interval.low, same.interval.high, same.needed) == (0.0, 0.0, 0.0, None)
    assert difference([base], [system], percent=False).needed is None


def test_the_stated_number_of_questions_has_the_stated_power() -> None:
    deviation, effect = 20.0, 2.0
    n = questions_needed(deviation, effect)
    rng = np.random.default_rng(1)
    means = rng.normal(effect, deviation / math.sqrt(n), 20_000)
    assert np.mean(np.abs(means) > 1.96 * deviation / math.sqrt(n)) == pytest.approx(0.8, abs=0.015)


def test_seeds_widen_and_places_of_one_question_are_one() -> None:
    rng = np.random.default_rng(2)
    base = rng.random(60)
    seeds = [base + shift + 0.01 * rng.random(60) for shift in (-0.3, 0.0, 0.3)]
    wide, narrow = difference(seeds, [base], percent=False), difference(seeds[1:2], [base], percent=False)
    assert wide.interval.seeds == 3 and wide.interval.high - wide.interval.low > 5 * (
        narrow.interval.high - narrow.interval.low
    )
    rows = [question(0, "a"), question(1, "a"), question(2, "b")]
    values = by_group(rows, {"q0": {"loss": 1.0}, "q1": {"loss": 3.0}, "q2": {"loss": 5.0}}, "loss")
    assert values is not None and values.tolist() == [2.0, 5.0]
    assert by_group(rows, {one.id: {} for one in rows}, "loss") is None


def test_every_set_counts_alike() -> None:
    found = over_sets([[np.full(10, 4.0)], [np.full(90, 0.0)]])
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 2.0, 2.0))
    rng = np.random.default_rng(3)
    a, b = rng.normal(1, 1, 40), rng.normal(0, 2, 160)
    spread = math.sqrt(a.var() / 40 + b.var() / 160) / 2
    assert over_sets([[a]]) == level([a])
    found = over_sets([[a], [b]])
    assert found.high - found.low == pytest.approx(2 * 1.96 * spread, rel=0.1)
    assert ratio([np.array([6.0, 2.0])], np.array([3.0, 1.0])).value == 2.0


def test_the_table_has_places_and_the_mean_has_pairs() -> None:
    rows = [question(2 * i + g, f"g{i}", g) for i in range(4) for g in (0, 1)]
    asked = QASet.of("mdqa2", rows, QAPrompt(str.split, 99))
    scores = {
        "base": {0: {one.id: row_scores(one, {"text": "no", "loss": 2.0}) for one in rows}},
        "pear": {
            s: {one.id: row_scores(one, {"text": "yes" if one.gold else "no", "loss": 1.5}) for one in rows}
            for s in (0, 1)
        },
        "rival": {0: {one.id: row_scores(one, {"text": "yes", "loss": None}) for one in rows}},
    }
    table = cells(asked, scores, "base")
    found = {(c.system, c.metric, c.place): c for c in table}
    assert found["pear", "contains", None].level.value == 50 and found["pear", "contains", None].level.n == 4
    assert found["pear", "contains", 1].level.value == 100 and found["pear", "contains", 0].level.value == 0
    assert found["pear", "loss", None].gap is not None and found["pear", "loss", None].gap.interval.value == -0.5
    assert found["base", "contains", None].gap is None and ("rival", "loss", None) not in found
    pairs = overall([asked], {"mdqa2": scores}, [("pear", "base"), ("pear", "rival"), ("rival", "base")])
    assert {(o.system, o.against, o.metric): o.interval.value for o in pairs if o.metric in ("contains", "loss")} == {
        ("pear", "base", "contains"): 50.0,
        ("pear", "rival", "contains"): -50.0,
        ("rival", "base", "contains"): 100.0,
        ("pear", "base", "loss"): -0.5,
    }


def test_letters_agree_with_whole_passes(lm: FrozenLM, gains: torch.Tensor) -> None:
    choices = [Choice("a", "the answer is", 3, 1), Choice("b", "no no", 10, 9)]
    letters = [lm.tokenize(" " + letter) for letter in "ABCDEFGHIJ"]
    for system in (LMSystem(lm), LMSystem(lm, "pear", gains)):
        rows = choose(system, choices)
        with lm.ports(system.put([""])):
            for choice, row in zip(choices, rows, strict=True):
                start = [*lm.bos, *lm.tokenize(choice.text)]
                scores = []
                for letter in letters:
                    logits = lm.model(torch.tensor([[*start, *letter]])).logits[0].log_softmax(-1)
                    scores.append(sum(float(logits[len(start) - 1 + i, token]) for i, token in enumerate(letter)))
                among = torch.tensor(scores[: choice.options]).log_softmax(-1)
                assert row["loss"] == pytest.approx(-float(among[choice.right]), abs=1e-3)
                assert row["correct"] == (int(among.argmax()) == choice.right)


def test_choices_are_read_and_bad_ones_named(tmp_path: Path) -> None:
    row = {"question_id": 1, "question": "What?", "options": ["x", "y"], "answer": "B", "answer_index": 1}
    wrong = {**row, "question_id": 2, "answer_index": 0}
    assert read_choices(write_lines(tmp_path / "a.jsonl", [row, wrong])) == [
        Choice("mmlu-1", "Question: What?\nA. x\nB. y\nAnswer:", 2, 1)
    ]
    for change in ({"answer": "C"}, {"answer": "Z"}, {"options": ["x"]}, {"options": None}, {"question": None}):
        with pytest.raises(DataError, match="no choice"):
            read_choices(write_lines(tmp_path / "b.jsonl", [{**row, **change, "answer_index": 2}]))


def test_losses_of_text_and_of_a_copy_are_the_plain_ones(lm: FrozenLM, gains: torch.Tensor) -> None:
    [row] = text_losses(LMSystem(lm), {"t": "the molecule is"}, longest=5)
    ids = [*lm.bos, *lm.tokenize("the molecule is")[:5]]
    logits = lm.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    assert row["tokens"] == len(ids) - 1
    assert row["loss"] == pytest.approx(-sum(float(logits[i, ids[i + 1]]) for i in range(len(ids) - 1)), abs=1e-4)
    curve = copy_curve(LMSystem(lm), n=8, sequences=6)
    ids = ProxyTask(lm).sequences(6, 8, 3)
    assert len(curve) == 7 and np.mean(curve) == pytest.approx(float(ProxyTask(lm).copy_losses(ids).mean()), abs=1e-4)
    assert copy_curve(LMSystem(lm, "pear", gains), n=8, sequences=6) != curve
    with pytest.raises(DataError, match="fewer than two tokens"):
        text_losses(LMSystem(lm), {"t": ""})


def test_cells_travel_to_json_and_back() -> None:
    rows = [question(0), question(1)]
    asked = QASet.of("some", rows, QAPrompt(str.split, 99))
    scores = {
        name: {0: {one.id: row_scores(one, {"text": "yes", "loss": 1.0}) for one in rows}} for name in ("base", "pear")
    }
    for cell in cells(asked, scores, "base"):
        assert type(cell).from_dict(json.loads(json.dumps(cell.to_dict()))) == cell
        assert dataclasses.replace(cell) == cell
