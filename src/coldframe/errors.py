"""Errors a user can act on: each says what it got, what it expected and how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ColdframeError(Exception):
    """Base of every error coldframe raises on purpose.

    Args:
        problem: What is wrong, as one sentence.
        got: What was received, if that helps.
        expected: What would have been accepted.
        fix: What to do about it.

    Example:
        >>> str(ColdframeError("K is too large.", got=9, expected="at most 4", fix="Pass k=4."))
        'K is too large. Got: 9. Expected: at most 4. Pass k=4.'
    """

    def __init__(self, problem: str, *, got: object = None, expected: object = None, fix: str | None = None) -> None:
        self.problem, self.got, self.expected, self.fix = problem, got, expected, fix
        parts = [problem.rstrip(".") + "."]
        if got is not None:
            parts.append(f"Got: {got}.")
        if expected is not None:
            parts.append(f"Expected: {expected}.")
        if fix is not None:
            parts.append(fix)
        super().__init__(" ".join(parts))


class ConfigError(ColdframeError, ValueError):
    """A setting is unknown, of the wrong type or out of range."""


class DataError(ColdframeError, ValueError):
    """A row, a file or a data set cannot be used as it is."""


class LeakError(DataError):
    """Test rows are in the exemplar store, so a score would be worth nothing."""


class ModelError(ColdframeError, ValueError):
    """A model cannot be loaded, or is of an architecture coldframe does not know."""


class NotFiniteError(ModelError):
    """Scores or losses are not numbers, so nothing can be predicted from them."""


class ArtifactError(ColdframeError, ValueError):
    """A saved artifact is truncated, tampered with, foreign or too new."""


class TrainingError(ColdframeError, RuntimeError):
    """Training stopped: a loss was not finite, or nothing was trained."""


class NotFittedError(ColdframeError, RuntimeError):
    """A method was asked to predict before it was fitted."""


class MissingExtraError(ColdframeError, ImportError):
    """An optional dependency is absent; names the extra that brings it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed",
            fix=f"Run: pip install 'coldframe[{extra}]'",
        )
        self.package, self.extra = package, extra


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: the closest known one, or all of them.

    >>> nearest("mha_esp", ["mha-esp", "idpg"])
    "Did you mean 'mha-esp'?"
    """
    options = sorted(known)
    close = difflib.get_close_matches(str(name)[:100], options, n=1, cutoff=0.6)  # YAML has keys that are no text
    return f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(options)}."


def first_line(error: BaseException) -> str:
    """The first line of another library's error that says something, to quote in one of ours."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
