"""``coldframe reweight``: short for fitting PEAR without a task and exporting the checkpoint."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from coldframe.cli.flags import Grouped
from coldframe.cli.options import Flat, ModelFlags
from coldframe.cli.output import print_json, show, tell
from coldframe.cli.parsing import parse
from coldframe.config import Config, local_path
from coldframe.methods.head_gains.config import ReweightConfig

if TYPE_CHECKING:
    from coldframe.frozen.model import FrozenLM
    from coldframe.methods.head_gains.reweighting import Reweighting


@dataclasses.dataclass(frozen=True)
class Model(ModelFlags):
    """The model as the first word."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")] = "smollm2"


@dataclasses.dataclass(frozen=True)
class ReweightFlags(ReweightConfig, Grouped):
    """The settings of a reweighting as flags."""

    groups = {
        "heads": ("heads", "choose", "fixed", "repetitions", "discovery", "effect", "mean_over"),
        "training": (),
    }


@dataclasses.dataclass(frozen=True)
class Reweight(Config):
    """Write a checkpoint whose attention heads are weighed anew (PEAR), so that it copies better from its context.

    Some heads hold copying back. They are found on random sequences that are repeated once: a head counts by how much
    the right next token gains when the head is replaced by its mean. Each of them then gets one trained factor, and the
    factors are folded into the weights. The result is an ordinary checkpoint of transformers: same size, same
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
    settings: Annotated[ReweightFlags, Flat] = dataclasses.field(default_factory=ReweightFlags)
    json: bool = False
    quiet: bool = False


def run(argv: Sequence[str]) -> None:
    """Find heads, train gains, fold, say what came of it."""
    options = parse(Reweight, "reweight", argv)
    from coldframe.methods.head_gains.fold import refuse_existing, save_reweighted, source_of
    from coldframe.methods.head_gains.gains_file import FOLDER, PAGE, read_gains
    from coldframe.pipeline.reweight import reweight
    from coldframe.storage.folders import exclusive

    started = time.perf_counter()
    out = local_path(options.out or f"runs/{Path(options.model.model).name}-pear")
    with exclusive(out):
        refuse_existing(out)
        lm = options.model.load(options.quiet)
        source_of(lm)  # what cannot be folded is refused before the work
        reweighting = reweight(lm, options.settings, options.quiet)
        page = _page(options, lm, reweighting, time.perf_counter() - started)
        weights = save_reweighted(lm, options.settings, reweighting, out, page)
    gains = [reweighting.gains[layer, head] for layer, head in reweighting.heads]
    result = {
        "checkpoint": str(out),
        **read_gains(out).manifest,
        "loss_before": reweighting.loss_before,
        "loss_after": reweighting.loss_after,
        "share_below_one": sum(bool(gain < 1) for gain in gains) / len(gains),
        "weights": dataclasses.asdict(weights),
        "report": None if page is None else str(out / FOLDER / PAGE),
        "seconds": round(time.perf_counter() - started, 2),
    }
    if options.json:
        print_json(result)
    else:
        _print(result)


def _page(options: Reweight, lm: FrozenLM, reweighting: Reweighting, seconds: float) -> str | None:
    """The page on heads and gains; None, and said, without the extra ``report``."""
    from importlib.util import find_spec

    from coldframe.evaluation.head_gains import HeadGains, render_page
    from coldframe.storage.artifact import MANIFEST

    if find_spec("jinja2") is None:
        tell(["no report: pip install 'coldframe[report]'"], options.quiet)
        return None
    settings = {**options.settings.to_dict(), "dtype": str(lm.dtype), "weight_hash": lm.weight_hash[:12]}
    gains = HeadGains.of(reweighting, options.settings.effect)
    return render_page(str(lm.provenance["name"]), gains, settings, seconds, MANIFEST)


def _print(result: dict[str, Any]) -> None:
    from coldframe.reports import terminal
    from coldframe.reports.blocks import Table

    heads = [(f"{h['layer']}.{h['head']}", f"{h['effect']:+.3f}", f"{h['gain']:.3f}") for h in result["heads"]]
    table = Table.plain(("head", "effect", "gain"), heads, title="heads, as layer.head counted from 0")
    show(terminal.render([table]))
    print(
        f"{len(result['heads'])} heads, {result['share_below_one']:.0%} of them weighed down, {result['seconds']:.0f} s"
    )
    if result["stability"] is not None:
        print(f"rank correlation of all effects between two settings of N and n: {result['stability']:.2f}")
    if result["loss_after"] is not None:
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
