"""OpenAI's routes: a model is an adapter, a prompt is an input, a completion is the label or what was written."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from coldframe.errors import DataError
from coldframe.serving.gateway.bodies import REFUSALS, ChatBody, CompletionBody
from coldframe.serving.gateway.jobs import Answers
from coldframe.serving.gateway.routes_predict import Key, TheGateway
from coldframe.serving.gateway.state import Gateway

routes = APIRouter(prefix="/v1", tags=["OpenAI's protocol"], responses=REFUSALS)

Record = dict[str, Any]


@routes.get("/models")
async def models(gateway: TheGateway, key: Key) -> Record:
    """The adapters that a key may use."""
    names = usable(gateway, key)
    data = [{"id": name, "object": "model", "created": 0, "owned_by": "coldframe"} for name in names]
    return {"object": "list", "data": data}


def usable(gateway: Gateway, key: str | None) -> list[str]:
    """Names of the adapters that a key may use."""
    return [name for name in gateway.adapters.names() if gateway.gate.allows(name, key)]


@routes.post("/completions")
async def completions(request: Request, body: CompletionBody, gateway: TheGateway, key: Key) -> Response:
    """A completion of each prompt: its label, or what is written; with ``stream`` as server-sent events."""
    texts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    adapter = gateway.enter(request, body.model, key, len(texts))
    answers = await gateway.predict(request, adapter, texts, max_new_tokens=body.max_tokens)
    head = _head("cmpl", "text_completion", body.model)
    choices = [
        {"index": i, "text": word, "logprobs": None, "finish_reason": "stop"} for i, word in enumerate(answers.words)
    ]
    if body.stream:
        return _stream({**head, "choices": [choice]} for choice in choices)
    return JSONResponse({**head, "choices": choices, "usage": _usage(answers), **_more(answers)})


@routes.post("/chat/completions")
async def chat(request: Request, body: ChatBody, gateway: TheGateway, key: Key) -> Response:
    """The answer to the last message of the user; earlier ones are not read, for an adapter learned single inputs."""
    text = _last_of_user(body)
    adapter = gateway.enter(request, body.model, key, 1)
    most = body.max_completion_tokens or body.max_tokens
    answers = await gateway.predict(request, adapter, [text], max_new_tokens=most)
    (word,) = answers.words
    if body.stream:
        head = _head("chatcmpl", "chat.completion.chunk", body.model)
        deltas: list[tuple[Record, str | None]] = [({"role": "assistant", "content": word}, None), ({}, "stop")]
        return _stream(
            {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]} for delta, reason in deltas
        )
    head = _head("chatcmpl", "chat.completion", body.model)
    message = {"role": "assistant", "content": word}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return JSONResponse({**head, "choices": [choice], "usage": _usage(answers), **_more(answers)})


def _last_of_user(body: ChatBody) -> str:
    for message in reversed(body.messages):
        if message.role == "user":
            content = message.content or ""
            text = content if isinstance(content, str) else "\n".join(part.text for part in content)
            if text.strip():
                return text
            break
    raise DataError("There is no message of the user to answer", expected="a last user message with text")


def _head(prefix: str, kind: str, model: str) -> Record:
    return {"id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def _usage(answers: Answers) -> Record:
    """Positions that were read, and tokens of the answers."""
    adapter = answers.adapter
    if answers.generated is not None:
        written = sum(len(adapter.pipeline.lm.tokenize(text)) for text in answers.generated)
    else:
        words = adapter.word_tokens
        written = sum(len(words[i]) for i in answers.probabilities.argmax(1)) if words else 0
    read = sum(answers.tokens)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _more(answers: Answers) -> Record:
    """The probabilities of the labels, which OpenAI's answers have no place for."""
    if answers.generated is not None:
        return {}
    labels = answers.adapter.pipeline.schema.labels
    return {
        "coldframe": {"probabilities": [dict(zip(labels, row, strict=True)) for row in answers.probabilities.tolist()]}
    }


def _stream(chunks: Iterator[Record]) -> StreamingResponse:
    lines = [f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n" for chunk in chunks]
    return StreamingResponse(iter([*lines, "data: [DONE]\n\n"]), media_type="text/event-stream")
