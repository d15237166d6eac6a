"""The page on a reweighted model: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping

from coldframe.evaluation.report import flatten, page_environment
from coldframe.evaluation.reweighted import figures
from coldframe.evaluation.reweighted.data import SHOWN, Reweighted
from coldframe.evaluation.reweighted.verdict import BASE, PEAR, SYSTEMS, judge

WORDS: Mapping[str, str] = {
    "effect": "What the right next token of a random copy gains (its logit, above the mean logit) when the head's "
    "output is replaced by its mean. Above 0 the head holds copying back.",
    "gain": "The factor that the head's output is multiplied by: 1 leaves it, below 1 weighs it down, 0 cuts it out.",
    "interval": "In 95 of 100 repetitions with other questions such an interval holds the true value. Differences are "
    "paired: both systems answered the same questions.",
    "answer contained": "An accepted answer stands in the first line that was written, both without case, punctuation "
    "and articles, at word boundaries.",
    "right one the likeliest": "Among the right answer and wrong ones, which are answers to other questions, the right "
    "one is likelier than each of the others.",
    "loss among answers": "Minus the logarithm of the right answer's share of the probability of all of these, nats. "
    "How likely it is that an answer begins in another way has no part in it.",
    "loss of the right answer": "Minus the logarithm of its probability, the mean over its tokens, nats. It finds "
    "differences with far fewer questions than written answers do; but an answer can become likelier and stay "
    "unwritten.",
}


def render_page(data: Reweighted, data_name: str = "") -> str:
    """The page as HTML.

    Everything that comes from data is escaped; the page loads nothing, runs no script, and says so to the
    browser in its content security policy.

    Args:
        data: What to show.
        data_name: Of the file with the same as data, beside the page; empty if there is none.

    Raises:
        MissingExtraError: jinja2 (extra ``report``) is not installed.
    """
    by_place = {one.name: figures.places(data, one.name, one.places) for one in data.sets if one.places}
    measured = {one.metric for one in data.overall}
    others = [metric for metric in ("contains", "chosen", "choice_loss", "loss") if metric in measured]
    return (
        page_environment("coldframe.evaluation")
        .get_template("reweighted.html.j2")
        .render(
            data=data,
            said=judge(data),
            shown=SHOWN,
            words=WORDS,
            base=BASE,
            main=PEAR,
            what=SYSTEMS,
            heads=figures.head_map(data.found) if data.found else None,
            training=figures.training(data.found) if data.found else None,
            gaps=[bars for metric in others if (bars := figures.gaps(data, metric))],
            places=[chart for chart in by_place.values() if chart],
            curves=figures.curves(data.curves),
            settings=flatten(data.settings),
            data_name=data_name,
        )
    )
