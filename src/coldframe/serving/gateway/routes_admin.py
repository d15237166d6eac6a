"""Routes that change what is served, for the administrator; and what there is, for everybody who may use it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from coldframe.pipeline.pipeline import Pipeline
from coldframe.serving.gateway.adapters import Adapter
from coldframe.serving.gateway.bodies import (
    REFUSALS,
    AdapterFacts,
    AdapterList,
    ExemplarsBody,
    Id,
    LabelsBody,
    PathBody,
    Stored,
    StoredList,
)
from coldframe.serving.gateway.logs import event
from coldframe.serving.gateway.routes_openai import usable
from coldframe.serving.gateway.routes_predict import Key, TheGateway
from coldframe.serving.gateway.state import Gateway, administrator
from coldframe.serving.gateway.store_edits import NewExemplar, added, relabelled, removed

routes = APIRouter(prefix="/v1/adapters", tags=["adapters"], responses=REFUSALS)
_admin = [Depends(administrator)]


@routes.get("")
async def adapters(gateway: TheGateway, key: Key) -> AdapterList:
    """What there is to know of the adapters that a key may use."""
    facts = [gateway.adapters.get(name).facts for name in usable(gateway, key)]
    return AdapterList(adapters=[AdapterFacts(**values) for values in facts])


@routes.put("/{name}", dependencies=_admin)
async def put(name: str, body: PathBody, gateway: TheGateway) -> AdapterFacts:
    """Add an adapter, or replace the one of that name; traffic goes on."""
    adapter = await asyncio.to_thread(gateway.adapters.load, name, body.path, while_running=True)
    event("adapter added" if adapter.version == 1 else "adapter replaced", adapter=name, version=adapter.version)
    return AdapterFacts(**adapter.facts)


@routes.delete("/{name}", dependencies=_admin, status_code=204)
async def delete(name: str, gateway: TheGateway) -> Response:
    """Take an adapter away; requests under way are answered."""
    await asyncio.to_thread(gateway.adapters.remove, name)
    gateway.metrics.forget(name)
    event("adapter removed", adapter=name)
    return Response(status_code=204)


@routes.get("/{name}/exemplars", dependencies=_admin)
async def exemplars(
    name: str,
    gateway: TheGateway,
    offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> StoredList:
    """A part of an adapter's store, in the order of the ids."""
    entries = gateway.adapters.get(name).pipeline.store.examples
    page = [Stored(id=entry.id, text=entry.text, label=entry.target) for entry in entries[offset : offset + limit]]
    return StoredList(exemplars=page, total=len(entries))


@routes.post("/{name}/exemplars", dependencies=_admin)
async def add(name: str, body: ExemplarsBody, gateway: TheGateway) -> AdapterFacts:
    """Add exemplars to a store; nothing is trained, and what is asked from now on may retrieve them."""
    new = [NewExemplar(exemplar.text, exemplar.label, exemplar.id) for exemplar in body.exemplars]
    return await _change(gateway, name, lambda adapter: added(adapter, new), body.save, "exemplars added")


@routes.patch("/{name}/exemplars", dependencies=_admin)
async def relabel(name: str, body: LabelsBody, gateway: TheGateway) -> AdapterFacts:
    """Give exemplars of a store other labels."""
    labels = body.labels
    return await _change(gateway, name, lambda adapter: relabelled(adapter, labels), body.save, "exemplars relabelled")


@routes.delete("/{name}/exemplars", dependencies=_admin)
async def remove(
    name: str,
    gateway: TheGateway,
    id: Annotated[list[Id], Query(min_length=1, max_length=1000, description="Once for each exemplar.")],
    save: Annotated[bool, Query(description="Whether the adapter's folder is written anew.")] = False,
) -> AdapterFacts:
    """Take exemplars out of a store."""
    return await _change(gateway, name, lambda adapter: removed(adapter, id), save, "exemplars removed")


async def _change(
    gateway: Gateway, name: str, change: Callable[[Adapter], Pipeline], save: bool, what: str
) -> AdapterFacts:
    def work() -> Adapter:
        adapter = gateway.adapters.change(name, change)
        if save:
            adapter.pipeline.save_pretrained(adapter.path)
        return adapter

    adapter = await asyncio.to_thread(work)
    event(what, adapter=name, version=adapter.version, exemplars=len(adapter.pipeline.store), saved=save)
    return AdapterFacts(**adapter.facts)
