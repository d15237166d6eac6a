"""``coldframe demo``."""

from __future__ import annotations

import dataclasses
import shlex
import time
from collections.abc import Sequence

from coldframe.cli.compare import Compare, run_comparison
from coldframe.cli.options import ModelFlags
from coldframe.cli.output import print_json, show
from coldframe.cli.parsing import parse
from coldframe.config import Config


@dataclasses.dataclass(frozen=True)
class Demo(Config):
    """Fit MHA-ESP on b3db with SmolLM2-135M beside its rivals and controls, and show what the retrieval bought.

    Model and data come from the Python package index, once. Then it takes about 5 minutes on two cores of
    a server whose processor has bf16 instructions, and several times as long on one without.

    Args:
        out: Folder of the artifact and the report.
        model: Another frozen model.
        json: Print the results as JSON.
        quiet: No progress.
    """

    out: str = "coldframe-demo"
    model: str = "smollm2"
    json: bool = False
    quiet: bool = False


def run(argv: Sequence[str]) -> None:
    """The comparison of recipes/demo.yaml, then one prediction."""
    options = parse(Demo, "demo", argv)
    started = time.perf_counter()
    # The recipe says everything else.
    recipe = parse(Compare, "demo", ["--recipe", "demo"])
    recipe = dataclasses.replace(recipe, out=options.out, quiet=options.quiet, model=ModelFlags(options.model))
    comparison, out = run_comparison(recipe, shlex.join(["coldframe", "demo", *argv]))
    if options.json:
        print_json(comparison.to_dict())
        return
    show(comparison.table())
    sample = comparison.data.samples[0]
    print(f"\nOne test molecule: {sample.text}")
    probability = "" if sample.probability is None else f" (p = {sample.probability:.2f})"
    print(f"predicted {sample.predicted}{probability}, is {sample.target}; its exemplars:")
    for neighbour in sample.neighbours:
        weight = max(neighbour.attention, default=0.0)
        similarity = f"similarity {neighbour.similarity:.2f}, attention up to {weight:.2f}"
        print(f"  {neighbour.label:<5} {similarity}  {neighbour.text}")
    print(f"\nreport:   {out / 'report.html'}")
    print(f"artifact: {out / 'artifact'}    try: echo 'CCO' | coldframe predict {out / 'artifact'} -")
    print(f"{time.perf_counter() - started:.0f} s")
