"""``coldframe encode``: short for ``coldframe fit CORPUS --method prag``."""

from __future__ import annotations

from collections.abc import Sequence

from coldframe.cli import fit


def run(argv: Sequence[str]) -> None:
    """Fit PRAG, unless another method is named."""
    fit.run(argv, "encode", fit.Fit(method="prag"))
