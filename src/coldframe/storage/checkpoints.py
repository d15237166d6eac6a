"""What a long piece of work has finished so far, kept in a folder: interrupted it goes on, asked again it is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from coldframe.errors import ArtifactError
from coldframe.storage.files import atomic_path


class CheckpointStore:
    """Named sets of tensors, with plain values beside them, in a folder.

    The folder's name has to say all that they depend on.

    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     CheckpointStore(Path(folder)).save("a", {"x": torch.ones(1)}, step=3)
    ...     CheckpointStore(Path(folder)).load("a"), CheckpointStore(Path(folder)).load("b")
    (({'x': tensor([1.])}, {'step': 3}), ({}, {}))
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, name: str, tensors: dict[str, Tensor], **values: Any) -> None:
        """Write a part that replaces the one before only when it is whole."""
        copies = {key: tensor.detach().cpu().clone().contiguous() for key, tensor in tensors.items()}
        with atomic_path(self.folder / f"{name}.safetensors") as path:
            save_file(copies, path, metadata={"values": json.dumps(values)})

    def load(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and values of a part; two empty dictionaries if there is none.

        Raises:
            ArtifactError: If the file is damaged.
        """
        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            return {}, {}
        try:
            with safe_open(path, framework="pt") as opened:
                values: dict[str, Any] = json.loads(opened.metadata()["values"])
            return load_file(path), values
        except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
            raise ArtifactError(f"{path} is damaged: {error}", fix="Delete it and try again.") from error
