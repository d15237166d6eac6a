"""Molecules as pictures inside a page."""

from __future__ import annotations

import base64
from functools import lru_cache
from typing import Any

from coldframe.errors import MissingExtraError

#: A longer string is shown as text: drawing it would take long and show little.
MAX_SMILES = 400


@lru_cache(maxsize=1024)
def molecule_uri(smiles: str, width: int, height: int) -> str | None:
    """A molecule as a ``data:`` URI of an SVG with a clear background; None if it cannot be drawn.

    Raises:
        MissingExtraError: RDKit is not installed.
    """
    try:
        from rdkit import Chem, rdBase
        from rdkit.Chem.Draw import rdMolDraw2D
    except ImportError as error:
        raise MissingExtraError("rdkit", "chem", "Drawing molecules") from error
    if len(smiles) > MAX_SMILES:
        return None
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles)
    if molecule is None or not molecule.GetNumAtoms():
        return None
    canvas = rdMolDraw2D.MolDraw2DSVG(width, height)
    options: Any = canvas.drawOptions()  # its stubs have the wrong types
    options.clearBackground = False
    options.padding = 0.06
    options.bondLineWidth = 1.4
    rdMolDraw2D.PrepareAndDrawMolecule(canvas, molecule)
    canvas.FinishDrawing()
    return "data:image/svg+xml;base64," + base64.b64encode(canvas.GetDrawingText().encode()).decode()
