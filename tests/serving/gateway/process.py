"""A gateway over the tiny model: ``python -m tests.serving.gateway.process SETTINGS NAME=DIR ...``."""

from __future__ import annotations

import json
import sys

from tests.serving.gateway.support import model, tiny_encoders

from coldframe.serving.gateway.server import serve
from coldframe.serving.gateway.settings import GatewaySettings


def main() -> None:
    settings = GatewaySettings.from_dict({"port": 0, **json.loads(sys.argv[1])})
    pairs = [word.split("=", 1) for word in sys.argv[2:]]
    with tiny_encoders():
        serve([(name, folder) for name, folder in pairs], settings, load_model=lambda base: model())


if __name__ == "__main__":
    main()
