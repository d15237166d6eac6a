"""Pages fit their readers: no table wider than paper, no label upon another, a sentence in an empty picture's place."""

from __future__ import annotations

import dataclasses
import itertools
import re

import pytest
from tests.evaluation.test_report import full
from tests.reports.pages import Page

from coldframe.evaluation.head_gains import Head, HeadGains, render_page
from coldframe.evaluation.report import MOST_COLUMNS, render_report
from coldframe.evaluation.report_data import Neighbour, Score
from coldframe.evaluation.summary import metric_infos
from coldframe.inference.intervals import Interval
from coldframe.reports.figures import Dot, Scatter
from coldframe.tasks.metrics import METRICS


def test_a_table_of_scores_is_no_wider_than_paper_and_loses_no_metric() -> None:
    infos = metric_infos(list(METRICS))
    data = full()
    rows = tuple(
        dataclasses.replace(row, scores=tuple(Score(i.name, Interval(50, 45, 55, n=100)) for i in infos))
        for row in data.rows
    )
    html = render_report(dataclasses.replace(data, metrics=infos, metric=infos[0].name, rows=rows))
    tables = re.findall(r'<table class="stack">(.*?)</table>', html, re.S)
    heads = [re.findall(r"<th[^>]*>([^<]+)(?:<small|</th)", table.partition("</thead>")[0]) for table in tables]
    assert len(heads) >= 3 and all(len(head) <= MOST_COLUMNS + 3 for head in heads)
    for info in infos:
        assert sum(info.title in head for head in heads) == 1, info.title
    # Where a page is narrow, a row is a list: every value has its title beside it.
    assert f'data-title="{infos[0].title} ([95%]' in html


@pytest.mark.parametrize("count", [2, 8, 12])
def test_labels_of_the_cost_chart_do_not_collide(count: int) -> None:
    dots = [Dot(f"a method of name {i}", "method", 1e9 * (1 + i % 3), 70 + i / 10, 60.0, 80.0) for i in range(count)]
    scatter = Scatter.of("Score", "FLOPs", [*dots, Dot("icl", "method", 5e9, 70.4, 60, 80)])
    assert scatter is not None
    for one, other in itertools.combinations(scatter.dots, 2):
        spans = []
        for dot in (one, other):
            width = 1.9 * len(dot.name)
            edge = dot.label[0]
            spans.append((edge - width, edge) if edge < scatter.x(dot.x) else (edge, edge + width))
        if spans[0][0] < spans[1][1] and spans[1][0] < spans[0][1]:
            assert abs(one.label[1] - other.label[1]) > 4, (one.name, other.name)


def attended(*shares: tuple[float, ...]) -> Page:
    data = full()
    neighbours = tuple(Neighbour(f"e{i}", "text", "Yes", 0.5, row) for i, row in enumerate(shares))
    sample = dataclasses.replace(data.samples[0], neighbours=neighbours)
    return Page(render_report(dataclasses.replace(data, samples=(sample,))))


@pytest.mark.slow
def test_even_attention_is_a_sentence_and_other_attention_has_a_legend() -> None:
    even = attended((0.34, 0.33), (0.33, 0.33), (0.33, 0.34))
    assert "The attention is even" in even.words and "soft token 1" not in str(even.attributes)
    sharp = attended((0.9, 0.33), (0.05, 0.33), (0.05, 0.34))
    assert "The attention is even" not in sharp.words and "the darker, the more" in sharp.words
    assert "soft token 1" in str(sharp.attributes)
    for page in (even, sharp, attended((), ())):
        assert "A label is green where it is the query's own" in page.words
    assert "attention" not in attended((), ()).words


def test_the_reweighting_page_shows_all_rows_and_explains_what_it_uses() -> None:
    heads = tuple(Head(i, 0, 0.5, 0.6) for i in range(24))
    gains = HeadGains(tuple((0.5, 0.1) for _ in range(24)), heads, ({"step": 0, "validation_loss": 2.0},))
    html = render_page("tiny", gains, {}, 1.0)
    assert "23.0" in Page(html).words and "max-height: 560px; overflow" not in html
    assert "<dt>effect</dt>" in html and "<dt>gain</dt>" in html and "<dt>nat</dt>" not in html
    bare = render_page("tiny", dataclasses.replace(gains, heads=()), {}, 1.0)
    assert "<dt>gain</dt>" not in bare


def test_a_map_of_one_colour_is_a_sentence() -> None:
    same = HeadGains(tuple((0.5, 0.5) for _ in range(3)), (), ())
    html = render_page("tiny", same, {}, 1.0)
    assert "All 6 heads have the same effect, +0.500." in Page(html).words and 'class="heatmap"' not in html
    other = render_page("tiny", dataclasses.replace(same, effects=((0.5, 0.1),)), {}, 1.0)
    assert 'class="heatmap"' in other
