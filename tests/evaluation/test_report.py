from __future__ import annotations

import dataclasses
import html.parser
import io
import json
import re

import numpy as np
import pytest
from rich.console import Console

from coldframe.errors import ConfigError
from coldframe.evaluation.calibration import Bin
from coldframe.evaluation.compare import Difference
from coldframe.evaluation.cost import Cost
from coldframe.evaluation.drawings import MAX_SMILES, molecule_uri
from coldframe.evaluation.figures import Axis, forest, scatter
from coldframe.evaluation.intervals import Interval
from coldframe.evaluation.report import MAX_TEXT, render_report, write_report
from coldframe.evaluation.report_data import (
    MethodRow,
    MetricInfo,
    Neighbour,
    Point,
    Published,
    Reliability,
    ReportData,
    Sample,
    Score,
    Sweep,
    SweepPoint,
    TrainingCurve,
)
from coldframe.evaluation.summary import method_row, metric_infos, reliabilities, samples
from coldframe.evaluation.table import render_table
from coldframe.retrieval.store import Store
from coldframe.tasks.task import Example, Schema

from .support import noisy_run

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7*7 }}[red]&"


def row(name, role, value, **options):
    interval = Interval(value, value - 3, value + 3, n=100, seeds=2)
    scores = (Score("accuracy", interval), Score("mcc", interval))
    difference = None if name == "main" else Difference(70 - value, 60 - value, 80 - value, 100, 0.0001, 12.0)
    options = {"cost": Cost(10, 40.0, 1e9 * value), "seed_values": (value - 1, value + 1), **options}
    return MethodRow(name, role, scores, difference, **options)


def full(word="", domain="text"):
    """A report with every section filled; ``word`` goes into every free text."""
    points = (Point(1, 0.9), Point(2, 0.5), Point(3, float("nan")))
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
        reliability=(Reliability("main" + word, (Bin(0.9, 0.8, 10), Bin(0.6, 0.7, 5))),),
        samples=(Sample("q1" + word, "CCO" + word, "Yes" + word, "No" + word, 0.7, neighbours),),
        published=(Published("main" + word, 75.1, "accuracy", "Qwen" + word, "paper" + word, "K = 5" + word),),
        settings={"k" + word: 5, "method": {"heads" + word: "8" + word}},
        provenance={"data" + word: "sha" + word},
        command="coldframe compare" + word,
    )


class Page(html.parser.HTMLParser):
    """Tags and attributes, and whether every opened tag is closed."""

    VOID = {"meta", "img"}

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.open, self.unbalanced, self.text = [], [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *attr) for attr in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *attr) for attr in attrs]

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("domain", ["text", "molecules"])
@pytest.mark.parametrize("word", ["", HOSTILE])
def test_the_page_is_whole_and_loads_nothing(word, domain):
    text = render_report(full(word, domain))
    page = Page(text)
    assert not page.open and not page.unbalanced
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text)
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "href"):
            assert value.startswith("data:image/svg+xml;base64,")
    assert ("meta", "http-equiv", "Content-Security-Policy") in page.attributes
    assert "default-src 'none'" in text


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
        bare, rows=bare.rows[:1], curves=(), sweeps=(), reliability=(), samples=(), published=(), settings={}, notes=()
    )
    short = render_report(bare)
    for heading in ("Score against cost", "Learning curves", "How many exemplars", "Reliability", "Sample queries",
                    "Published numbers", "Settings"):  # fmt: skip
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
    assert molecule_uri("CCO", 100, 80).startswith("data:image/svg+xml;base64,")
    for bad in ("not a molecule", "", "C" * (MAX_SMILES + 1)):
        assert molecule_uri(bad, 100, 80) is None
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


def test_axes():
    axis = Axis.over([61.2, 88.9])
    assert axis(axis.low) == 0 and axis.up(axis.high) == 0 and axis.low < 61.2 and axis.high > 88.9
    assert [tick.text for tick in axis.ticks] == ["65", "70", "75", "80", "85", "90"]
    assert [tick.text for tick in Axis.over([1e9, 2e10], log=True).ticks] == ["1 G", "2 G", "5 G", "10 G", "20 G"]
    assert [tick.text for tick in Axis.over([1.0, 1e9], log=True).ticks][:3] == ["1", "100", "10 k"]
    assert [tick.text for tick in Axis.over([5e10, 7e10], log=True).ticks] == ["50 G", "60 G", "70 G", "80 G"]
    assert len(Axis.over([1e10, 1.01e10], log=True).ticks) >= 3
    for values in ([], [5.0], [0.0], [float("nan")], [-3.0, -2.0]):
        found = Axis.over(values)
        assert found.low < found.high and len(found.ticks) >= 2
    assert Axis.over([7.0], log=True)(7.0) == pytest.approx(50)


def test_figures_hold_their_marks():
    data = full()
    for whisker in forest(data).whiskers:
        assert 0 <= whisker.low <= whisker.value <= whisker.high <= 100
    found = scatter(data)
    assert [dot.row.name for dot in found.dots] == ["shuffled", "other", "main"] and found.line_name == "vote"
    labels = sorted(dot.label_y for dot in found.dots if not dot.left)
    assert all(b - a > 4 for a, b in zip(labels, labels[1:], strict=False))


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
        "made-up", "none", "ours", "accuracy", infos, (first, second), reliability=reliabilities({"ours": ours})
    )
    assert "+" in render_report(data) and data.reliability[0].bins
    with pytest.raises(ConfigError, match="accuracy"):
        metric_infos(["acuracy"])


def test_samples_show_wrong_answers_too():
    run = noisy_run(np.random.default_rng(0), n=40, accuracy=0.9, k=3, m=2)
    store = Store.of([Example(f"text {i}", "label 1", f"e{i}", f"key {i}") for i in range(7)])
    found = samples(run, store, SCHEMA, count=6)
    assert len(found) == 6 and len({one.id for one in found}) == 6
    assert sum(one.predicted != one.target for one in found) == 3
    one = found[0]
    i = run.ids.index(one.id)
    assert [near.id for near in one.neighbours] == run.neighbours[i].tolist()
    assert one.neighbours[1].text == "text " + one.neighbours[1].id[1:]
    assert one.neighbours[1].attention == tuple(run.attention[i, :, 1].tolist())
    assert samples(run, store, SCHEMA, count=6) == found
    assert len(samples(run, store, SCHEMA, count=100)) == 40
