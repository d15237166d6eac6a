"""The gateway's own routes: predict, compare, RAG."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse

from coldframe.serving.gateway.bodies import (
    REFUSALS,
    CompareAnswer,
    CompareBody,
    OverridesBody,
    PredictAnswer,
    PredictBody,
    RagAnswer,
    RagBody,
)
from coldframe.serving.gateway.comparison import side_by_side, without_each
from coldframe.serving.gateway.jobs import Answers, record_of
from coldframe.serving.gateway.pictures import drawing
from coldframe.serving.gateway.state import Gateway, gateway_of, key_of
from coldframe.serving.gateway.store_edits import Overrides

routes = APIRouter(prefix="/v1", tags=["predict"], responses=REFUSALS)

TheGateway = Annotated[Gateway, Depends(gateway_of)]
Key = Annotated[str | None, Depends(key_of)]


@routes.post("/predict", response_model=PredictAnswer)
async def predict(request: Request, body: PredictBody, gateway: TheGateway, key: Key) -> JSONResponse:
    """Answers of an adapter: label and probabilities, or a text; what was retrieved, and how much it counted."""
    started = time.perf_counter()
    adapter = gateway.enter(request, body.adapter, key, len(body.inputs))
    answers = await gateway.predict(request, adapter, body.inputs, _overrides(body.overrides))
    records = [_record(answers, row, body) for row in range(len(body.inputs))]
    if body.pictures and adapter.pipeline.schema.domain == "molecules":
        await asyncio.to_thread(_draw, records, body.inputs)
    milliseconds = round(1000 * (time.perf_counter() - started), 2)
    facts = {"adapter": adapter.name, "version": adapter.version}
    return JSONResponse({**facts, "answers": records, "milliseconds": milliseconds})


@routes.post("/compare", response_model=CompareAnswer)
async def compare(request: Request, body: CompareBody, gateway: TheGateway, key: Key) -> JSONResponse:
    """The same input by the adapter, by the base model alone, and by in-context learning with the same exemplars."""
    adapter = gateway.enter(request, body.adapter, key, 1)
    overrides = _overrides(body.overrides)
    ways = await gateway.work(request, lambda: side_by_side(adapter, body.input, overrides), 3)
    return JSONResponse({"adapter": adapter.name, "ways": ways})


@routes.post("/rag", response_model=RagAnswer)
async def rag(request: Request, body: RagBody, gateway: TheGateway, key: Key) -> JSONResponse:
    """What the base model of an adapter answers with all passages, with none, and without each of them."""
    started = time.perf_counter()
    size = len(body.passages) + 2
    adapter = gateway.enter(request, body.adapter, key, size)
    cases = await gateway.work(
        request, lambda: without_each(adapter, body.question, body.passages, body.max_tokens), size
    )
    milliseconds = round(1000 * (time.perf_counter() - started), 2)
    facts = {"adapter": adapter.name, "question": body.question}
    return JSONResponse({**facts, "cases": cases, "milliseconds": milliseconds})


def _overrides(body: OverridesBody) -> Overrides:
    return Overrides(tuple(dict.fromkeys(body.drop)), body.relabel)


def _record(answers: Answers, row: int, body: PredictBody) -> dict[str, Any]:
    """The answer to one input as JSON."""
    record = record_of(answers.adapter, answers, row)
    exemplars = answers.retrieved.examples(row)
    if body.neighbours:
        scores = answers.retrieved.scores[row].tolist()
        record["neighbours"] = [
            {"id": e.id, "text": e.text, "label": e.target, "similarity": score}
            for e, score in zip(exemplars, scores, strict=False)
        ]
    if body.attention and answers.attention is not None:
        record["attention"] = answers.attention[row, :, : len(exemplars)].tolist()
    record["tokens"] = answers.tokens[row]
    return record


def _draw(records: list[dict[str, Any]], inputs: list[str]) -> None:
    """Put pictures beside molecules."""
    for record, text in zip(records, inputs, strict=True):
        record["picture"] = drawing(text)
        for neighbour in record.get("neighbours", []):
            neighbour["picture"] = drawing(neighbour["text"])
