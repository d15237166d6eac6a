"""The report of a diagnosis: one HTML file that needs nothing else, made from plain data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coldframe.config import read_mapping, without_nan
from coldframe.diagnosis import figures
from coldframe.diagnosis.advice import percent
from coldframe.diagnosis.evidence import Diagnosis, Outcome, StoreHealth
from coldframe.evaluation.figures import si
from coldframe.evaluation.report import page_environment
from coldframe.storage.files import atomic_path

if TYPE_CHECKING:
    from jinja2 import Environment

#: What each verdict says.
MEANINGS: Mapping[Outcome, str] = {
    "retrieval-driven": "Most of the gain is lost without the entries that were retrieved: the store does the work.",
    "query-driven": "The retrieved entries could be anything, but what is made of the query itself could not: an "
    "encoder of the query does the work.",
    "prompt-tuning-like": "Neither the retrieved entries nor the query's part in the adaptation matter: one fixed "
    "prompt for all queries would do.",
    "mixed": "Part of the gain comes from retrieval, or two diagnostics disagree.",
    "cannot-tell": "The intervals are too wide for any of these, or there is no gain to explain.",
}

WORDS = {
    "loss": "How badly the right answer is predicted, in nats: minus the logarithm of its probability. For written "
    "answers the mean over their tokens.",
    "gain": "Loss of the frozen model alone, with nothing added, minus loss of the whole pipeline.",
    "share": "A change of the loss divided by the gain: 0% is nothing, 100% is all that the pipeline achieves.",
    "interval": "In 95 of 100 repetitions with other queries such an interval holds the true value. Verdicts rest on "
    "what intervals exclude: that a difference was not found never counts as proof that there is none.",
    "retrieved entries": "What the pipeline took out of its store for a query.",
    "swapped": "Every query gets what was retrieved for another one: as good as before in every way but the match.",
    "soft tokens": "Vectors that stand beside the words of the prompt and steer the model.",
    "static prompt": "Soft tokens that were trained and are the same for every query (Prompt Tuning).",
    "hub": "An entry that is retrieved for very many queries, whatever they ask.",
}


def render_report(found: Diagnosis, data_name: str = "diagnosis.json") -> str:
    """The report as HTML.

    Everything that comes from data is escaped; the page loads nothing, runs no script, and says so to the
    browser in its content security policy.

    Args:
        found: What to show.
        data_name: Of the file with the same as data, which stands beside the page.

    Raises:
        MissingExtraError: jinja2 (extra ``report``) is not installed.
    """
    d2, d3, health = found.token_variance, found.ladder, found.store_health
    return (
        environment()
        .get_template("diagnosis.html.j2")
        .render(
            found=found,
            loss=figures.LOSS,
            conditions=figures.WHAT,
            rungs=figures.RUNGS,
            meanings=MEANINGS,
            words=WORDS,
            data_name=data_name,
            ablations=figures.ablations(found.store_ablation),
            tokens=figures.tokens(d2) if d2 else None,
            heatmap=figures.heatmap(d2.similarity) if d2 else None,
            ladder=figures.ladder(d3) if d3 else None,
            sweeps=figures.sweeps(d3) if d3 else None,
            hubness=figures.hubness(health) if health else None,
            store_facts=_store_facts(health) if health else [],
        )
    )


def environment() -> Environment:
    """What fills the page's template; made before a long diagnosis, it tells that jinja2 is missing in time.

    Raises:
        MissingExtraError: jinja2 (extra ``report``) is not installed.
    """
    found = page_environment("coldframe.diagnosis", "coldframe.evaluation")
    found.filters["spoken"] = spoken
    found.filters["percent"] = _percent
    found.filters["span"] = percent
    found.filters["si"] = si
    found.filters["p_short"] = lambda p: "–" if p != p else "< 0.001" if p < 0.001 else f"{p:.3f}"
    return found


def write_report(found: Diagnosis, path: str | Path) -> None:
    """Write the page, whole or not at all; the data goes beside it (``.json``) first, see :func:`read_diagnosis`.

    Args:
        found: What to show.
        path: Of the HTML file.
    """
    path = Path(path)
    data = path.with_suffix(".json")
    values = json.dumps(without_nan(found.to_dict()), ensure_ascii=False, allow_nan=False, indent=1)
    with atomic_path(data) as temporary:
        temporary.write_text(values, encoding="utf-8")
    html = render_report(found, data.name)  # if drawing fails, hours of measuring are not lost with it
    with atomic_path(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def read_diagnosis(path: str | Path) -> Diagnosis:
    """A diagnosis out of the data that :func:`write_report` wrote; what is null there is not defined (NaN)."""
    values = read_mapping(path)
    return Diagnosis.from_dict({key: value if value is None else _with_nan(value) for key, value in values.items()})


def spoken(outcome: str) -> str:
    """An outcome as it is written in a sentence.

    >>> spoken("cannot-tell"), spoken("prompt-tuning-like")
    ('cannot tell', 'prompt-tuning-like')
    """
    return "cannot tell" if outcome == "cannot-tell" else outcome


def _with_nan(value: Any) -> Any:
    if value is None:
        return float("nan")
    if isinstance(value, dict):
        return {key: _with_nan(one) for key, one in value.items()}
    return [_with_nan(one) for one in value] if isinstance(value, list) else value


def _percent(value: float) -> str:
    return "–" if value != value else f"{round(100 * value) + 0:d}%".replace("-", "\N{MINUS SIGN}")


def _store_facts(found: StoreHealth) -> list[tuple[str, str, str]]:
    """Name, value and meaning of what was measured on the store."""
    show, overlap = figures.LOSS.show, found.overlap
    return [
        (
            "hubness",
            f"{found.hubness:.2f}",
            f"Skewness of how often each entry is retrieved; {found.hubness_chance:.2f} if drawn at random.",
        ),
        (
            "never retrieved",
            _percent(found.never),
            f"Entries that no query brings up; {_percent(found.never_chance)} if drawn at random.",
        ),
        ("Gini", show(found.gini), "Inequality of the counts: 0 all alike, 1 one entry takes all."),
        ("entropy", show(found.entropy), "Of the retrievals, as a share of the largest possible: 1 all alike."),
        (
            "overlap",
            f"{show(overlap.value)} [{show(overlap.low)}, {show(overlap.high)}]",
            f"Jaccard overlap of the sets of two queries; random sets would have {show(found.overlap_chance)}.",
        ),
        (
            "contrast",
            show(found.contrast),
            "How much nearer the nearest entry is than the mean one: near 0, all alike.",
        ),
        ("score gap", show(found.score_gap), "Similarity of the nearest entry minus that of the last one retrieved."),
        ("anisotropy", show(found.anisotropy), "Mean cosine of two random entries; near 1 all point the same way."),
        ("centred", show(found.anisotropy_centred), "The same after the mean entry is subtracted."),
        ("duplicates", str(found.duplicates), "Entries with the same content as another."),
        ("leaks", str(found.leaks), "Queries that stand in the store themselves."),
    ]
