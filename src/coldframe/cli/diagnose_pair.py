"""``coldframe diagnose DIR DIR``: two artifacts on the same questions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from coldframe.cli.output import print_json, show, tell
from coldframe.cli.parsing import writable
from coldframe.cli.rows import own_test
from coldframe.diagnosis.paired import Pair, compare_subjects
from coldframe.diagnosis.paired_report import render_pair, write_pair
from coldframe.diagnosis.soft_token_subject import subject_of
from coldframe.errors import DataError
from coldframe.evaluation.runs import sample
from coldframe.pipeline.pipeline import Pipeline

if TYPE_CHECKING:
    from coldframe.cli.diagnose import Diagnose


def run_pair(options: Diagnose, first: Pipeline, second: Pipeline, command: str) -> None:
    """Compare two artifacts on the test rows of the first.

    Raises:
        DataError: They answer different things.
    """
    kinds = [(p.schema.kind, p.schema.labels) for p in (first, second)]
    if kinds[0] != kinds[1]:
        raise DataError(
            "Two artifacts that answer different things cannot be compared",
            got=" and ".join(", ".join(labels) or kind for kind, labels in kinds),
            expected="the same labels, or two that write",
        )
    examples, notes = own_test(first, options.allow_leaks)
    if options.rows is not None:
        examples = sample(examples, options.rows)
    tell(notes, options.quiet)
    place = Path(options.out or f"{options.artifact.rstrip('/')}-{Path(str(options.data)).name}-comparison")
    with writable(place) as out:
        subjects = [subject_of(pipeline, examples, quiet=options.quiet) for pipeline in (first, second)]
        names = Path(options.artifact).name, Path(str(options.data)).name
        pair = compare_subjects(*subjects, names=names, resamples=options.resamples)
        tell_pair(pair, out, options, command)


def tell_pair(pair: Pair, out: Path, options: Diagnose, command: str) -> None:
    """Write the page of a comparison, and print it."""
    write_pair(pair, out, command)
    if options.json:
        print_json(pair.to_dict())
    else:
        show(render_pair(pair))
        print(f"wrote {out}/comparison.html and comparison.json")
