"""One spelling, one identity, one scaffold."""

from __future__ import annotations

import builtins

import pytest

from coldframe.errors import DataError, MissingExtraError
from coldframe.tasks import molecules
from coldframe.tasks.molecules import canonical_smiles, is_molecule, molecule_key, parent_key, scaffold


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


@pytest.mark.parametrize("bad", ["", "ethanol", "C(", "CCO CCO", "C" * 6_000, "c1ccccc", "C\U0001f600", "C\u200bC"])
def test_bad_smiles_are_told_and_rdkit_stays_silent(bad: str, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rdkit")
    with pytest.raises(DataError, match="SMILES"):
        canonical_smiles(bad)
    assert not is_molecule(bad)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "smiles",
    [
        "O=C(C[C@]1(c2ccccc2)C2CC3CC1CC(C2)[C@@H]3O)N",
        "O[C@@H]1C[N@]2CC[C@@H]1CC2",
        "O[C@H]1CC2CCC(C1)[N@@]2C",
        "[CH3:1][OH:2]",
        "C1=CC=CC=C1O",
    ],
)
def test_the_canonical_spelling_is_its_own(smiles: str) -> None:
    pytest.importorskip("rdkit")
    canonical = canonical_smiles(smiles)
    assert canonical_smiles(canonical) == canonical and molecule_key(canonical) == molecule_key(smiles)


def test_spellings_that_go_in_a_circle_end_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    chem = pytest.importorskip("rdkit.Chem")
    following = {"CCO": "OCC", "OCC": "C(O)C", "C(O)C": "OCC"}
    monkeypatch.setattr(chem, "MolToSmiles", str)
    spell = canonical_smiles.__wrapped__
    monkeypatch.setattr(molecules, "parse", lambda smiles: Spelled(following[smiles]))
    assert {spell(smiles) for smiles in following} == {"C(O)C"}


class Spelled(str):
    """A molecule that is nothing but its next spelling."""

    def GetAtoms(self) -> tuple[()]:
        return ()


def test_numbers_of_atoms_are_left_out() -> None:
    pytest.importorskip("rdkit")
    assert canonical_smiles("[CH3:1][OH:2]") == "CO"


def test_large_molecules_are_refused_at_once() -> None:
    pytest.importorskip("rdkit")
    for smiles in ("C" * 4_999, "C" * 1_001):
        with pytest.raises(DataError, match="Not a small molecule. Got: .* atoms. Expected: at most 1,000"):
            scaffold(smiles)
    assert scaffold("C" * 999) == ""


def test_salts_and_charges_have_the_parent_s_key() -> None:
    pytest.importorskip("rdkit")
    for smiles, parent in (("CC(=O)[O-].[Na+]", "CC(=O)O"), ("C[NH3+].[Cl-]", "CN"), ("CN.Cl", "CN"), ("CCO", "CCO")):
        assert parent_key(smiles) == molecule_key(parent)
    assert molecule_key("CC(=O)[O-].[Na+]") != molecule_key("CC(=O)O")


def test_a_name_behind_a_smiles_is_told_with_the_remedy() -> None:
    pytest.importorskip("rdkit")
    with pytest.raises(DataError, match=r"something behind it. Got: 'CCO ethanol'.*--drop-names"):
        canonical_smiles("CCO ethanol")


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
