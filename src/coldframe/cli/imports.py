"""What a command imports before it can use a model: most of the time that it takes to start."""

from __future__ import annotations

import gc
import sys

_NOT_NEEDED = ("scipy", "sklearn")


def import_models() -> None:
    """Import torch and transformers, a fifth faster than by themselves.

    Where scipy and scikit-learn are there, transformers imports them for models that detect objects and for a way of
    decoding; so they look absent meanwhile. And no garbage is collected among the many new objects, all of which stay.

    Cost: about 4 s of a core; more than half of the time of ``coldframe predict`` with a small model.
    """
    hidden = [name for name in _NOT_NEEDED if name not in sys.modules]
    collects = gc.isenabled()
    gc.disable()
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: an import fails
    try:
        import transformers.modeling_utils  # noqa: F401
    finally:
        for name in hidden:
            del sys.modules[name]
        gc.freeze()
        if collects:
            gc.enable()
