"""The threads of a command that runs a model."""

from __future__ import annotations

from functools import cache

from coldframe.progress import say


@cache
def start_threads(quiet: bool) -> None:
    """Set how many threads compute, and say it once; ``quiet`` says nothing."""
    from coldframe.frozen.threads import set_threads

    line = set_threads()
    if not quiet:
        say(line)
