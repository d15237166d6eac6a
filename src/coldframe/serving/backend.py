"""A server of a model: questions in, replies out, several requests at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import groupby
from typing import Any

from coldframe.config import check
from coldframe.errors import DataError, ModelError
from coldframe.inference.client import Client, Refusal, TooLarge
from coldframe.serving.forms import FORMS, Form, FormName, malformed
from coldframe.serving.wire import Question, Reply

_NOT_READ = (LookupError, TypeError, ValueError, AttributeError)


class Backend:
    """One model on one server.

    Args:
        client: To its address, up to and with the version.
        form: Its wire form; ``"auto"`` asks the server what it is.
        make: Makes a form of its class.
        concurrency: Requests at a time.
    """

    def __init__(self, client: Client, form: FormName, make: Callable[[type[Form]], Form], concurrency: int) -> None:
        check(form == "auto" or form in FORMS, "Unknown wire form", got=form, expected=", ".join(["auto", *FORMS]))
        check(concurrency >= 1, "Too few requests at a time", got=f"concurrency={concurrency}", expected="at least 1")
        self.client, self.concurrency = client, concurrency
        self._form_name, self._make = form, make
        self._lock = threading.Lock()
        self._about: dict[str, Any] | None = None
        self._form: Form | None = None

    @property
    def about(self) -> dict[str, Any]:
        """What the server says about the model; asked once.

        Raises:
            ModelError: It cannot be reached, or has no such model.
        """
        with self._lock:
            if self._about is None:
                self._about = self._ask_about()
            return self._about

    def _ask_about(self) -> dict[str, Any]:
        try:
            models = [model for model in self.client.get("models")["data"] if isinstance(model["id"], str)]
        except Refusal:  # some servers have no list
            models = [{"id": self.client.model}] if self.client.model else []
        except _NOT_READ as error:
            if isinstance(error, ModelError):
                raise
            raise malformed(self.client.url, "a list of models without models", error) from None
        names = [model["id"] for model in models]
        if not self.client.model and len(names) == 1:
            self.client.model = names[0]
        if self.client.model not in names:
            model = f"no model {self.client.model!r}" if self.client.model else f"{len(names) or 'no list of'} models"
            expected = f"one of {', '.join(names[:20])}" if names else None
            raise ModelError(f"{self.client.url} serves {model}", expected=expected, fix="Pass model=...")
        return dict(models[names.index(self.client.model)])

    @property
    def longest(self) -> int | None:
        """Positions that the server reads, prompt and answer together; None if it does not say."""
        length = self.about.get("max_model_len")
        return length if isinstance(length, int) and length > 0 else None

    @property
    def form(self) -> Form:
        """The wire form."""
        name, about = self._form_name, self.about
        if self._form is None:
            if name == "auto":
                name = "sglang" if about.get("owned_by") == "sglang" else "completions"
            self._form = self._make(FORMS[name])
        return self._form

    def ask(self, questions: Sequence[Question]) -> list[Reply]:
        """Replies to questions, in their order; after a failure nothing more is asked.

        Raises:
            ModelError: The server failed, or said something else.
            DataError: A request is too large.
        """
        stop = threading.Event()
        groups = self._groups(questions)
        if len(groups) == 1:
            return self._ask(groups[0], stop)
        with ThreadPoolExecutor(min(self.concurrency, len(groups)), "coldframe backend") as pool:
            waiting: list[Future[list[Reply]]] = [pool.submit(self._ask, group, stop) for group in groups]
            try:
                return [reply for future in waiting for reply in future.result()]
            finally:
                stop.set()
                for future in waiting:
                    future.cancel()

    def _groups(self, questions: Sequence[Question]) -> list[list[Question]]:
        """Neighbours that ask for the same, shared out among the requests that may run at a time."""
        most = min(self.form.at_once, -(-len(questions) // self.concurrency))
        groups: list[list[Question]] = []
        for _, members in groupby(questions, key=_asked):
            alike = list(members)
            groups += [alike[start : start + most] for start in range(0, len(alike), most)]
        return groups

    def _ask(self, questions: Sequence[Question], stop: threading.Event) -> list[Reply]:
        try:
            answer = self.client.post(self.form.route, self.form.body(questions), stop)
        except TooLarge as error:
            if len(questions) > 1:
                return [reply for question in questions for reply in self._ask([question], stop)]
            raise DataError(
                f"The request of query {questions[0].query + 1} is too large",
                got=f"{error.got} for {len(questions[0].span)} positions",
                expected=error.expected,
                fix="Shorten it; or pass a larger max_request, if the server takes that much.",
            ) from None
        try:
            return self.form.replies(answer, questions)
        except _NOT_READ as error:
            raise malformed(self.client.url, self.client.shown(answer), error) from None

    def stream(self, question: Question) -> Generator[tuple[int, ...]]:
        """Tokens as they are written; the connection is closed with the generator."""
        count = 0
        with closing(self.client.stream(self.form.route, self.form.body([question]))) as events:
            for event in events:
                try:
                    tokens = self.form.written(event, count)
                except _NOT_READ as error:
                    raise malformed(self.client.url, self.client.shown(event), error) from None
                count += len(tokens)
                yield tokens


def _asked(question: Question) -> tuple[Any, ...]:
    """All of a question but its span; whether there are soft tokens decides how the span is put."""
    return (
        question.span.soft is None, question.scored, question.max_tokens, question.temperature, question.top_p,
        question.seed, question.stop, question.ends,
    )  # fmt: skip
