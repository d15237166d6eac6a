"""What a molecule is to a task: one spelling, one identity, one scaffold.

SMILES spell the same molecule in many ways, and in some data sets the spelling gives the label away, so tasks
put the canonical spelling before models. Stereoisomers count as the same molecule where a leak is looked for.
"""

from __future__ import annotations

import functools
from typing import Any

from coldframe.errors import DataError, MissingExtraError

MAX_SMILES = 5_000
"""Longest SMILES read, in characters; longer ones are no small molecules."""

_REMEMBERED = 200_000


def is_molecule(smiles: str) -> bool:
    """Whether RDKit can read it.

    >>> is_molecule("CCO"), is_molecule("ethanol")
    (True, False)
    """
    try:
        canonical_smiles(smiles)
    except DataError:
        return False
    return True


@functools.lru_cache(maxsize=_REMEMBERED)
def canonical_smiles(smiles: str) -> str:
    """RDKit's canonical spelling, stereo kept.

    Args:
        smiles: Any valid SMILES, at most ``MAX_SMILES`` characters.

    Raises:
        DataError: If it is empty, too long, or RDKit cannot read it.
        MissingExtraError: If RDKit is not installed.

    Example:
        >>> canonical_smiles("C1=CC=CC=C1O")
        'Oc1ccccc1'
    """
    chem = _rdkit().Chem
    return str(chem.MolToSmiles(parse(smiles)))


@functools.lru_cache(maxsize=_REMEMBERED)
def molecule_key(smiles: str) -> str:
    """The same for all stereoisomers and tautomer spellings: the first block of the InChIKey.

    Molecules that InChI cannot describe (such as those with a ``*`` atom) get their canonical SMILES without
    stereo instead.

    Example:
        >>> molecule_key("C[C@H](N)C(=O)O") == molecule_key("C[CH](N)C(=O)O")
        True
        >>> molecule_key("*C=O")
        '*C=O'
    """
    rdkit, molecule = _rdkit(), parse(smiles)
    with rdkit.rdBase.BlockLogs():
        key = rdkit.Chem.MolToInchiKey(molecule)
    return str(key[:14] or rdkit.Chem.MolToSmiles(molecule, isomericSmiles=False))


@functools.lru_cache(maxsize=_REMEMBERED)
def scaffold(smiles: str) -> str:
    """The Murcko scaffold (rings and what joins them) as SMILES without stereo; empty if there is no ring.

    Paper: Bemis and Murcko, J. Med. Chem. 39 (1996) 2887.

    Example:
        >>> scaffold("CCc1ccccc1O"), scaffold("CCO")
        ('c1ccccc1', '')
    """
    from rdkit.Chem.Scaffolds import MurckoScaffold

    return str(MurckoScaffold.MurckoScaffoldSmiles(mol=parse(smiles)))


def parse(smiles: str) -> Any:
    """The RDKit molecule of a SMILES, or an error that quotes it."""
    rdkit = _rdkit()
    if len(smiles) > MAX_SMILES or len(smiles.split()) != 1:
        raise DataError("Not a SMILES", got=repr(smiles[:80]), expected=f"1 to {MAX_SMILES} characters, no spaces")
    with rdkit.rdBase.BlockLogs():  # RDKit writes its complaints to stderr; ours go into the error
        molecule = rdkit.Chem.MolFromSmiles(smiles)
    if molecule is None or molecule.GetNumAtoms() == 0:
        raise DataError("Not a SMILES that RDKit can read", got=repr(smiles[:80]))
    return molecule


def _rdkit() -> Any:
    try:
        import rdkit
        from rdkit import Chem, rdBase  # noqa: F401  (makes them attributes of the package)
    except ImportError as error:
        raise MissingExtraError("rdkit", "chem", "Reading molecules") from error
    return rdkit
