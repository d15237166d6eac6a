"""A page of results says how much tuning its rows had, how many seeds carry it, and what makes it again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from coldframe.evaluation.verdict import CLAIM_SEEDS

PAGES = {path.stem: path.read_text(encoding="utf-8") for path in Path(__file__).parents[2].glob("docs/results/*.md")}
PAGES.pop("index")


def lacks(page: str) -> list[str]:
    """What a page does not say, or says wrongly."""
    trials, seeds = (re.search(rf"^{name}: (\S.*)$", page, re.M) for name in ("Trials", "Seeds"))
    problems = []
    if trials is None or not re.match(r"\d|not tuned \(|none \(", trials[1]):
        problems.append("a line 'Trials: N ...', 'Trials: not tuned (why)' or 'Trials: none (why)'")
    elif trials[1][0].isdigit() and not re.search(r"^\| method.*\| trials", page, re.M):
        problems.append("a column of trials in its table, as its line 'Trials:' speaks of some")
    if seeds is None or not re.match(r"\d|none \(", seeds[1]):
        problems.append("a line 'Seeds: N ...' or 'Seeds: none (why)'")
    elif seeds[1][0].isdigit():
        most = max(map(int, re.findall(r"\d+", seeds[1])))
        if most < CLAIM_SEEDS and "fewer than the five that a claim needs" not in seeds[1]:
            problems.append("a remark that so few seeds carry no claim")
    commands = "\n".join(re.findall(r"^```bash\n(.*?)^```", page, re.M | re.S))
    if not re.search(r"^(coldframe|python -m|make) ?\S", commands, re.M):
        problems.append("the command that makes it again")
    return problems


@pytest.mark.parametrize("name", sorted(PAGES))
def test_a_page_of_results_has_trials_seeds_and_command(name: str) -> None:
    assert not lacks(PAGES[name]), f"docs/results/{name}.md lacks {'; '.join(lacks(PAGES[name]))}"


WHOLE = """# page

Trials: 12 at most for each row.
Seeds: 5.

| method | score | trials |
| --- | ---: | ---: |

```bash
coldframe compare --recipe recipes/results-trec.yaml
```
"""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("Trials: 12 at most for each row.\n", ""), "'Trials: N"),
        (("Trials: 12 at most", "Trials: some"), "'Trials: N"),
        (("| trials |", "| seeds |"), "column of trials"),
        (("Seeds: 5.\n", ""), "'Seeds: N"),
        (("Seeds: 5", "Seeds: 3"), "so few seeds"),
        (("coldframe compare", "# coldframe compare"), "command"),
        (("```bash", "```"), "command"),
    ],
)
def test_a_page_without_them_is_found(change: tuple[str, str], words: str) -> None:
    assert lacks(WHOLE) == []
    problems = lacks(WHOLE.replace(*change))
    assert len(problems) == 1 and words in problems[0]


def test_pages_made_by_a_comparison_have_them() -> None:
    """The Markdown of a report passes as it is."""
    from coldframe.evaluation.report import render_markdown
    from coldframe.evaluation.report_data import MethodRow, ReportData, Score, Tuning
    from coldframe.inference.intervals import Interval
    from coldframe.reports.numbers import MetricInfo

    score = (Score("accuracy", Interval(80.0, 78.0, 82.0, n=500, seeds=5)),)
    for tuning in (None, Tuning(12, {"k": 3}, 81.0, 80.0)):
        row = MethodRow("icl", "method", score, tuning=tuning)
        infos, rule = (MetricInfo("accuracy", "Accuracy"),), "A rule." if tuning else ""
        data = ReportData("t", "m", "icl", "accuracy", infos, (row,), command="coldframe compare t", tuning=rule)
        assert lacks(render_markdown(data)) == []
