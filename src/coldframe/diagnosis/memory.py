"""Losses that were measured, so that nothing is measured twice, not even by the next run."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from coldframe.diagnosis.queries import Case
from coldframe.errors import ConfigError
from coldframe.tasks.task import content_hash

_log = logging.getLogger(__name__)


class Memory:
    """The loss of every case measured so far; in a file too, if there is a path.

    The file has a line of JSON for the cases that were measured together, written as soon as their losses are known:
    names and losses, no texts. A line that a crash cut off is ignored whole: the last bits of a loss depend on what it
    was measured together with. Lines of another ``owner``, which names what measured the losses, are ignored too. A
    loss also depends on all right answers of its case, which ``accepted`` tells.

    Raises:
        ConfigError: The file cannot be read or written.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        owner: str = "",
        accepted: Callable[[Case], Sequence[str]] = lambda case: (case.answer,),
    ) -> None:
        self._path, self._owner, self._accepted = None if path is None else Path(path), owner, accepted
        self._losses: dict[str, float] = {}
        if self._path is not None:
            self._read(self._path)

    def __contains__(self, case: Case) -> bool:
        return self._name(case) in self._losses

    def __getitem__(self, case: Case) -> float:
        return self._losses[self._name(case)]

    def update(self, losses: Mapping[Case, float]) -> None:
        """Add the losses of cases that were measured together."""
        named = {self._name(case): loss for case, loss in losses.items()}
        self._losses |= named
        if self._path is not None and named:
            self._append(self._path, json.dumps(named) + "\n")

    def _name(self, case: Case) -> str:
        others = [f"or {answer}" for answer in self._accepted(case) if answer != case.answer]
        return content_hash(self._owner, case.text, case.answer, *others, *case.passages)

    def _read(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            text = path.read_text(encoding="utf-8") if path.exists() else ""
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"Cannot read the losses stored in {path}: {error}", fix="Name another file.") from error
        unreadable = 0
        for line in text.splitlines():
            try:
                losses = {name: float(loss) for name, loss in json.loads(line).items()}
                if not all(map(math.isfinite, losses.values())):
                    raise ValueError("a loss is not finite")
                self._losses |= losses
            except (ValueError, TypeError, AttributeError, RecursionError, OverflowError):
                unreadable += 1
        if unreadable:
            _log.warning("%d lines of %s are not usable; their cases are measured anew", unreadable, path)
        # Also tries whether it can be written, and ends a line that was cut off.
        self._append(path, "" if text.endswith("\n") or not text else "\n")

    @staticmethod
    def _append(path: Path, text: str) -> None:
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise ConfigError(f"Cannot store losses in {path}: {error}", fix="Name another file.") from error
