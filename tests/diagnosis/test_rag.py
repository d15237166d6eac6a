"""A log is diagnosed: the verdict in the reader's words, question by question, passage by passage."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.contract.cases import lm_of
from tests.diagnosis.server import Server

import coldframe as cf
from coldframe.diagnosis.contexts import ContextSubject
from coldframe.diagnosis.diagnose import diagnose
from coldframe.diagnosis.effects import by_passage, by_rank, question_effects, share_estimate
from coldframe.diagnosis.evidence import Estimate
from coldframe.diagnosis.grading import Judge, WordGrader
from coldframe.diagnosis.paired import compare_subjects, shared
from coldframe.diagnosis.queries import Case
from coldframe.diagnosis.rag import cost, diagnose_log, subject_of
from coldframe.diagnosis.rag_evidence import SITUATIONS, RagDiagnosis, Rate, headline
from coldframe.diagnosis.rag_report import questions_csv, render_report, write_report
from coldframe.diagnosis.retrieval_quality import retrieval_quality
from coldframe.diagnosis.shares import independent
from coldframe.errors import ConfigError, DataError, ModelError
from coldframe.inference.client import Client
from coldframe.tasks.rag_log import LogRow, RagLog, read_log

TOWNS = ["Rome", "Oslo", "Lima", "Cairo", "Bern"]
PEOPLE = [f"Person{i}" for i in range(40)]


def log_of(retrieve: str = "right", gold: bool = True) -> RagLog:
    """Everybody's town, retrieved at the first place, at none, or the same passages for all."""
    rows = []
    for i, name in enumerate(PEOPLE):
        fact = f"{name} lives in {TOWNS[i % 5]}."
        other = f"{PEOPLE[(i + 7) % 40]} lives in {TOWNS[(i + 7) % 5]}."
        passages = {"right": [fact, other], "same": [f"{PEOPLE[0]} lives in Rome."], "wrong": [other]}[retrieve]
        rows.append(
            {
                "user_input": f"Where does {name} live?",
                "retrieved_contexts": passages,
                "reference" if gold else "response": TOWNS[i % 5],
                "reference_contexts": [fact],
            }
        )
    return read_log(rows)


def reads(case: Case) -> float:
    """A model that answers right if a passage about the person holds the answer, at a loss of 0.1, else of 2."""
    name = case.text.split()[2]
    return 0.1 if any(name in passage and case.answer in passage for passage in case.passages) else 2.0


class Reader(ContextSubject):
    """A subject over a log that reads."""

    mode = "answers"


def subject_over(log: RagLog) -> Reader:
    queries = [(row.question, row.answers[0]) for row in log.rows]
    return Reader(queries, [row.passages for row in log.rows], losses=lambda cases: map(reads, cases), name=log.name)


def test_which_question_and_which_passage() -> None:
    effects = question_effects(subject_over(log_of()))
    assert {effect.effect for effect in effects} == {"helped"}
    assert all(e.decisive is not None and e.decisive.rank == 1 for e in effects)
    assert [round(p.change, 6) for p in effects[0].passages] == [1.9, 0.0]
    first, second = by_rank(effects, resamples=200)
    assert first.change.value == pytest.approx(1.9) and first.change.low > 1 and second.change.value == 0
    assert first.questions == second.questions == 40
    often = by_passage(effects, resamples=200)
    assert len(often) == 40 and often[0].questions == 2  # once at each rank
    assert np.isnan(often[0].change.low)  # two questions give no interval


def test_redundant_passages_do_nothing_each() -> None:
    log = log_of()
    rows = tuple(LogRow(r.question, (r.passages[0], r.passages[0] + " "), r.answers) for r in log.rows)
    effects = question_effects(subject_over(RagLog("log", rows, {}, True, ())))
    assert all(p.effect == "did nothing" for e in effects for p in e.passages)
    assert all(e.effect == "helped" and e.decisive is None for e in effects)


def test_a_retriever_alone() -> None:
    right, same = retrieval_quality(log_of().rows), retrieval_quality(log_of("same").rows)
    assert right.hit is not None and right.hit.value == 1 and right.ndcg is not None and right.ndcg.value == 1
    assert right.gold_never == 0 and not right.warnings and right.answer_within.value == 1
    assert (
        same.hit is not None and same.hit.value == pytest.approx(1 / 40) and same.gold_never == pytest.approx(39 / 40)
    )
    assert same.same_for_all and "same passages for every question" in same.warnings[0]


def test_a_retriever_that_returns_nothing_or_the_answer_is_said_first() -> None:
    rows = [LogRow("Where?", ("Rome",), ("Rome.",)), LogRow("Who?", (), ("Ada",))]
    empty, leaked = retrieval_quality(rows).warnings
    assert "nothing for 1 of 2 questions" in empty and "is the answer itself" in leaked


def test_redundancy_and_chunks() -> None:
    row = LogRow("Q", ("a b c d e f", "a b c d e f!", "x"), ("z",), gold=("before a b c d e f after",))
    quality = retrieval_quality([row, row])
    assert quality.redundant == pytest.approx(1 / 3) and quality.hit is not None and quality.hit.value == 1


@pytest.mark.slow
@pytest.mark.parametrize("gold", [True, False])
def test_a_local_model(tmp_path: Path, gold: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    result = cf.diagnose_log(log_of(gold=gold), lm_of("llama"), resamples=300, max_tokens=4, out=tmp_path, quiet=True)
    assert result.is_gold is gold and len(result.questions) == 40 and len(result.probability) == 3
    assert [rate.situation for rate in result.right] == list(SITUATIONS)
    own = np.exp(-np.mean([q.loss for q in result.questions]))
    assert result.probability[0].value.value == pytest.approx(own)
    paths = write_report(result, tmp_path)
    page = paths[-1].read_text()
    assert result.headline.split(":")[0] in page and ("speaks of use" in page) is not gold
    assert RagDiagnosis.from_dict(result.to_dict()).headline == result.headline
    rows = list(csv.DictReader((tmp_path / "questions.csv").read_text().splitlines()))
    assert len(rows) == 40 and float(rows[0]["change"]) == pytest.approx(result.questions[0].change)
    # All is on the disk: asked again, nothing is measured.
    lm = lm_of("llama")
    monkeypatch.setattr(lm, "loss", None)
    monkeypatch.setattr(lm, "generate", None)
    again = diagnose_log(log_of(gold=gold), lm, resamples=300, max_tokens=4, out=tmp_path, quiet=True)
    assert again.right == result.right and again.questions == result.questions


@pytest.fixture
def server() -> Iterator[Server]:
    with Server.running(lm_of("llama")) as running:
        yield running


@pytest.mark.slow
def test_a_server_with_and_without_log_probabilities(server: Server, tmp_path: Path) -> None:
    log = RagLog("log", log_of().rows[:31], {}, True, ())
    local = diagnose_log(log, lm_of("llama"), resamples=200, max_tokens=4, quiet=True)
    remote = diagnose_log(log, "tiny", endpoint=server.url, resamples=200, max_tokens=4, quiet=True)
    assert [q.loss for q in remote.questions] == pytest.approx([q.loss for q in local.questions], abs=1e-3)
    assert remote.right == local.right
    server.trouble = lambda route, body: (500, {"detail": "boom"}) if route == "completions" else None
    chat = diagnose_log(log, "tiny", endpoint=server.url, resamples=200, max_tokens=4, quiet=True)
    assert not chat.probability and chat.right == local.right and chat.diagnosis.unit == "Answer contained"


def test_a_chat_server_that_renames_its_settings(server: Server) -> None:
    def trouble(route: str, body: dict[str, object]) -> tuple[int, object] | None:
        if "max_tokens" in body:
            return 400, {"error": {"message": "Use 'max_completion_tokens' instead."}}
        body["max_tokens"] = body.pop("max_completion_tokens")
        return None

    server.trouble = trouble
    client = Client(server.url, "tiny", None)
    assert isinstance(client.chat("Hello", {"max_tokens": 2}), str)
    count = len(server.requests)
    client.chat("Hello", {"max_tokens": 2})
    assert len(server.requests) == count + 1  # remembered


def test_a_judge(server: Server) -> None:
    replies = iter(["Yes.", "no, it is not", "<think>no</think> yes", "perhaps"])
    server.trouble = lambda route, body: (200, {"choices": [{"message": {"content": next(replies)}}]})
    judge = Judge(Client(server.url, "tiny", None))
    assert [judge("Where?", "In Rome.", ["Rome"]) for _ in range(3)] == [1.0, 0.0, 1.0]
    with pytest.raises(ModelError, match="neither yes nor no"):
        judge("Where?", "In Rome.", ["Rome"])
    assert judge("Where?", "<think>hm</think> ", ["Rome"]) == 0.0
    prompt = server.requests[0][1]["messages"][0]["content"]
    assert "In Rome." in prompt and "Where?" in prompt and "Right answers: Rome" in prompt


@pytest.mark.parametrize(
    ("metric", "written", "accepted", "score"),
    [
        ("contains", "It is Rome.", ["Rome"], 1.0),
        ("contains", "<think>Rome", ["Rome"], 0.0),
        ("exact_match", "the Rome!", ["Oslo", "Rome"], 1.0),
        ("token_f1", "Rome", ["Rome Italy"], pytest.approx(2 / 3)),
        ("contains", "答案是北京。", ["北京"], 1.0),
        ("exact_match", "A", ["A"], 1.0),
        ("exact_match", "The", ["A"], 0.0),
        ("contains", "Answer: A", ["A"], 1.0),
    ],
)
def test_written_answers_are_graded(metric: str, written: str, accepted: Sequence[str], score: float) -> None:
    assert WordGrader(metric)("Q", written, accepted) == score


def test_two_logs_are_compared_on_the_questions_that_they_share() -> None:
    better, worse = shared(log_of(), log_of("wrong"))
    pair = compare_subjects(subject_over(better), subject_over(worse), names=("new", "old"), resamples=300)
    assert pair.headline.startswith("new is better than old: a difference of −1.900") and pair.n == 40
    assert [row.condition for row in pair.losses] == ["full", "empty", "swapped"]
    alike = compare_subjects(subject_over(better), subject_over(better), resamples=300)
    assert "cannot be told apart" in alike.headline
    with pytest.raises(DataError, match="share too few"):
        shared(better, RagLog("other", (LogRow("Else?", ("x",), ("y",)),) * 3, {}, True, ()))


def test_rows_of_a_repeated_question_are_paired_in_their_order() -> None:
    def log(*rows: tuple[str, str]) -> RagLog:
        return RagLog("log", tuple(LogRow(question, (passage,), ("y",)) for question, passage in rows), {}, True, ())

    first = log(("Q?", "a"), ("R?", "b"), ("q?", "c"), ("Q?", "d"))
    second = log(("R?", "e"), ("Q?", "f"), ("Q?", "g"))
    first_log, other = shared(first, second)
    assert [row.passages[0] for row in first_log.rows] == ["a", "b", "c"]
    assert [row.passages[0] for row in other.rows] == ["f", "e", "g"]
    assert "3 questions stand in both logs; 4 and 3 in each." in first_log.notes[-1]
    assert "paired in the order of each log" in other.notes[-1]
    assert "order" not in shared(first, log(("R?", "e"), ("Q?", "f")))[0].notes[-1]


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    losses=st.lists(st.tuples(*[st.sampled_from([0.0, 0.5, 1.0])] * 3), min_size=2, max_size=60),
    gold=st.booleans(),
    seed=st.integers(0, 3),
)
def test_every_sentence_of_a_headline_is_true(losses: list[tuple[float, float, float]], gold: bool, seed: int) -> None:
    """The verdict's words follow from the intervals, and the shares from the answers."""
    full, empty, swapped = map(list, zip(*losses, strict=True))
    table = {}
    queries = [(f"Q{i}?", f"a{i}") for i in range(len(losses))]
    for i, (text, answer) in enumerate(queries):
        table[Case(text, (f"p{i}",), answer)] = full[i]
        table[Case(text, (), answer)] = empty[i]
    subject = ContextSubject(
        queries,
        [[f"p{i}"] for i in range(len(losses))],
        losses=lambda cases: (table.get(case, swapped[int(case.text[1:-1])]) for case in cases),
        quiet=True,
    )
    diagnosis = diagnose(subject, resamples=100, seed=seed, quiet=True)
    right = tuple(
        Rate(situation, share_estimate([1 - x for x in values]))
        for situation, values in zip(SITUATIONS, (full, empty, swapped), strict=True)
    )
    sentence = headline(diagnosis, right, gold)
    gain = diagnosis.store_ablation.gain
    own, none, others = (float(np.mean([1 - x for x in values])) for values in (full, empty, swapped))
    shares = [float(number) / 100 for number in re.findall(r"(\d+)%", sentence.replace("<1%", "0%"))]
    assert shares == pytest.approx([own, none, others], abs=0.0101)
    if len(losses) < 30:
        assert sentence.startswith(f"Too few questions for a verdict: {len(losses)},")
    elif sentence.startswith("Retrieval hurts"):
        assert gain.high < 0
    elif sentence.startswith("No help"):
        assert gain.low <= 0 <= gain.high
    else:
        assert gain.low > 0
        swap = next(row for row in diagnosis.store_ablation.ablations if row.condition == "swapped")
        if sentence.startswith("Retrieval does the work"):
            assert swap.share.low > 0.5
        elif sentence.startswith("Any passages would do"):
            assert swap.share.high < 0.1
        elif sentence.startswith("Part of the help"):
            assert swap.share.low > 0.1
        else:
            assert sentence.startswith("Passages help, but these questions cannot tell")


def test_the_page_sorts_and_runs_nothing_else() -> None:
    log = log_of()
    subject = subject_over(log)
    diagnosis = diagnose(subject, resamples=200, quiet=True)
    effects = question_effects(subject)
    right = tuple(Rate(name, Estimate(0.5, 0.4, 0.6)) for name in SITUATIONS)
    result = RagDiagnosis(
        log="=log<b>",
        headline=headline(diagnosis, right, True),
        warnings=("<script>alert(1)</script>",),
        is_gold=True,
        grading="contained",
        right=right,
        probability=(),
        quality=retrieval_quality(log.rows),
        questions=effects,
        ranks=by_rank(effects, resamples=200),
        passages=by_passage(effects, resamples=200),
        diagnosis=diagnosis,
        notes=(),
    )
    page = render_report(result)
    assert page.count("<script>") == 1 and "<script>alert" not in page and "&lt;script&gt;" in page
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/=]{44}'", page) and 'class="sorts' in page
    assert "nats" not in page.split("The evidence")[0].split("mean change")[0]
    effect = effects[0].replace(question='=HYPERLINK("x")')
    lines = questions_csv(result.replace(questions=(effect,)))
    assert json.dumps("'=HYPERLINK")[1:-1] in lines


def test_what_it_costs_is_said() -> None:
    assert cost(subject_over(log_of())).startswith("40 questions with 80 passages: at most 640 readings")


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        diagnose_log(log_of(), lm_of("llama"), rows=1)
    with pytest.raises(ConfigError, match="names its model by a word"):
        subject_of(log_of(), lm_of("llama"), endpoint="http://localhost:1/v1")
    with pytest.raises(ConfigError, match="Unknown metric"):
        subject_of(log_of(), lm_of("llama"), metric="bleu")


def test_repeated_questions_are_no_more_questions() -> None:
    queries = [(f"Q{i % 2}?", "a") for i in range(40)]
    subject = ContextSubject(queries, [["p"]] * 40, losses=lambda cases: (float(not c.passages) for c in cases))
    diagnosis = diagnose(subject, resamples=100, quiet=True)
    assert independent(len(subject), subject.groups) == 2 and diagnosis.verdict.outcome == "cannot-tell"
    right = tuple(Rate(name, share_estimate([1.0] * 40, subject.groups)) for name in SITUATIONS)
    assert headline(diagnosis, right, True, independent=2).startswith("Too few questions for a verdict: 2,")
    assert np.isnan(right[0].value.low)


def test_shares_that_are_all_equal_are_not_certain() -> None:
    assert share_estimate([0.0] * 40).low == 0 and share_estimate([1.0] * 40).high == 1
    for values, groups in (([1.0] * 40, np.arange(40) // 2), ([0.5] * 6, None)):
        estimate = share_estimate(values, groups)
        assert estimate.low < estimate.value or estimate.high > estimate.value


def test_too_few_questions_tell_no_two_pipelines_apart() -> None:
    few = [RagLog("log", log_of(kind).rows[:5], {}, True, ()) for kind in ("right", "wrong")]
    pair = compare_subjects(*map(subject_over, few), names=("new", "old"), resamples=200)
    assert pair.headline.startswith("Too few questions to tell new from old")
    with pytest.raises(DataError, match="without right answers cannot be compared"):
        shared(log_of(gold=False), log_of(gold=False))


def test_token_f1_is_no_share_of_answers() -> None:
    diagnosis = diagnose(subject_over(log_of()), resamples=100, quiet=True)
    right = tuple(Rate(name, Estimate(0.67, 0.6, 0.7)) for name in SITUATIONS)
    assert "67% of the words agree with the logged answers (token F1)" in headline(
        diagnosis, right, False, grading="token_f1"
    )


@pytest.mark.slow
def test_other_lengths_and_other_right_answers_are_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, asked = lm_of("llama"), []

    def write(self: object, cases: Sequence[Case]) -> Iterator[tuple[int, str]]:
        asked.append(len(cases))
        yield from ((place, "alt") for place in range(len(cases)))

    monkeypatch.setattr("coldframe.diagnosis.text_rag.TextRAG.write", write)
    rows = [{"question": f"Q{i}?", "contexts": [f"p{i}"], "reference": f"a{i}"} for i in range(6)]

    def run(**more: int) -> list[float]:
        asked.clear()
        result = diagnose_log(rows, lm, resamples=100, out=tmp_path, quiet=True, **more)
        return [rate.value.value for rate in result.right]

    assert run(max_tokens=2) == [0, 0, 0] and asked
    assert run(max_tokens=2) == [0, 0, 0] and not asked
    run(max_tokens=64)
    assert asked
    rows = [{**row, "reference": [row["reference"], "alt"]} for row in rows]
    assert run(max_tokens=64) == [1, 1, 1] and asked
