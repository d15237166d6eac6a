"""``coldframe cache``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from coldframe.cli.output import print_json
from coldframe.cli.parsing import parse
from coldframe.config import Config
from coldframe.errors import ConfigError, nearest
from coldframe.escape import visible
from coldframe.reports.numbers import si
from coldframe.storage.cache import cache_dir
from coldframe.storage.files import remove
from coldframe.storage.folders import sweep

WHAT = {
    "models": "models, converted once",
    "pypi": "encoders and data out of packages",
    "downloads": "parts of models that are being joined",
    "neighbours": "neighbour lists; at most 1.1 GB, the oldest go first",
    "head-gains": "heads and gains that PEAR found",
    "checksums": "checksums of files that were verified; at most 1 MB",
}


@dataclasses.dataclass(frozen=True)
class Cache(Config):
    """Show what the cache holds, or clear it. All of it can be made again; wheels that you put there stay.

    For example:
      coldframe cache
      coldframe cache --clear neighbours
      coldframe cache --clear

    Args:
        clear: What to delete: models, pypi, downloads, neighbours, head-gains, checksums; all if you name none.
        json: Print it as JSON.
    """

    section = "options of cache"

    clear: Annotated[str | None, tyro.conf.arg(metavar="WHAT")] = None
    json: bool = False


def run(argv: Sequence[str]) -> None:
    """Delete what is to go, show what is there."""
    words = list(argv)
    if "--clear" in words and (words[-1] == "--clear" or words[words.index("--clear") + 1].startswith("-")):
        words.insert(words.index("--clear") + 1, "all")
    options = parse(Cache, "cache", words)
    home = cache_dir()
    if options.clear is not None and options.clear not in (*WHAT, "all"):
        raise ConfigError(f"The cache holds no {options.clear!r}", fix=nearest(options.clear, [*WHAT, "all"]))
    for name in WHAT:
        if options.clear in (name, "all"):
            remove(home / name)
    if options.clear == "all" and home.is_dir():
        sweep(home)
    sizes = {name: size(home / name) for name in WHAT}
    if options.json:
        print_json({"cache": str(home), "bytes": sizes, "total": sum(sizes.values())})
        return
    print(visible(f"{home} (COLDFRAME_CACHE names another)"))
    for name, about in WHAT.items():
        print(f"{si(sizes[name], 'B'):>10}  {name:<11} {about}")
    print(f"{si(sum(sizes.values()), 'B'):>10}  in all; free some: coldframe cache --clear WHAT")


def size(path: Path) -> int:
    """Bytes of a folder's files; links count for themselves."""
    return sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir()) if path.is_dir() else 0
