"""Against RDKit's own Tanimoto and against loops written from the definitions."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator
from rdkit.Chem.Scaffolds import MurckoScaffold

from coldframe.errors import DataError
from coldframe.retrieval.exact import ExactTanimoto
from coldframe.retrieval.molecules import morgan_bits, scaffold_counts
from coldframe.retrieval.similarity import Sets, morgan_sets, scaffold_sets, unit
from coldframe.tasks.molecules import parse

SMILES = [
    "CCO", "CCN", "CC(=O)O", "c1ccccc1", "Cc1ccccc1", "CC(=O)Nc1ccc(O)cc1", "CC(=O)Oc1ccccc1C(=O)O",
    "CN1C=NC2=C1C(=O)N(C(=O)N2C)C", "C1CCCCC1", "C1CCNCC1", "OC1CCCCC1", "c1ccc2ccccc2c1", "CC(C)Cc1ccc(cc1)C(C)C(=O)O",
    "C[C@H](N)C(=O)O", "C[CH](N)C(=O)O", "O=C1CN=C(c2ccccc2)c2cc(Cl)ccc2N1", "[Na+].[Cl-]", "C", "O",
]  # fmt: skip
COUNTS = st.dictionaries(st.integers(0, 2**32 - 1), st.integers(1, 6), max_size=8)


def all_pairs(sets: Sets) -> np.ndarray:
    n = len(sets)
    return ExactTanimoto(sets).score(sets, np.tile(np.arange(n), (n, 1)))


def test_tanimoto_is_rdkits() -> None:
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    prints = [generator.GetFingerprint(Chem.MolFromSmiles(s)) for s in SMILES]
    expected = [DataStructs.BulkTanimotoSimilarity(p, prints) for p in prints]
    np.testing.assert_allclose(all_pairs(morgan_sets(SMILES)), expected, atol=1e-7)


def test_scaffold_tanimoto_is_rdkits_on_counts() -> None:
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2)
    scaffolds = [MurckoScaffold.GetScaffoldForMol(Chem.MolFromSmiles(s)) for s in SMILES]
    prints = [generator.GetSparseCountFingerprint(mol) for mol in scaffolds]
    expected = np.array([DataStructs.BulkTanimotoSimilarity(p, prints) for p in prints])
    np.testing.assert_allclose(all_pairs(scaffold_sets(SMILES)), expected, atol=1e-7)


def test_a_molecule_without_a_ring_has_no_scaffold_and_is_like_none() -> None:
    assert scaffold_counts("CCO") == {}
    assert all_pairs(scaffold_sets(["CCO", "CCO"])).tolist() == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(rows=st.lists(COUNTS, min_size=1, max_size=5))
def test_counts_as_sets_give_the_min_max_ratio(rows: list[dict[int, int]]) -> None:
    similarities = all_pairs(Sets.of_counts(rows))
    for i, a in enumerate(rows):
        for j, b in enumerate(rows):
            smaller = sum(min(a.get(f, 0), b.get(f, 0)) for f in {*a, *b})
            larger = sum(max(a.get(f, 0), b.get(f, 0)) for f in {*a, *b})
            assert similarities[i, j] == pytest.approx(smaller / larger if larger else 0.0, abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(0, 30), density=st.floats(0, 0.2))
def test_bits_survive_the_way_through_sets(seed: int, n: int, density: float) -> None:
    bits = np.random.default_rng(seed).random((n, 2048)) < density
    packed = np.packbits(bits, axis=1)
    sets = Sets.of_bits(packed)
    assert (sets.packed() == packed).all()
    assert sets.sizes.tolist() == bits.sum(axis=1).tolist()
    assert all(sets[i].tolist() == np.flatnonzero(bits[i]).tolist() for i in range(n))


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_inverted_lists_give_the_definition_with_many_members(seed: int) -> None:
    """More than 64 distinct members, so that both the word and the lists are counted."""
    rng = np.random.default_rng(seed)
    sets = Sets.of([np.sort(rng.choice(300, rng.integers(0, 60), replace=False)) for _ in range(40)])
    members = [set(sets[i].tolist()) for i in range(40)]
    expected = [[len(a & b) / len(a | b) if a | b else 0.0 for b in members] for a in members]
    np.testing.assert_allclose(all_pairs(sets), expected, atol=1e-7)


def test_members_that_the_store_never_saw_count_in_the_union() -> None:
    index = ExactTanimoto(Sets.of([np.array([1, 2])]))
    _, scores = index.search(Sets.of([np.array([0, 1, 2, 999])]), 1)
    assert scores.tolist() == [[0.5]]


def test_unit_vectors_have_length_one_even_where_float32_squares_would_vanish() -> None:
    rows = unit(np.array([[3e-30, 4e-30], [3e20, 4e20], [0, 0]], np.float32))
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0.6, 0.8], [0, 0]], rtol=1e-6)


def test_stereo_is_not_seen() -> None:
    left, right = morgan_bits(["C[C@H](N)C(=O)O", "C[CH](N)C(=O)O"])
    assert (left == right).all()


@pytest.mark.parametrize("smiles", ["C1CC", "", "  ", "not a molecule", "C" * 20_000])
def test_a_smiles_that_cannot_be_read_is_quoted(smiles: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError) as caught:
        parse(smiles)
    assert repr(smiles)[1:10].strip("'") in str(caught.value)
    assert len(str(caught.value)) < 500
    assert capfd.readouterr().err == ""  # RDKit's own complaint is not printed as well


def test_real_molecules_against_rdkit(shared_data: Path) -> None:
    with gzip.open(shared_data / "b3db" / "b3db.jsonl.gz", "rt") as file:
        smiles = [json.loads(line)["smiles"] for line in file][::40]
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    prints = [generator.GetFingerprint(Chem.MolFromSmiles(s)) for s in smiles]
    sets = morgan_sets(smiles)
    indices, scores = ExactTanimoto(sets).search(sets, 5, [np.array([i]) for i in range(len(smiles))])
    for i, fingerprint in enumerate(prints):
        similar = np.float32(DataStructs.BulkTanimotoSimilarity(fingerprint, prints))
        order = [j for j in np.lexsort((np.arange(len(prints)), -similar)).tolist() if j != i][:5]
        assert indices[i].tolist() == order
        np.testing.assert_allclose(scores[i], similar[order], atol=1e-7)
