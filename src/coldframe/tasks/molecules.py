"""What a molecule is to a task: one spelling, one identity, one scaffold.

SMILES spell the same molecule in many ways, and in some data sets the spelling gives the label away, so tasks
put the canonical spelling before models. Stereoisomers count as the same molecule where a leak is looked for.
"""

from __future__ import annotations

import functools
from typing import Any

from coldframe.errors import DataError, MissingExtraError

MAX_SMILES, MAX_ATOMS = 5_000, 1_000
"""Longest SMILES read, in characters, and largest molecule, in atoms without hydrogen: larger ones are no small
molecules, and take time that grows with the square of their size."""

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
    """RDKit's canonical spelling, stereo kept, the numbers of atoms (``[CH3:1]``) left out.

    It is a fixed point: the canonical spelling of itself.

    Args:
        smiles: Any valid SMILES, at most ``MAX_SMILES`` characters.

    Raises:
        DataError: If it is empty, too long, or RDKit cannot read it.
        MissingExtraError: If RDKit is not installed.

    Example:
        >>> canonical_smiles("C1=CC=CC=C1O")
        'Oc1ccccc1'
    """
    chem, spelling, seen = _rdkit().Chem, smiles, []
    while spelling not in seen:
        seen.append(spelling)
        molecule = parse(spelling)
        for atom in molecule.GetAtoms():
            atom.SetAtomMapNum(0)
        spelling = str(chem.MolToSmiles(molecule))
    # Some spellings change again when they are read again, and some in a circle: the first of the circle is taken.
    return min(seen[seen.index(spelling) :])


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
def parent_key(smiles: str) -> str:
    """The key of the molecule without its salt: of its largest part, uncharged.

    Example:
        >>> parent_key("CC(=O)[O-].[Na+]") == parent_key("CC(=O)O"), parent_key("CN.Cl") == molecule_key("CN")
        (True, True)
    """
    if not any(sign in smiles for sign in ".+-"):  # '-' is a bond, too, which costs time and no more
        return molecule_key(smiles)
    from rdkit.Chem.MolStandardize import rdMolStandardize

    rdkit, molecule = _rdkit(), parse(smiles)
    with rdkit.rdBase.BlockLogs():
        part = rdMolStandardize.LargestFragmentChooser().choose(molecule)
        part = rdMolStandardize.Uncharger().uncharge(part)
        return molecule_key(str(rdkit.Chem.MolToSmiles(part)))


def first_word(text: str) -> str:
    """What stands before the first blank: in files of molecules a name may follow it.

    >>> first_word("CCO ethanol"), first_word("CCO")
    ('CCO', 'CCO')
    """
    return text.split(maxsplit=1)[0] if text.strip() else text


@functools.lru_cache(maxsize=_REMEMBERED)
def scaffold(smiles: str) -> str:
    """The Murcko scaffold (rings and what joins them) as SMILES without stereo; empty if there is no ring.

    Paper: Bemis and Murcko, J. Med. Chem. 39 (1996) 2887.

    Example:
        >>> scaffold("CCc1ccccc1O"), scaffold("CCO")
        ('c1ccccc1', '')
    """
    from rdkit.Chem.Scaffolds import MurckoScaffold

    molecule = parse(smiles)
    if not molecule.GetRingInfo().NumRings():  # long chains take seconds otherwise
        return ""
    return str(MurckoScaffold.MurckoScaffoldSmiles(mol=molecule))


def parse(smiles: str) -> Any:
    """The RDKit molecule of a SMILES, or an error that quotes it."""
    rdkit = _rdkit()
    if not smiles.isascii():  # RDKit stops reading there, and takes what it has
        letter = next(c for c in smiles if not c.isascii())
        raise DataError("Not a SMILES: it has a letter that none can have", got=f"{letter!r} in {smiles[:80]!r}")
    if len(smiles.split()) > 1 and is_molecule(first_word(smiles)):
        fix = "Pass drop_names=True (--drop-names) to read what stands before the first blank."
        raise DataError("A SMILES with something behind it", got=repr(smiles[:80]), expected="a SMILES alone", fix=fix)
    if len(smiles) > MAX_SMILES or len(smiles.split()) != 1:
        raise DataError("Not a SMILES", got=repr(smiles[:80]), expected=f"1 to {MAX_SMILES} characters, no spaces")
    with rdkit.rdBase.BlockLogs():  # RDKit writes its complaints to stderr; ours go into the error
        molecule = rdkit.Chem.MolFromSmiles(smiles)
    if molecule is None or molecule.GetNumAtoms() == 0:
        raise DataError("Not a SMILES that RDKit can read", got=repr(smiles[:80]))
    if (atoms := molecule.GetNumAtoms()) > MAX_ATOMS:
        raise DataError("Not a small molecule", got=f"{atoms:,} atoms", expected=f"at most {MAX_ATOMS:,}")
    return molecule


def _rdkit() -> Any:
    try:
        import rdkit
        from rdkit import Chem, rdBase  # noqa: F401  (makes them attributes of the package)
    except ImportError as error:
        raise MissingExtraError("rdkit", "chem", "Reading molecules") from error
    return rdkit
