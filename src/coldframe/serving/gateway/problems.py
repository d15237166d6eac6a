"""What a request is refused with: a status, and an error in words."""

from __future__ import annotations

from typing import Any

from coldframe.errors import ColdframeError, ModelError, NotFiniteError


class HttpProblem(ColdframeError):
    """A request that is refused.

    Args:
        status: Of HTTP, 400 to 599.
        problem: What is wrong, as one sentence.
        retry_after: Seconds after which to try again, if that helps.
        **words: ``got``, ``expected`` and ``fix``, as of every error here.
    """

    def __init__(self, status: int, problem: str, *, retry_after: float | None = None, **words: Any) -> None:
        super().__init__(problem, **words)
        self.status, self.retry_after = status, retry_after


def status_of(error: Exception) -> int:
    """The status of an error: the client's fault, the backend's or ours.

    >>> from coldframe.errors import DataError
    >>> status_of(DataError("Query 1 is empty")), status_of(ModelError("No answer")), status_of(KeyError())
    (422, 502, 500)
    """
    if isinstance(error, HttpProblem):
        return error.status
    if isinstance(error, NotFiniteError):
        return 500
    if isinstance(error, ModelError):
        return 502
    return 422 if isinstance(error, ColdframeError) else 500


def body_of(error: Exception, request_id: str = "") -> dict[str, Any]:
    """An error as JSON. What is not one of ours is told by its request id alone."""
    if not isinstance(error, ColdframeError):
        error = ColdframeError(
            "The gateway failed on this request", fix=f"Tell whoever runs it the request id {request_id!r}."
        )
    parts = {"problem": error.problem, "got": error.got, "expected": error.expected, "fix": error.fix}
    words = {key: str(value)[:2000] for key, value in parts.items() if value is not None}
    return {"error": {"message": str(error)[:4000], "type": type(error).__name__, **words}}
