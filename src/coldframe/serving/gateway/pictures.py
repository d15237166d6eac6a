"""Molecules as pictures, where RDKit is there."""

from __future__ import annotations

from coldframe.errors import MissingExtraError
from coldframe.reports.pictures import molecule


def drawing(smiles: str) -> str | None:
    """A ``data:`` address of an SVG picture; None if it cannot be drawn."""
    try:
        picture = molecule(smiles, 220, 150)
    except MissingExtraError:
        return None
    return None if picture is None else picture.uri
