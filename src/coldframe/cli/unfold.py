"""``coldframe unfold``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import tyro

from coldframe.cli.output import print_json
from coldframe.cli.parsing import parse
from coldframe.config import Config, local_path


@dataclasses.dataclass(frozen=True)
class Unfold(Config):
    """Write the base model again from a reweighted checkpoint.

    The scaled weights are divided by their gains, which stand in the checkpoint's folder head_gains. Rounding may
    leave some of them one step beside where they were; checksums tell. With --base they are taken from the base model,
    so that every bit is right.

    For example:
      coldframe unfold runs/smollm2-pear --out runs/as-it-was
      coldframe unfold runs/smollm2-pear --out runs/as-it-was --base smollm2

    Args:
        checkpoint: Folder that `coldframe reweight` wrote.
        out: Folder to write; it must not exist.
        base: The base model: a built-in name, a folder or a hub id.
        json: Print the result as JSON.
    """

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DIR")]
    out: str
    base: str | None = None
    json: bool = False


def run(argv: Sequence[str]) -> None:
    """Write, and say whether it is the base model to the bit."""
    options = parse(Unfold, "unfold", argv)
    from coldframe.methods.head_gains.fold import unfold
    from coldframe.storage.folders import exclusive

    with exclusive(local_path(options.out)):
        result = unfold(options.checkpoint, options.out, options.base)
    if options.json:
        print_json({"checkpoint": options.out, "exact": not result.inexact, **dataclasses.asdict(result)})
        return
    print(f"{len(result.tensors)} weights changed back")
    if result.inexact:
        print(f"{len(result.inexact)} of them differ from the base model's by rounding; --base makes them exact")
    else:
        print("all of them are the base model's, bit for bit")
    print(f"wrote {options.out}")
