"""One spelling, one identity, one scaffold."""

from __future__ import annotations

import builtins

import pytest

from coldframe.errors import DataError, MissingExtraError
from coldframe.tasks import molecules
from coldframe.tasks.molecules import canonical_smiles, is_molecule, molecule_key, scaffold


def test_spelling_carries_nothing() -> None:
    pytest.importorskip("rdkit")
    for kekule, aromatic in (("C1=CC=CC=C1O", "Oc1ccccc1"), ("C1=CN=CN1", "c1c[nH]cn1")):
        assert canonical_smiles(kekule) == canonical_smiles(aromatic)
        assert molecule_key(kekule) == molecule_key(aromatic)


def test_stereo_is_in_the_spelling_but_not_in_the_key() -> None:
    pytest.importorskip("rdkit")
    left, right = "C[C@H](N)C(=O)O", "C[CH](N)C(=O)O"
    assert canonical_smiles(left) != canonical_smiles(right)
    assert molecule_key(left) == molecule_key(right) != molecule_key("CCC(N)C(=O)O")


def test_scaffold_is_rings_and_what_joins_them() -> None:
    pytest.importorskip("rdkit")
    assert scaffold("CCc1ccc(CCc2ccncc2)cc1") == canonical_smiles("c1ccc(CCc2ccncc2)cc1")
    assert scaffold("CCO") == ""


@pytest.mark.parametrize("bad", ["", "ethanol", "C(", "CCO CCO", "C" * 6_000, "c1ccccc"])
def test_bad_smiles_are_told_and_rdkit_stays_silent(bad: str, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rdkit")
    with pytest.raises(DataError, match="SMILES"):
        canonical_smiles(bad)
    assert not is_molecule(bad)
    assert capfd.readouterr().err == ""


def test_rdkits_log_is_as_before(capfd: pytest.CaptureFixture[str]) -> None:
    chem = pytest.importorskip("rdkit.Chem")
    is_molecule("C(")
    chem.MolFromSmiles("C(")
    assert "Parse Error" in capfd.readouterr().err


def test_without_rdkit_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name.split(".")[0] == "rdkit":
            raise ImportError(name)
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    molecules.canonical_smiles.cache_clear()
    with pytest.raises(MissingExtraError, match=r"coldframe\[chem\]"):
        canonical_smiles("CCO")
