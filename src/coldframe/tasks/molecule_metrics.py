"""How like a written molecule is to the right one: validity, identity, similarity of three fingerprints."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from coldframe.errors import DataError, MissingExtraError


@lru_cache(maxsize=4096)  # three fingerprints and two yes-or-no scores read the same molecules
def _molecule(smiles: str) -> Any | None:
    """The molecule of a SMILES; None for one that RDKit refuses, or without atoms."""
    try:
        from rdkit import Chem, rdBase
    except ImportError as error:
        raise MissingExtraError("rdkit", "chem", "Scores of written molecules") from error
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles.strip())
    return molecule if molecule is not None and molecule.GetNumAtoms() else None


def _pair(prediction: str, answer: str) -> tuple[Any | None, Any]:
    """The written and the right molecule."""
    right = _molecule(answer)
    if right is None:
        raise DataError("A reference is not a SMILES", got=repr(answer[:80]))
    return _molecule(prediction), right


def valid(prediction: str, answer: str) -> float:
    """1 if what was written is a molecule, whichever.

    >>> valid("OCC", "CCO"), valid("C1CC", "CCO")
    (1.0, 0.0)
    """
    return float(_pair(prediction, answer)[0] is not None)


def same_molecule(prediction: str, answer: str) -> float:
    """1 if both are one molecule, stereo included, however they are spelled.

    >>> same_molecule("OCC", "CCO"), same_molecule("CCN", "CCO")
    (1.0, 0.0)
    """
    from rdkit import Chem

    written, right = _pair(prediction, answer)
    return float(written is not None and Chem.MolToSmiles(written) == Chem.MolToSmiles(right))


def similarity(kind: str) -> Callable[[str, str], float]:
    """Tanimoto similarity of two molecules' fingerprints; 0 for a prediction that is no molecule.

    Args:
        kind: ``maccs`` (166 keys), ``rdk`` (RDKit's paths, 2,048 bits) or ``morgan`` (counts of radius 2).

    >>> similarity("maccs")("OCC", "CCO")
    1.0
    """

    def score(prediction: str, answer: str) -> float:
        from rdkit.DataStructs import TanimotoSimilarity

        written, right = _pair(prediction, answer)
        fingerprint = _fingerprint(kind)
        return 0.0 if written is None else float(TanimotoSimilarity(fingerprint(written), fingerprint(right)))

    return score


def _fingerprint(kind: str) -> Callable[[Any], Any]:
    from rdkit.Chem import RDKFingerprint, rdFingerprintGenerator, rdMolDescriptors

    if kind == "morgan":
        counts: Callable[[Any], Any] = rdFingerprintGenerator.GetMorganGenerator(radius=2).GetSparseCountFingerprint
        return counts
    return {"maccs": rdMolDescriptors.GetMACCSKeysFingerprint, "rdk": RDKFingerprint}[kind]
