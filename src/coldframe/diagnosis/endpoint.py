"""A pipeline whose language model is on a server that speaks OpenAI's protocol."""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from coldframe.config import check
from coldframe.diagnosis.grading import Grader, grader
from coldframe.diagnosis.passages import PassageSubject, Retrieve
from coldframe.diagnosis.queries import Case, in_prompt
from coldframe.errors import ModelError
from coldframe.inference.client import Client, Refusal
from coldframe.tasks.questions import QUESTION
from coldframe.tasks.task import Example, Template, content_hash, end_text

T = TypeVar("T")
Mode = Literal["auto", "logprobs", "answers"]

_MOST = 1e6  # nats of a token: more is no probability, nor is NaN or infinity
_FAILS = frozenset({500})  # what some servers answer to a setting that they do not know
GREEDY: Mapping[str, Any] = MappingProxyType({"temperature": 0, "max_tokens": 64})


class Endpoint(PassageSubject):
    """A retriever over a model on a server: vLLM, SGLang, llama.cpp, Ollama, a paid service.

    Where the server gives the log-probabilities of a text (``completions`` with ``echo`` and ``logprobs``: vLLM,
    SGLang), the loss is the mean token NLL of the gold answer and of what ends it, in nats. Elsewhere the model writes
    an answer (``chat/completions``) and ``loss = 1 - score``; such losses are coarser and take more queries. A
    first question is sent when the object is made, so that a wrong address, key or model is known at once.

    Args:
        url: Up to and with the version: ``http://localhost:8000/v1``.
        model: As the server names it.
        retrieve: The passages for a question, most relevant first, called once per query; or those of every query.
        queries: At least 2; a verdict needs 30.
        api_key: Sent as a bearer token, and shown nowhere.
        mode: ``"logprobs"``, ``"answers"``, or ``"auto"`` for the first if the server can.
        template: How a question is put; its separator stands after every passage.
        metric: Of a written answer: ``"token_f1"``, ``"contains"``, ``"exact_match"`` or a
            :class:`coldframe.diagnosis.grading.Grader` such as a ``Judge``.
        generation: How an answer is written; goes into the request as it is.
        concurrency: Requests at a time, at least 1.
        timeout: Seconds for one answer.
        retries: Further attempts after a rate limit, a server error or a broken connection.
        wait: Seconds before the first of them; doubled each time.
        **options: As for :class:`coldframe.diagnosis.passages.PassageSubject`; with ``resume=FILE`` an interrupted
            diagnosis goes on.

    Raises:
        ConfigError: A setting is out of range.
        ModelError: The server cannot be reached, wants another key, has no such model, cannot do what ``mode`` needs,
            or keeps failing. The losses measured until then are stored.

    Cost:
        One request per query and condition.
    """

    def __init__(
        self,
        url: str,
        model: str,
        retrieve: Retrieve,
        queries: Sequence[Example | tuple[str, str]],
        *,
        api_key: str | None = None,
        mode: Mode = "auto",
        template: Template = QUESTION,
        metric: str | Grader = "token_f1",
        generation: Mapping[str, Any] = GREEDY,
        concurrency: int = 8,
        timeout: float = 60.0,
        retries: int = 5,
        wait: float = 1.0,
        **options: Any,
    ) -> None:
        check(mode in ("auto", "logprobs", "answers"), "Unknown mode", got=mode, expected="auto, logprobs or answers")
        check(concurrency >= 1, "Too few requests at a time", got=f"concurrency={concurrency}", expected="at least 1")
        check(min(retries, wait) >= 0 < timeout, "Times cannot be negative", got=(retries, timeout, wait))
        super().__init__(queries, retrieve, **{"name": "endpoint", "model": model, **options})
        self.client = Client(url, model, api_key, timeout=timeout, retries=retries, wait=wait)
        self.template, self.generation, self.concurrency = template, generation, concurrency
        self.grader = grader(metric)
        self.mode: Mode = "answers"
        self.mode = self._mode(mode)
        self.unit = "nats" if self.mode == "logprobs" else self.grader.title

    def measure(self, cases: Sequence[Case]) -> Iterator[tuple[int, float]]:
        """Losses as the answers come in."""
        yield from self._concurrently(cases, self._mean_token_nll if self.mode == "logprobs" else self._one_minus_score)

    def write(self, cases: Sequence[Case]) -> Iterator[tuple[int, str]]:
        """What the model writes, as it comes in."""
        yield from self._concurrently(cases, self._written)

    def _concurrently(
        self, cases: Sequence[Case], ask: Callable[[Case, threading.Event], T]
    ) -> Iterator[tuple[int, T]]:
        """Results by the place of their case. After a failure the requests under way still count; then it is raised."""
        stop = threading.Event()
        failures: list[ModelError] = []
        with ThreadPoolExecutor(self.concurrency) as pool:
            waiting = {pool.submit(self._ask, ask, case, stop): i for i, case in enumerate(cases)}
            try:
                for done in as_completed(waiting):
                    try:
                        result = done.result()
                    except ModelError as error:
                        failures.append(error)
                        stop.set()
                        continue
                    if result is not None:
                        yield waiting[done], result
            finally:
                stop.set()
        if failures:
            raise failures[0]

    def fingerprint(self) -> str:
        """Names server, model, prompt and score."""
        settings = (
            self.client.url,
            self.mode,
            self.grader.name,
            repr(self.template),
            repr(sorted(self.generation.items())),
        )
        return content_hash(*settings, super().fingerprint())

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the numbers should know, in sentences."""
        if self.mode == "logprobs":
            return super().notes
        how = f"the loss is 1 - {self.grader.title} (0 to 1)"
        return (*super().notes, f"No log-probabilities: answers were written, and {how}.")

    def _mode(self, mode: Mode) -> Mode:
        """The mode that works, by a first question."""
        query = self.queries[0]
        case = Case(query.text, (), query.target)
        if mode != "answers":
            try:
                self._mean_token_nll(case, threading.Event(), _FAILS)
                return "logprobs"
            except Refusal as error:
                if mode == "logprobs":
                    raise ModelError(
                        f"{self.client.url} gives no log-probabilities of a text: {error}", fix="Pass mode='answers'."
                    ) from error
        self._one_minus_score(case, threading.Event())
        return "answers"

    def _ask(self, ask: Callable[[Case, threading.Event], T], case: Case, stop: threading.Event) -> T | None:
        if stop.is_set():
            return None
        try:
            return ask(case, stop)
        except ModelError as error:
            question = f"{case.text[:60]!r} with {len(case.passages)} passages"
            raise ModelError(f"No answer to {question}: {error.problem}", got=error.got, fix=error.fix) from error

    def _prompt(self, case: Case) -> str:
        return self.template.header + "".join(in_prompt(self.template, case.passages)) + self.template.query(case.text)

    def _one_minus_score(self, case: Case, stop: threading.Event) -> float:
        return 1.0 - self.grader(case.text, self._written(case, stop), self.accepted(case), stop)

    def _written(self, case: Case, stop: threading.Event) -> str:
        """An answer: continued text where the server scores texts, a chat elsewhere."""
        if self.mode != "logprobs":
            return self.client.chat(self._prompt(case), self.generation, stop)
        end = end_text(self.template.end)
        body = {"prompt": self._prompt(case), **({"stop": [end]} if end else {}), **self.generation}
        reply = self.client.post("completions", body, stop)
        try:
            return str(reply["choices"][0]["text"])
        except (KeyError, IndexError, TypeError):
            raise ModelError(f"{self.client.url} gave no answer", got=self.client.shown(reply)) from None

    def _mean_token_nll(self, case: Case, stop: threading.Event, refusals: Container[int] = ()) -> float:
        prompt, answer = self._prompt(case), self.template.answer(case.answer.strip()) + end_text(self.template.end)
        tokens, values = self._echo(prompt + answer, stop, refusals)
        start = len(tokens)
        while start and len("".join(tokens[start:])) < len(answer):
            start -= 1
        # A letter may be split over tokens, and none of them shows it; then the prompt alone tells where it ends.
        if "".join(tokens[start:]) != answer:
            start = len(self._echo(prompt, stop)[0])
        own = values[start:]
        if not own or not all(isinstance(value, int | float) and -_MOST <= value <= _MOST for value in own):
            raise Refusal("The server gave no log-probabilities for the answer", got=repr(answer))
        return -float(sum(own)) / len(own)

    def _echo(self, text: str, stop: threading.Event, refusals: Container[int] = ()) -> tuple[list[str], list[Any]]:
        """The tokens of a text and their log-probabilities given those before them.

        One more token is written, since not all servers can write none; it is cut off here.
        """
        body = {"prompt": text, "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1}
        reply = self.client.post("completions", body, stop, refusals)
        try:
            choice = reply["choices"][0]
            reply_text, tokens = choice["text"], list(choice["logprobs"]["tokens"])
            values = list(choice["logprobs"]["token_logprobs"])
            written = reply_text[len(text) :] if reply_text.startswith(text) else None
        except (KeyError, IndexError, TypeError, AttributeError):
            raise Refusal("The server gave no log-probabilities", got=self.client.shown(reply)) from None
        if written is None or len(tokens) != len(values) or not all(isinstance(token, str) for token in tokens):
            raise Refusal("The server did not return the text that it was to score", got=repr(reply_text[:80]))
        # An end-of-text token is written without a trace in the text, and not all servers list it.
        unlisted = not written and bool(tokens) and bool(tokens[-1]) and text.endswith(tokens[-1])
        end = len(tokens) if unlisted else len(tokens) - 1
        return tokens[:end], values[:end]
