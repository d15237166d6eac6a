"""``coldframe reweight``."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from coldframe.cli.options import Flat, ModelFlags, parse
from coldframe.cli.output import print_json, show, tell
from coldframe.config import Config
from coldframe.methods.head_gains.config import ReweightConfig
from coldframe.progress import Bar

if TYPE_CHECKING:
    from coldframe.frozen.model import FrozenLM
    from coldframe.methods.head_gains.pear import Reweighting


@dataclasses.dataclass(frozen=True)
class Model(ModelFlags):  # noqa: D101 (below)
    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")] = "smollm2"


Model.__doc__ = ModelFlags.__doc__  # without a docstring of its own it shows that of the class it extends


@dataclasses.dataclass(frozen=True)
class Reweight(Config):
    """Write a checkpoint whose attention heads are weighed anew (PEAR), so that it copies better from its context.

    Some heads hold copying back. They are found on random sequences that are repeated once: a head counts by how much
    the right next token gains when the head is replaced by its mean. Each of them then gets one trained factor, and the
    factors are folded into the weights. What is written is an ordinary checkpoint of transformers: same size, same
    speed, no data of yours needed. Whether it answers better is for you to measure, on your questions.

    For example:
      coldframe reweight smollm2 --out runs/smollm2-pear
      coldframe reweight smollm2 --out runs/ten --heads 10     (uses the effects that were measured before)
      coldframe reweight path/to/checkpoint --out runs/new --bos always --json
      coldframe fit b3db --model runs/smollm2-pear --method mha-esp
      coldframe unfold runs/smollm2-pear --out runs/as-it-was

    Controls: --choose lowest, --choose random, --choose all, or --fixed 0, which cuts the heads out.
    Interrupted, the same command goes on where it stopped.

    Args:
        out: Folder of the checkpoint, which must not exist; runs/MODEL-pear if you name none.
        json: Print the result as JSON.
        quiet: No progress.
    """

    model: Annotated[Model, Flat] = dataclasses.field(default_factory=Model)
    out: str | None = None
    settings: Annotated[ReweightConfig, Flat] = dataclasses.field(default_factory=ReweightConfig)
    json: bool = False
    quiet: bool = False


class Bars:
    """A progress bar for the stage that runs."""

    def __init__(self, quiet: bool) -> None:
        self.quiet, self.stage, self.done = quiet, "", 0
        self.open = ExitStack()

    def __call__(self, stage: str, done: int, total: int, values: dict[str, float]) -> None:
        """Show where a stage stands."""
        if stage != self.stage:
            self.open.close()
            self.bar = self.open.enter_context(Bar(total, stage, self.quiet))
            self.stage, self.done = stage, 0
        self.bar.advance(done - self.done, **values)
        self.done = done


def run(argv: Sequence[str]) -> None:
    """Find heads, train gains, fold, say what came of it."""
    asked = parse(Reweight, "reweight", argv)
    from coldframe.methods.head_gains.fold import refuse_existing, save_reweighted, source_of
    from coldframe.methods.head_gains.gains_file import read_gains
    from coldframe.methods.head_gains.pear import reweight

    started = time.perf_counter()
    out = Path(asked.out or f"runs/{Path(asked.model.model).name}-pear")
    refuse_existing(out)
    lm = asked.model.load()
    source_of(lm)  # what cannot be folded is refused before the work
    bars = Bars(asked.quiet)
    with bars.open:
        found = reweight(lm, asked.settings, bars)
    written = save_reweighted(lm, asked.settings, found, out)
    page = _page(asked, lm, found, out, time.perf_counter() - started)
    gains = [found.trained.gains[layer, head] for layer, head in found.heads]
    result = {
        "checkpoint": str(out),
        **read_gains(out).described,
        "loss_before": found.trained.loss_before,
        "loss_after": found.trained.loss_after,
        "share_below_one": sum(bool(gain < 1) for gain in gains) / len(gains),
        "weights": dataclasses.asdict(written),
        "report": None if page is None else str(page),
        "seconds": round(time.perf_counter() - started, 2),
    }
    if asked.json:
        print_json(result)
    else:
        _print(result)


def _page(asked: Reweight, lm: FrozenLM, found: Reweighting, out: Path, seconds: float) -> Path | None:
    """Write the page on heads and gains; None, and said, without the extra ``report``."""
    from importlib.util import find_spec

    from coldframe.evaluation.reweighted.data import Found, Reweighted
    from coldframe.methods.head_gains.gains_file import FOLDER
    from coldframe.storage.files import atomic_path

    if find_spec("jinja2") is None:
        tell(["no report: pip install 'coldframe[report]'"], asked.quiet)
        return None
    from coldframe.evaluation.reweighted.page import render_page

    data = Reweighted(
        model=str(lm.provenance["name"]),
        found=Found.of(found, asked.settings.effect),
        settings={**asked.settings.to_dict(), "dtype": str(lm.dtype), "weight_hash": lm.weight_hash[:12]},
        seconds=seconds,
    )
    path = out / FOLDER / "report.html"
    with atomic_path(path) as temporary:
        temporary.write_text(render_page(data, "gains.json"), encoding="utf-8")
    return path


def _print(result: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table("head", "effect", "gain", title="heads, as layer.head counted from 0")
    for one in result["heads"]:
        table.add_row(f"{one['layer']}.{one['head']}", f"{one['effect']:+.3f}", f"{one['gain']:.3f}")
    show(table)
    print(
        f"{len(result['heads'])} heads, {result['share_below_one']:.0%} of them weighed down, {result['seconds']:.0f} s"
    )
    if result["stability"] is not None:
        print(f"rank correlation of all effects between two settings of N and n: {result['stability']:.2f}")
    print(f"loss on held-out random sequences: {result['loss_before']:.3f} -> {result['loss_after']:.3f}")
    out, weights = result["checkpoint"], result["weights"]
    if result["report"]:
        print(f"report: {result['report']}")
    if weights["folded"]:
        print(f"folded into {weights['dtype']} weights; rounding moves them by {weights['rounding']:.1e} of their size")
        print(f"wrote {out}; undo: coldframe unfold {out} --out DIR")
    else:
        print(
            "the weights are packed, so the gains stay beside them: coldframe.methods.head_gains.fold.attach(lm, DIR)"
        )
        print(f"wrote {out}")
