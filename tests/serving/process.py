"""A gateway over the tiny model: ``python -m tests.serving.process SETTINGS NAME=DIR ...``."""

from __future__ import annotations

import json
import sys

from tests.contract.cases import tiny_encoder
from tests.serving.gateways import model

import coldframe.pipeline.setup
import coldframe.retrieval.retriever
from coldframe.serving.gateway.server import serve
from coldframe.serving.gateway.settings import GatewaySettings


def tiny_encoders() -> None:
    """The spec ``tiny`` is an encoder in this process."""
    for module in (coldframe.pipeline.setup, coldframe.retrieval.retriever):
        module.load_encoder = tiny_encoder  # type: ignore[attr-defined]


def main() -> None:
    tiny_encoders()
    settings = GatewaySettings.from_dict({"port": 0, **json.loads(sys.argv[1])})
    pairs = [word.split("=", 1) for word in sys.argv[2:]]
    serve([(name, folder) for name, folder in pairs], settings, load_model=lambda base: model())


if __name__ == "__main__":
    main()
