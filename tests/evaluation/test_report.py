from __future__ import annotations

import dataclasses
import io
import json
import re

import numpy as np
import pytest
from rich.console import Console
from tests.reports.pages import HOSTILE, Page, whole

from coldframe.errors import ConfigError
from coldframe.evaluation.calibration import Bin, reliability
from coldframe.evaluation.compare import Difference
from coldframe.evaluation.cost import Cost
from coldframe.evaluation.report import render_markdown, render_report, render_table, write_report
from coldframe.evaluation.report_data import (
    LabelPrior,
    MethodRow,
    Neighbour,
    Published,
    Reliability,
    ReportData,
    Sample,
    Score,
    Sweep,
    SweepPoint,
    TrainingCurve,
)
from coldframe.evaluation.report_samples import MAX_TEXT
from coldframe.evaluation.summary import label_prior_rows, method_row, metric_infos, samples
from coldframe.inference.intervals import Interval
from coldframe.reports.numbers import MetricInfo
from coldframe.retrieval.store import Store
from coldframe.tasks.task import Example, Schema

from .support import noisy_run


def row(name, role, value, **options):
    interval = Interval(value, value - 3, value + 3, n=100, seeds=2)
    scores = (Score("accuracy", interval), Score("mcc", interval))
    difference = None if name == "main" else Difference(70 - value, 60 - value, 80 - value, 100, 0.0001, 12.0)
    options = {"cost": Cost(10, 40.0, 1e9 * value), "seed_values": (value - 1, value + 1), **options}
    return MethodRow(name, role, scores, difference, **options)


def full(word="", domain="text"):
    """A report with every section filled; ``word`` goes into every free text."""
    points = ((1.0, 0.9), (2.0, 0.5), (3.0, float("nan")))
    neighbours = tuple(Neighbour("e1" + word, "c1ccccc1" + word, "Yes" + word, 0.5, (0.9, 0.1)) for _ in range(2))
    return ReportData(
        task="task" + word,
        model="model" + word,
        main="main",
        metric="accuracy",
        metrics=(MetricInfo("accuracy", "Accuracy" + word), MetricInfo("mcc", "MCC", decimals=3)),
        rows=(
            row("main", "method", 70.0, note="note" + word, order_std=0.0),
            row("other" + word, "method", 60.0),
            row("shuffled" + word, "control", 50.0),
            row("vote" + word, "no-lm", 65.0, cost=None),
        ),
        domain=domain,
        positive="Yes" + word,
        notes=("dropped 3 rows" + word,),
        curves=(TrainingCurve("main" + word, 0, points, points, 2),),
        sweeps=(Sweep("K" + word, "main" + word, (SweepPoint(1, Interval(60, 55, 65, 100)),)),),
        label_priors=(LabelPrior("Yes" + word, 40.0, {"main": 55.5}), LabelPrior("No" + word, 60.0, {"main": 44.5})),
        reliability=(Reliability("main" + word, (Bin(0.9, 0.8, 10), Bin(0.6, 0.7, 5))),),
        samples=(Sample("q1" + word, "CCO" + word, "Yes" + word, "No" + word, False, 0.7, neighbours),),
        published=(Published("main" + word, 75.1, "accuracy", "Qwen" + word, "paper" + word, "K = 5" + word),),
        settings={"k" + word: 5, "method": {"heads" + word: "8" + word}},
        provenance={"data" + word: "sha" + word},
        command="coldframe compare" + word,
    )


@pytest.mark.parametrize("domain", ["text", "molecules"])
@pytest.mark.parametrize("word", ["", HOSTILE])
def test_the_page_is_whole_and_loads_nothing(word, domain):
    whole(render_report(full(word, domain)))


def test_hostile_words_are_text_everywhere():
    page = Page(render_report(full(HOSTILE)))
    # Free texts above: each must be found as it was written, none as a tag.
    for start in ("task", "model", "other", "shuffled", "vote", "note", "dropped 3 rows", "K", "q1", "CCO", "Qwen",
                  "paper", "K = 5", "k", "sha", "coldframe compare", "method.heads", "Yes"):  # fmt: skip
        assert start + HOSTILE in page.text, start
    assert page.tags.count("img") == 0


def test_sections_appear_only_with_data():
    everything, bare = render_report(full()), full()
    bare = dataclasses.replace(
        bare,
        rows=bare.rows[:1],
        curves=(),
        sweeps=(),
        reliability=(),
        label_priors=(),
        samples=(),
        published=(),
        settings={},
        notes=(),
    )
    short = render_report(bare)
    for heading in ("Score against cost", "Learning curves", "How many exemplars", "Reliability", "Sample queries",
                    "Priors of the labels", "Published numbers", "Settings"):  # fmt: skip
        assert heading in everything and heading not in short
    assert "no control without a language model was run" in short


def test_verdict_stands_before_everything():
    page = Page(render_report(full()))
    text = page.text[page.text.index("coldframe report") :]
    assert text.index("main does not beat the best control without a language model, vote (65.0)") < text.index(
        "Scores"
    )
    assert "The test is small: with 100 rows" in text


def test_molecules_are_drawn_and_what_cannot_be_drawn_is_written():
    assert Page(render_report(full("", "molecules"))).tags.count("img") == 3
    data = full("", "molecules")
    broken = dataclasses.replace(data.samples[0], text="C1CC<b>", neighbours=())
    assert "C1CC&lt;b&gt;" in render_report(dataclasses.replace(data, samples=(broken,)))


def test_long_texts_are_cut():
    data = full()
    long = dataclasses.replace(data.samples[0], text="x" * 10_000)
    assert "x" * (MAX_TEXT + 1) not in render_report(dataclasses.replace(data, samples=(long,)))


def test_published_numbers_stand_beside_ours():
    text = Page(render_report(full())).text
    assert re.search(r"main\s*accuracy\s*75.1\s*70.0 \[67.0, 73.0\]\s*Qwen\s*K = 5\s*paper", text)


def test_writing_keeps_the_data_beside(tmp_path):
    data = full(HOSTILE)
    data = dataclasses.replace(data, curves=())  # NaN does not equal itself
    write_report(data, tmp_path / "out" / "report.html")
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == ["report.html", "report.json"]
    again = ReportData.from_dict(json.loads((tmp_path / "out" / "report.json").read_text()))
    assert again == data
    assert render_report(again) == (tmp_path / "out" / "report.html").read_text()


def test_terminal_table():
    out = io.StringIO()
    Console(file=out, width=200).print(render_table(full("[red]x[/red]")))
    text = out.getvalue()
    assert "vote[red]x[/red]" in text and "70.0 [67.0, 73.0]" in text and "+5.0" in text
    assert text.index("does not beat") < text.index("other")


@pytest.mark.slow
def test_figures_have_the_methods_with_what_they_need():
    page = Page(render_report(full()))
    assert page.text.count("shuffled") >= 3  # forest, table, scatter plot
    labels = re.findall(r'class="label [a-z-]+"[^>]*>([^<]+)', render_report(full()))
    assert sorted(labels) == ["main", "other", "shuffled"]
    assert "vote, no language model" in page.text
    two = dataclasses.replace(full(), rows=full().rows[:1] + full().rows[3:])
    assert "Score against cost" not in render_report(two)


def corpus(word=""):
    """A task with written answers: four metrics, bytes, and the swapped store as a control."""

    def line(name, role, f1, difference=None, stored=None):
        interval = Interval(f1, f1 - 2, f1 + 2, n=400, seeds=2)
        scores = [Score(metric, interval) for metric in ("token_f1", "exact_match", "contains")]
        scores.append(Score("loss", Interval(3 - f1 / 50, 2 - f1 / 50, 4 - f1 / 50, n=400)))
        if difference is not None:
            difference = Difference(difference, difference - 3, difference + 3, 400, 0.0001, 4.0)
        return MethodRow(name, role, tuple(scores), difference, Cost(9000, 30.0, 1e9 * f1), bytes_per_passage=stored)

    infos = metric_infos(["token_f1", "exact_match", "contains", "loss"])
    rows = (
        line("prag", "method", 60.0, stored=1.8e6),
        line("zero-shot", "method", 5.0, 55.0),
        line("icl", "method", 61.0, -1.0),
        line("prag, swapped store" + word, "control", 12.0, 48.0, 1.8e6),
    )
    near = (Neighbour("p1", "Rome is the capital.", "", 0.7),)
    samples = (Sample("q1", "Where?", "Rome", "It is in Rome.", True, None, near),)
    return ReportData("facts", "smollm2", "prag", "token_f1", infos, rows, kind="generation", samples=samples)


def test_a_task_with_written_answers():
    text = render_markdown(corpus())
    head = next(line for line in text.splitlines() if line.startswith("| method"))
    for title in ("Token F1 [95%]", "Exact match", "Answer contained", "Loss of the gold answer less is better",
                  "stored bytes a passage"):  # fmt: skip
        assert f"| {title} |" in head, title
    assert "order std" not in head and "peak memory" not in head
    assert (
        "| prag, swapped store | control | 12.0 [10.0, 14.0] | 400 | 2 | +48.0 [+45.0, +51.0] | 12.0 | 12.0 |" in text
        and "| 1.8 M |" in text
    )
    page = whole(render_report(corpus(HOSTILE)))
    assert "prag, swapped store" + HOSTILE in page.text
    assert ("span", "class", "right") in page.attributes and "label" not in page.text  # a passage has no label
    none = dataclasses.replace(
        corpus(), rows=tuple(dataclasses.replace(r, bytes_per_passage=None) for r in corpus().rows)
    )
    assert "bytes a passage" not in render_markdown(none) and "bytes a passage" not in render_report(none)


SCHEMA = Schema("made-up", labels=("label 0", "label 1"), words=("No", "Yes"), positive="label 1", metric="accuracy")


def test_rows_from_predictions():
    rng = np.random.default_rng(0)
    ours = [noisy_run(rng, accuracy=0.9, seed=i, method="ours") for i in range(2)]
    theirs = [noisy_run(rng, accuracy=0.6, method="theirs")]
    first = method_row(ours, SCHEMA, resamples=200)
    second = method_row(theirs, SCHEMA, role="no-lm", main=ours, resamples=200)
    assert first.score("accuracy").seeds == 2 and first.difference is None and len(first.seed_values) == 2
    assert first.score("accuracy").value == pytest.approx(np.mean(first.seed_values))
    assert second.difference.value == pytest.approx(first.score("accuracy").value - second.score("accuracy").value)
    infos = metric_infos([score.metric for score in first.scores])
    assert [info.decimals for info in infos if info.name == "mcc"] == [3] and not infos[-1].higher
    data = ReportData(
        "made-up",
        "none",
        "ours",
        "accuracy",
        infos,
        (first, second),
        reliability=(Reliability("ours", reliability(ours)),),
    )
    assert "+" in render_report(data) and data.reliability[0].bins
    with pytest.raises(ConfigError, match="accuracy"):
        metric_infos(["acuracy"])


@pytest.mark.slow
def test_a_row_says_whether_its_attention_chooses(tmp_path):
    rng = np.random.default_rng(0)
    looks = [noisy_run(rng, seed=seed, k=5, m=3, method="looks") for seed in range(2)]
    even = dataclasses.replace(looks[0], method="averages so", attention=np.full((100, 3, 5), 0.2, np.float32))
    rows = [method_row(runs, SCHEMA, resamples=100) for runs in (looks, [even], [noisy_run(rng, method="blind")])]
    expected = -np.mean([(run.attention * np.log(run.attention)).sum(-1) / np.log(5) for run in looks])
    assert rows[0].attention_entropy == pytest.approx(expected, abs=1e-4)
    assert rows[1].attention_entropy == pytest.approx(1) and rows[2].attention_entropy is None
    infos = metric_infos([score.metric for score in rows[0].scores])
    data = ReportData("made-up", "none", "looks", "accuracy", infos, tuple(rows))
    for text in (render_markdown(data), render_report(data)):
        assert f"attends (entropy {expected:.3f})" in text and "averages (entropy 1.000)" in text
    data = dataclasses.replace(data, rows=(rows[0], rows[2]))
    assert "averages" not in render_report(data) and "Attention over exemplars" in render_report(data)


def test_priors_of_labels_are_shown_and_of_many_the_furthest():
    rng = np.random.default_rng(0)
    runs = [noisy_run(rng, accuracy=0.9, method="ours") for _ in range(2)]
    priors = label_prior_rows({"ours": runs})
    assert sum(prior.share for prior in priors) == pytest.approx(100)
    assert sum(prior.priors["ours"] for prior in priors) == pytest.approx(100)
    assert priors[0].share == pytest.approx(100 * np.mean(runs[0].targets == 0))
    many = tuple(LabelPrior(f"label {i}", 2.0, {"main": 2.0 + i}) for i in range(40))
    page = Page(render_report(dataclasses.replace(full(), label_priors=many))).text
    assert "12 of 40 labels" in page and "label 39" in page and "label 5 " not in page


def test_samples_show_wrong_answers_too():
    run = noisy_run(np.random.default_rng(0), n=40, accuracy=0.9, k=3, m=2)
    store = Store.of([Example(f"text {i}", "label 1", f"e{i}", f"key {i}") for i in range(7)])
    shown = samples(run, store, SCHEMA, count=6)
    assert len(shown) == 6 and len({sample.id for sample in shown}) == 6
    assert sum(sample.predicted != sample.target for sample in shown) == 3
    sample = shown[0]
    i = run.ids.index(sample.id)
    assert [near.id for near in sample.neighbours] == run.neighbours[i].tolist()
    assert sample.neighbours[1].text == "text " + sample.neighbours[1].id[1:]
    assert sample.neighbours[1].attention == tuple(run.attention[i, :, 1].tolist())
    assert samples(run, store, SCHEMA, count=6) == shown
    assert len(samples(run, store, SCHEMA, count=100)) == 40


def test_written_answers_are_right_that_contain_an_accepted_one():
    run = dataclasses.replace(
        noisy_run(np.random.default_rng(0), n=12, k=1),
        labels=(),
        targets=np.full(12, -1),
        probabilities=np.zeros((12, 0)),
        references=(("Rome", "Roma"),) * 12,
        generated=("It is in Roma.",) * 10 + ("Paris",) * 2,
    )
    shown = samples(run, Store.of([Example("text", "", "e0", "key")]), SCHEMA, count=4)
    assert sorted((sample.predicted, sample.right) for sample in shown) == [
        ("It is in Roma.", True), ("It is in Roma.", True), ("Paris", False), ("Paris", False),
    ]  # fmt: skip
    assert {sample.target for sample in shown} == {"Rome"} and shown[0].probability is None
