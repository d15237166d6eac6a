"""What methods read of retrieved entries: a vector for each, made once however often it was retrieved, and labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from coldframe.retrieval.store import Retrieved
from coldframe.tasks.task import Example, Passage, Schema


def gathered(
    retrieved: Retrieved, vectors_of: Callable[[Sequence[Example]], Tensor], width: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Vectors of what was retrieved, ``[n, k, width]``, and which are present, ``[n, k]``.

    Args:
        retrieved: What was retrieved for n queries.
        vectors_of: ``[entries, width]`` of different entries, on the device.
        width: Of a vector.
        device: Where both go.
    """
    store, present = retrieved.store, torch.from_numpy(retrieved.indices >= 0).to(device)
    used = np.unique(retrieved.indices[retrieved.indices >= 0])
    if not len(used):
        return torch.zeros(*present.shape, width, device=device), present
    vectors = vectors_of([store.examples[i] for i in used])
    # Its gradient adds up repeated rows in one order; vectors[rows] (CPU) and index_select (GPU) in any.
    rows = torch.from_numpy(np.searchsorted(used, retrieved.indices.clip(min=used[0]))).to(device)
    return nn.functional.embedding(rows, vectors), present


def one_hot_labels(schema: Schema, entries: Sequence[Example]) -> Tensor:
    """``[entries, labels]``: 1 at an entry's label; a passage has none, and all its places are zero.

    >>> from coldframe.tasks.task import Passage
    >>> schema = Schema("mood", labels=("bad", "good"), words=("bad", "good"))
    >>> one_hot_labels(schema, [Example("Fine.", "good", "1", "1"), Passage.of("It rains.")]).tolist()
    [[0.0, 1.0], [0.0, 0.0]]
    """
    labels = torch.tensor([-1 if isinstance(entry, Passage) else schema.index(entry.target) for entry in entries])
    return (labels[:, None] == torch.arange(len(schema.labels))).float()
