"""Who writes questions about passages: a local model, or a server that speaks OpenAI's protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coldframe.errors import ColdframeError
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Prompt
from coldframe.frozen.tokens import in_chat
from coldframe.inference.client import Client, Refusal
from coldframe.tasks.question_writer import ASK, REWRITE, QuestionWriter
from coldframe.tasks.task import content_hash


def by_model(
    lm: FrozenLM,
    *,
    retries: int = 5,
    rewrites: bool = True,
    batch_size: int = 16,
    max_new_tokens: int = 512,
    temperature: float = 0.7,
    top_p: float = 0.95,
) -> QuestionWriter:
    """A local model writes them: the one that is adapted, as in the papers, or a larger one.

    Settings of the papers where they can be had: temperature 0.7, 512 new tokens, three questions. (They also cut the
    sampling at the 50 likeliest tokens; here it is cut at ``top_p``.)

    Args:
        lm: The model; one that follows instructions.
        retries: Further attempts where its answer cannot be read, each with another seed.
        rewrites: Also write passages in other words.
        batch_size: Passages at a time.
        max_new_tokens: Of the rewrite, and of the questions.
        temperature: Of the sampling.
        top_p: Of the sampling.
    """
    sampling: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p}

    def write(instructions: Sequence[str], seed: int, stop: Sequence[str]) -> list[str]:
        prompts = [Prompt(in_chat(lm, text) if lm.tokenizer.chat_template else f"{text}\n\n") for text in instructions]
        return lm.generate(prompts, seed=seed, stop=stop, **sampling)

    name = content_hash(lm.weight_hash, *_instructions(rewrites), repr(sorted(sampling.items())))
    return QuestionWriter(write, name, retries=retries, rewrites=rewrites, batch_size=batch_size)


def by_endpoint(
    client: Client, *, retries: int = 5, rewrites: bool = True, temperature: float = 0.7, max_tokens: int = 1024
) -> QuestionWriter:
    """A server writes them (``chat/completions``), one passage after another; one that it refuses is told.

    Args:
        client: Which server and model; a server may change behind its name.
        retries: Further attempts where its answer cannot be read.
        rewrites: Also have passages written in other words.
        temperature: Of the sampling.
        max_tokens: Of an answer.
    """

    def reply(instruction: str) -> str | ColdframeError:
        messages = [{"role": "user", "content": instruction}]
        body = {"messages": messages, "temperature": temperature, "max_tokens": max_tokens}
        try:
            answer = client.post("chat/completions", body)
            return str(answer["choices"][0]["message"]["content"] or "")
        except Refusal as error:
            return error
        except (KeyError, IndexError, TypeError):
            return ""

    def write(instructions: Sequence[str], seed: int, stop: Sequence[str]) -> list[str | ColdframeError]:
        return [reply(instruction) for instruction in instructions]

    name = content_hash(client.url, client.model, *_instructions(rewrites), str(temperature))
    return QuestionWriter(write, name, retries=retries, rewrites=rewrites, batch_size=1)


def _instructions(rewrites: bool) -> list[str]:
    return [REWRITE, ASK] if rewrites else [ASK]
