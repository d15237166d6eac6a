"""One lock for each model: a hook holds for whoever runs the model, so one thread at a time does."""

from __future__ import annotations

from threading import Lock, RLock
from weakref import WeakKeyDictionary

from torch import nn

_LOCKS: WeakKeyDictionary[nn.Module, RLock] = WeakKeyDictionary()
_GUARD = Lock()


def lock_of(model: nn.Module) -> RLock:
    """The lock of a model; a thread that holds it may take it again.

    >>> layer = nn.Linear(2, 2)
    >>> with lock_of(layer), lock_of(layer):
    ...     lock_of(layer) is lock_of(nn.Linear(2, 2))
    False
    """
    with _GUARD:
        return _LOCKS.setdefault(model, RLock())
