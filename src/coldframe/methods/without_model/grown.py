"""What forests and boosting share: trees, which are saved as tensors."""

from __future__ import annotations

from coldframe.errors import ArtifactError
from coldframe.methods.base import WEIGHTS
from coldframe.methods.config import MethodContext
from coldframe.methods.without_model.learner import Learner
from coldframe.methods.without_model.trees import Trees
from coldframe.storage.artifact import Artifact
from coldframe.storage.tensors import read_tensors, reading


class Grown(Learner):
    """A classifier made of trees."""

    trees: Trees

    def build(self, context: MethodContext) -> None:
        """No tree yet."""
        self.trees = Trees()

    @property
    def trained_parameters(self) -> int:
        """Thresholds of splits and values of leaves."""
        return self.trees.threshold.numel() + self.trees.values.numel()

    def load(self, artifact: Artifact) -> None:
        """The trees of :meth:`save`."""
        path = artifact / WEIGHTS
        with reading(path, fix="Fit again."):
            tensors, _ = read_tensors(path, fix="Fit again.")
            self.trees = Trees(**{name.removeprefix("trees."): tensor for name, tensor in tensors.items()})
            sound = self.trees.is_sound(self.encoder.dim, len(self.ready.schema.labels))
        if not sound:
            raise ArtifactError(f"{path} holds no trees over this encoder's vectors and these labels", fix="Fit again.")
