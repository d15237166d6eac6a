"""The wire forms: how a question is put to a server of one kind, and how its answer is read."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from coldframe.errors import ConfigError, ModelError
from coldframe.serving.wire import Question, Reply, Span, packed

FormName = Literal["auto", "completions", "chat", "sglang"]

CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
"""Messages one after another and nothing else: with it a chat's prompt is the artifact's own."""

_BREAK = "\n"  # what vLLM puts between the parts of a message


class Form(ABC):
    """One way to ask.

    Args:
        embed: Embeddings of token ids.
        dtype: Of vectors on the wire.
        tokenizer: The model's.
        bos: Whether the model puts a token before every prompt.
    """

    route: ClassVar[str]
    at_once: ClassVar[int] = 1  # questions that one request may hold, where they ask for the same

    def __init__(
        self, embed: Callable[[Sequence[int]], Tensor], dtype: torch.dtype, tokenizer: PreTrainedTokenizerBase, bos: int
    ) -> None:
        self.embed, self.dtype, self.tokenizer, self.bos = embed, dtype, tokenizer, bos

    @abstractmethod
    def body(self, questions: Sequence[Question]) -> dict[str, Any]:
        """The request, as JSON, of questions that differ in their spans alone."""

    @abstractmethod
    def replies(self, answer: Mapping[str, Any], questions: Sequence[Question]) -> list[Reply]:
        """What the server said.

        Raises:
            LookupError, TypeError, ValueError: It said something else.
        """

    @abstractmethod
    def written(self, event: Mapping[str, Any], count: int) -> tuple[int, ...]:
        """The tokens that an event of a stream adds to ``count`` before; raises as :meth:`replies`."""


class Completions(Form):
    """vLLM's completions: the whole prompt as vectors, or as token ids where there are no soft tokens."""

    route = "completions"
    at_once = 16

    def body(self, questions: Sequence[Question]) -> dict[str, Any]:
        """``prompt_embeds`` and ``prompt`` are separate prompts, so a request has one of them."""
        spans = [question.span for question in questions]
        if spans[0].soft is None:
            prompt: dict[str, Any] = {"prompt": [list(span.ids) for span in spans]}
        else:
            prompt = {"prompt_embeds": [packed(span.vectors(self.embed), self.dtype) for span in spans]}
        return {**prompt, **_vllm_settings(questions[0], {"logprobs": 1})}

    def replies(self, answer: Mapping[str, Any], questions: Sequence[Question]) -> list[Reply]:
        """One choice for each prompt, by its index."""
        choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
        if [choice["index"] for choice in choices] != list(range(len(questions))):
            raise ValueError(f"{len(choices)} choices for {len(questions)} prompts")
        replies = []
        for question, choice in zip(questions, choices, strict=True):
            scores = choice["logprobs"]["top_logprobs"][0].items() if question.scored else ()
            replies.append(Reply(_ids(choice["token_ids"]), _scores(((_id_of(t), p) for t, p in scores), question)))
        return replies

    def written(self, event: Mapping[str, Any], count: int) -> tuple[int, ...]:
        """Of the first choice, which is the only one; the last event may have none."""
        return _ids(event["choices"][0]["token_ids"]) if event["choices"] else ()


class Chat(Form):
    """vLLM's chat: soft tokens as a part of a message, beside text that the server tokenises and embeds itself.

    It sends the soft tokens alone. The server puts a line break between the parts, so that the artifact must have
    been trained with one there: its prompt begins (``placement="prefix"``) or ends (``"suffix"``) with a line break.
    The server must take a template with the request: ``vllm serve --trust-request-chat-template``.
    """

    route = "chat/completions"

    def body(self, questions: Sequence[Question]) -> dict[str, Any]:
        """A user's message with the prompt, and the model's own with what its answer begins with."""
        (question,) = questions
        span = question.span
        messages = [{"role": "user", "content": self._prompt(span)}]
        if span.soft is not None and len(span.before) > self.bos and span.after:
            messages.append({"role": "assistant", "content": self._text(span.after)})
        body = {
            "messages": messages,
            "chat_template": CHAT_TEMPLATE,
            "add_generation_prompt": False,
            "add_special_tokens": self.bos > 0,
            **_vllm_settings(question, {"logprobs": True}),
        }
        if span.soft is not None:
            # A server's prefix cache does not know the vectors of a chat: without it, others' may be taken for these.
            body["cache_salt"] = hashlib.sha256(span.soft.float().numpy().tobytes()).hexdigest()
        return body

    def _prompt(self, span: Span) -> Any:
        if span.soft is None:
            return self._text(span.ids[self.bos :])
        part = {"type": "prompt_embeds", "data": packed(span.soft, self.dtype)}
        if len(span.before) > self.bos:
            text = self._text(span.before[self.bos :])
            self._check_break(text.endswith(_BREAK), "end")
            return [{"type": "text", "text": text.removesuffix(_BREAK)}, part]
        text = self._text(span.after)
        self._check_break(text.startswith(_BREAK), "begin")
        return [part, {"type": "text", "text": text.removeprefix(_BREAK)}]

    def _check_break(self, there: bool, side: str) -> None:
        if not there:
            raise ConfigError(
                "A chat has a line break between soft tokens and text, and this artifact was fitted without one",
                expected=f"prompts that {side} with a line break",
                fix="Pass form='completions'; or fit with a label on a line of its own (template '...\\n{label}'), "
                "or with placement='prefix' and an instruction that begins with a line break.",
            )

    def _text(self, ids: Sequence[int]) -> str:
        """The text of tokens, which the server will make the same tokens of."""
        text = str(self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
        if tuple(self.tokenizer(text, add_special_tokens=False).input_ids) != tuple(ids):
            raise ConfigError(
                "A server would read this text as other tokens", got=repr(text[-60:]), fix="Pass form='completions'."
            )
        return text

    def replies(self, answer: Mapping[str, Any], questions: Sequence[Question]) -> list[Reply]:
        """The only choice."""
        (question,), choice = questions, answer["choices"][0]
        listed = choice["logprobs"]["content"][0]["top_logprobs"] if question.scored else ()
        scores = ((_id_of(entry["token"]), entry["logprob"]) for entry in listed)
        return [Reply(_ids(choice["token_ids"]), _scores(scores, question))]

    def written(self, event: Mapping[str, Any], count: int) -> tuple[int, ...]:
        """As :meth:`Completions.written`; the first event says only who speaks."""
        return _ids(event["choices"][0].get("token_ids") or ()) if event["choices"] else ()


class SGLang(Form):
    """SGLang's own ``/generate``: ``input_embeds`` as numbers in JSON, or token ids where there are no soft tokens.

    The server must run with ``--disable-radix-cache``.
    """

    route = "/generate"

    def body(self, questions: Sequence[Question]) -> dict[str, Any]:
        """Numbers in JSON are several times larger than bytes."""
        (question,) = questions
        span = question.span
        prompt: dict[str, Any] = {"input_ids": list(span.ids)}
        if span.soft is not None:
            prompt = {"input_embeds": span.vectors(self.embed).to(self.dtype).tolist()}
        sampling = {
            "max_new_tokens": question.max_tokens,
            "temperature": question.temperature,
            "top_p": question.top_p,
            "sampling_seed": question.seed,
            "stop": list(question.stop),
            "stop_token_ids": list(question.ends),
            "no_stop_trim": True,
        }
        scored = {"return_logprob": True, "token_ids_logprob": list(question.scored)} if question.scored else {}
        return {**prompt, "sampling_params": sampling, **scored}

    def replies(self, answer: Mapping[str, Any], questions: Sequence[Question]) -> list[Reply]:
        """Of one prompt."""
        (question,) = questions
        listed = answer["meta_info"]["output_token_ids_logprobs"][0] if question.scored else ()
        return [Reply(_ids(answer["output_ids"]), _scores(((entry[1], entry[0]) for entry in listed), question))]

    def written(self, event: Mapping[str, Any], count: int) -> tuple[int, ...]:
        """An event has all tokens, or the new ones alone (``--incremental-streaming-output``)."""
        ids = _ids(event["output_ids"])
        return ids[count:] if event["meta_info"]["completion_tokens"] == len(ids) else ids


FORMS: Mapping[str, type[Form]] = {"completions": Completions, "chat": Chat, "sglang": SGLang}


def _vllm_settings(question: Question, scored: Mapping[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "max_tokens": question.max_tokens,
        "temperature": question.temperature,
        "top_p": question.top_p,
        "return_token_ids": True,
    }
    if question.temperature:
        settings["seed"] = question.seed
    if question.scored:
        settings |= {**scored, "logprob_token_ids": list(question.scored), "return_tokens_as_token_ids": True}
    if question.stop:
        settings |= {"stop": list(question.stop), "include_stop_str_in_output": True}
    if question.ends:
        settings["stop_token_ids"] = list(question.ends)
    return settings


def _ids(values: Iterable[Any]) -> tuple[int, ...]:
    ids = tuple(values)
    if any(not isinstance(value, int) or isinstance(value, bool) or value < 0 for value in ids):
        raise ValueError(f"no token ids: {ids!r}"[:80])
    return ids


def _id_of(token: str) -> int:
    name, _, number = token.partition(":")
    if name != "token_id":
        raise ValueError(f"no token id: {token!r}"[:80])
    return int(number)


def _scores(scores: Iterable[tuple[Any, Any]], question: Question) -> dict[int, float]:
    """Log-probabilities of the tokens that were asked for, each once and none more than certain."""
    known = {int(token): float(value) for token, value in scores}
    values = {token: known[token] for token in question.scored}
    if any(math.isnan(value) or value > 1e-3 for value in values.values()):
        raise ValueError(f"no log-probabilities: {values!r}"[:80])
    return values


def malformed(url: str, answer: str, error: Exception) -> ModelError:
    """What a server's answer is when it is none."""
    return ModelError(
        f"{url} gave another answer than was asked for",
        got=f"{answer} ({type(error).__name__}: {str(error)[:80]})",
        fix="Is it a vLLM or SGLang server of this model? Pass form=... if it was taken for another kind.",
    )
