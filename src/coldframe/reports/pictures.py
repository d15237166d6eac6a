"""Molecules as pictures inside a page."""

from __future__ import annotations

import base64
from functools import lru_cache
from typing import Any

from coldframe.errors import MissingExtraError
from coldframe.reports.blocks import Picture

#: A longer string is shown as text: drawing it would take long and show little.
MAX_SMILES = 400


@lru_cache(maxsize=1024)
def molecule(smiles: str, width: int, height: int) -> Picture | None:
    """A molecule as an SVG with a clear background (needs RDKit); None if it cannot be drawn."""
    try:
        from rdkit import Chem, rdBase
        from rdkit.Chem.Draw import rdMolDraw2D
    except ImportError as error:
        raise MissingExtraError("rdkit", "chem", "Drawing molecules") from error
    if len(smiles) > MAX_SMILES:
        return None
    with rdBase.BlockLogs():
        graph = Chem.MolFromSmiles(smiles)
    if graph is None or not graph.GetNumAtoms():
        return None
    canvas = rdMolDraw2D.MolDraw2DSVG(width, height)
    options: Any = canvas.drawOptions()  # its stubs have the wrong types
    options.clearBackground = False
    options.padding = 0.06
    options.bondLineWidth = 1.4
    rdMolDraw2D.PrepareAndDrawMolecule(canvas, graph)
    canvas.FinishDrawing()
    code = base64.b64encode(canvas.GetDrawingText().encode()).decode()
    return Picture(f"data:image/svg+xml;base64,{code}", smiles, width, height)
