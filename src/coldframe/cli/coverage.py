"""Sets of labels on the command line: the flags of ``predict`` and ``evaluate``, and how a measurement is shown."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from coldframe.cli.backend import BackendFlags
from coldframe.config import check
from coldframe.escape import visible

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from coldframe.pipeline.conformal import Coverage
    from coldframe.pipeline.pipeline import Pipeline


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoverageFlags(BackendFlags):
    """Which sets of labels are wanted.

    Args:
        coverage: Also give each row a set of labels, so that this share of the sets (such as 0.9) holds the right one.
            A row whose set is not exactly one label abstains.
        by_class: That share for each label by itself, not only over all rows.
    """

    coverage: float | None = None
    by_class: bool = False

    def limits(self, pipeline: Pipeline) -> NDArray[np.float64] | None:
        """What decides which labels are in a set, see :func:`coldframe.pipeline.conformal.limits_of`; None without."""
        if self.coverage is None:
            check(not self.by_class, "--by-class says how --coverage counts", expected="--coverage beside it")
            return None
        from coldframe.pipeline.conformal import limits_of

        return limits_of(pipeline, self.coverage, self.by_class)


def lines_of(sets: Coverage, coverage: float) -> list[tuple[str, str]]:
    """What a table says of measured sets, in percent."""
    from coldframe.reports.numbers import fixed, span

    lowest = min(sets.by_label, key=lambda label: sets.by_label[label].value)
    return [
        (f"right label in the set (%), {100 * coverage:g} wanted", span(sets.right, scale=100)),
        (f"of rows of {visible(lowest)}, the lowest (%)", span(sets.by_label[lowest], scale=100)),
        ("labels in a set", fixed(sets.size, 2)),
        ("sets of one label (%)", fixed(100 * sets.single)),
        ("of these the right one (%)", span(sets.single_right, scale=100)),
        ("sets without a label (%)", fixed(100 * sets.empty)),
    ]
