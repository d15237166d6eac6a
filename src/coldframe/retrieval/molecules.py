"""Molecules as fingerprints: Morgan bits, Murcko scaffolds, and the encoder made of the bits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coldframe.tasks.molecules import parse
from coldframe.tasks.task import content_hash

RADIUS = 2
BITS = 2048


def morgan_bits(smiles: Sequence[str]) -> NDArray[np.uint8]:
    """Packed Morgan fingerprints, for Tanimoto: uint8 ``[n, 256]``, bit order of ``numpy.packbits``.

    Radius 2, 2048 bits, no chirality (RDKit's ``GetMorganGenerator``). Paper: Rogers and Hahn 2010,
    doi:10.1021/ci100050t.

    Raises:
        DataError: A SMILES cannot be parsed; the message quotes it.

    Example:
        >>> morgan_bits(["CCO", "OCC"]).shape
        (2, 256)
    """
    packed = b"".join(_packed_morgan(text) for text in smiles)
    return np.frombuffer(packed, np.uint8).reshape(len(smiles), BITS // 8)


def scaffold_counts(smiles: str) -> dict[int, int]:
    """Unfolded Morgan counts (radius 2) of the Murcko scaffold; empty for a molecule without a ring.

    Paper: Bemis and Murcko 1996, doi:10.1021/jm9602928; as the retriever of ChemLLMBench, arXiv:2305.18365.

    Example:
        >>> scaffold_counts("CCO")
        {}
        >>> scaffold_counts("Cc1ccccc1") == scaffold_counts("c1ccccc1")
        True
    """
    molecule = parse(smiles)
    from rdkit.Chem.Scaffolds.MurckoScaffold import GetScaffoldForMol

    scaffold = GetScaffoldForMol(molecule)
    if scaffold.GetNumAtoms() == 0:
        return {}
    return dict(_morgan().GetSparseCountFingerprint(scaffold).GetNonzeroElements())


class MorganEncoder:
    """Molecules as their Morgan bits: float32 0/1, 2048 wide (see :func:`morgan_bits`).

    Example:
        >>> vector = MorganEncoder().encode(["CCO"])
        >>> vector.shape, sorted(set(vector.ravel().tolist()))
        ((1, 2048), [0.0, 1.0])
    """

    spec = "morgan"
    dim = BITS
    takes_label_text = False
    hash = content_hash("morgan", str(RADIUS), str(BITS))

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Bits as numbers, ``[n, 2048]``; the same whatever the batch."""
        return np.unpackbits(morgan_bits(texts), axis=1).astype(np.float32)


@lru_cache(maxsize=200_000)
def _packed_morgan(smiles: str) -> bytes:
    molecule = parse(smiles)
    return bytes(np.packbits(_morgan().GetFingerprintAsNumPy(molecule)))


@cache
def _morgan() -> Any:
    """RDKit's maker of Morgan fingerprints, imported when first needed."""
    from rdkit.Chem import rdFingerprintGenerator

    return rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=BITS)
