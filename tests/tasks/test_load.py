"""The user's own data: what is inferred is said, what is wrong is told."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from coldframe.errors import ConfigError, DataError, LeakError
from coldframe.tasks import TaskConfig, class_balance, load_task

NOUNS = ("apple", "chair", "river", "stone", "cloud", "lamp", "horse", "train", "paper", "glass")


def write(path: Path, rows: list[tuple[str, ...]], *header: str) -> Path:
    path.write_text("\n".join(",".join(row) for row in (header, *rows)) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def moods(tmp_path: Path) -> Path:
    """60 sentences of three classes."""
    rows = [(f"the {NOUNS[i % 10]} number {i}", ("bad", "fine", "good")[i % 3]) for i in range(60)]
    return write(tmp_path / "moods.csv", rows, "sentence", "mood")


@pytest.fixture
def alcohols(tmp_path: Path) -> Path:
    """60 molecules with six ring systems; the label is whether there is a hydroxyl group."""
    pytest.importorskip("rdkit")
    rings = ("C1=CC=CC=C1", "c1ccncc1", "C1CCCCC1", "c1ccc2ccccc2c1", "C1CCNCC1", "c1ccsc1")
    rows = [("C" * (i // 12 + 1) + ("C(O)" if i % 2 else "C") + rings[i // 2 % 6], str(i % 2)) for i in range(60)]
    return write(tmp_path / "alcohols.csv", rows, "smiles", "active")


def test_everything_is_inferred_and_said(moods: Path) -> None:
    task = load_task(moods)
    assert task.schema.labels == task.schema.words == ("bad", "fine", "good")
    assert (task.schema.name, task.schema.kind, task.schema.domain) == ("moods", "classification", "text")
    assert (task.schema.metric, task.schema.positive) == ("accuracy", None)
    assert task.schema.template.query("x") == "Sentence: x\nMood:"
    assert (len(task.train), len(task.validation), len(task.test)) == (40, 8, 12)
    notes = "\n".join(task.notes)
    for said in ("Took column 'sentence' as the input", "Took column 'mood' as the label", "3 classes", "stratified"):
        assert said in notes
    assert task.source["file"] == "moods.csv" and len(task.source["sha256"]) == 64
    assert class_balance(task.test) == {"bad": 4, "fine": 4, "good": 4}


def test_the_same_seed_gives_the_same_task(moods: Path) -> None:
    assert load_task(moods, seed=1) == load_task(moods, seed=1) != load_task(moods, seed=2)


def test_molecules_are_canonical_and_split_by_scaffold(alcohols: Path) -> None:
    from coldframe.tasks.molecules import canonical_smiles, scaffold

    task = load_task(alcohols)
    assert task.schema.domain == "molecules"
    assert (task.schema.labels, task.schema.words, task.schema.positive) == (("0", "1"), ("No", "Yes"), "1")
    assert task.schema.metric == "effective_accuracy"
    parts = [{scaffold(e.text) for e in part} for part in (task.train, task.validation, task.test)]
    assert all(parts) and not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
    assert all(canonical_smiles(e.text) == e.text for e in task.train)
    raw = load_task(alcohols, raw_smiles=True)
    assert raw.schema.raw_smiles
    assert any("C1=CC=CC=C1" in e.text for e in (*raw.train, *raw.validation, *raw.test))
    assert [e.key for e in raw.test] == [e.key for e in task.test]


def test_flags_of_the_command_line(alcohols: Path) -> None:
    task = load_task(
        alcohols, text="smiles", label="active", positive="0", template="Molecule: {text}\\nInert: {label}",
        instruction="", words={"0": "inert"}, metric="mcc", split="random", test_size=10, validation_size=5,
    )  # fmt: skip
    assert (task.schema.labels, task.schema.words, task.schema.positive) == (("1", "0"), ("No", "inert"), "0")
    assert task.schema.template.header + task.schema.template.query("C") == "Molecule: C\nInert:"
    assert (len(task.train), len(task.validation), len(task.test)) == (45, 5, 10)


def test_config_travels_through_yaml(moods: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "task.yaml"
    recipe.write_text(f"data: {moods}\ntest_size: 15\nseed: 3\n")
    config = TaskConfig.from_file(recipe)
    assert load_task(config) == load_task(moods, test_size=15, seed=3)
    assert TaskConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_jsonl_with_lists_is_generation(tmp_path: Path) -> None:
    path = tmp_path / "qa.jsonl"
    path.write_text("".join(json.dumps({"question": f"q{i}", "answer": [f"a{i}", f"b{i}"]}) + "\n" for i in range(20)))
    task = load_task(path)
    assert (task.schema.kind, task.schema.metric, task.schema.labels) == ("generation", "token_f1", ())
    assert all(e.references == (e.target.replace("a", "b"),) for e in task.train)
    assert any("random" in note for note in task.notes)


def test_several_columns_make_one_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [(f"t{i}", f"b{i}", "xy"[i % 2]) for i in range(20)], "title", "body", "label")
    task = load_task(path, text="title,body")
    assert re.fullmatch(r"t(\d+)\nBody: b\1", task.train[0].text)
    assert task.schema.template.query(task.train[0].text).startswith("Title: t")


def test_given_split_by_column_and_by_file(tmp_path: Path) -> None:
    rows = [(f"row {i}", "ab"[i % 2], ("train", "train", "train", "dev", "test")[i % 5]) for i in range(40)]
    task = load_task(write(tmp_path / "a.csv", rows, "text", "label", "split"))
    assert (len(task.train), len(task.validation), len(task.test)) == (24, 8, 8)
    train = write(tmp_path / "train.csv", [r[:2] for r in rows if r[2] == "train"], "text", "label")
    test = write(tmp_path / "test.csv", [r[:2] for r in rows if r[2] == "test"], "text", "label")
    task = load_task(train, test=test)
    assert (len(task.train), len(task.validation), len(task.test)) == (20, 4, 8)
    assert {e.text for e in task.validation} < {r[0] for r in rows if r[2] == "train"}
    assert task.source["test_file"] == "test.csv"


def test_duplicates_are_never_parted(tmp_path: Path) -> None:
    rows = [(f"{'The' if i % 2 else 'the'}  row {i // 2}", "ab"[i // 2 % 2]) for i in range(40)]
    for split in ("random", "stratified"):
        task = load_task(write(tmp_path / "a.csv", rows, "text", "label"), split=split)
        keys = [{e.key for e in part} for part in (task.train, task.validation, task.test)]
        assert not (keys[0] & keys[1] or keys[0] & keys[2] or keys[1] & keys[2])
    assert any("20 row(s) repeat" in note for note in task.notes)


def test_leaks_in_a_given_split(tmp_path: Path) -> None:
    rows = [(f"row {i}", "ab"[i % 2]) for i in range(20)]
    train, test = write(tmp_path / "a.csv", rows, "text", "label"), write(tmp_path / "b.csv", rows[:3], "text", "label")
    with pytest.raises(LeakError, match="of 3 test rows are also in train"):
        load_task(train, test=test)
    assert any(note.startswith("LEAK") for note in load_task(train, test=test, allow_leaks=True).notes)


def test_max_train(moods: Path) -> None:
    task = load_task(moods, max_train=30)
    assert len(task.train) + len(task.validation) == 30 and len(task.test) == 12


BAD = {
    "text": ("empty text", "row 4: the text is empty", ("", "good")),
    "nan": ("NaN text", "row 4: the text is empty", ("NaN", "good")),
    "label": ("empty label", "row 4: the label is empty", ("a text", "")),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_rows_are_told_or_skipped_and_counted(tmp_path: Path, name: str) -> None:
    rows: list[tuple[str, ...]] = [(f"row {i}", ("bad", "good")[i % 2]) for i in range(20)]
    rows[2] = BAD[name][2]
    path = write(tmp_path / "a.csv", rows, "text", "label")
    with pytest.raises(DataError, match=BAD[name][1]):
        load_task(path)
    task = load_task(path, on_error="skip")
    assert len(task.train) + len(task.validation) + len(task.test) == 19
    assert any("Skipped 1 unusable row(s)" in note and BAD[name][1] in note for note in task.notes)


def test_bad_smiles_are_told_with_the_row(alcohols: Path) -> None:
    text = alcohols.read_text().splitlines()
    text[7] = "C1CC,1"
    alcohols.write_text("\n".join(text))
    with pytest.raises(DataError, match=r"alcohols.csv, row 8: Not a SMILES that RDKit can read. Got: 'C1CC'"):
        load_task(alcohols)
    assert any("Skipped 1" in note for note in load_task(alcohols, on_error="skip").notes)


def test_missing_columns_name_the_ones_there_are(moods: Path) -> None:
    with pytest.raises(DataError, match=r"no column 'smiles'. Expected: one of sentence, mood"):
        load_task(moods, text="smiles")
    with pytest.raises(DataError, match="no column 'active'"):
        load_task(moods, label="active")


def test_a_label_that_cannot_be_guessed_is_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [("x", "1", "2")] * 4, "text", "one", "two")
    with pytest.raises(DataError, match="Got: one, two.*label="):
        load_task(path)


def test_a_label_unseen_in_training(tmp_path: Path) -> None:
    train = write(tmp_path / "a.csv", [(f"row {i}", "ab"[i % 2]) for i in range(20)], "text", "label")
    test = write(tmp_path / "b.csv", [("new 1", "a"), ("new 2", "c")], "text", "label")
    with pytest.raises(DataError, match=r"Row 3 .*a label that no training row has. Got: c. Expected: a, b"):
        load_task(train, test=test)
    assert len(load_task(train, test=test, on_error="skip").test) == 1


def test_one_class_only(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [(f"row {i}", "a") for i in range(20)], "text", "label")
    with pytest.raises(DataError, match="one label. Got: a"):
        load_task(path)


def test_equal_rows_with_opposite_labels(tmp_path: Path) -> None:
    rows = [(f"row {i}", "ab"[i % 2]) for i in range(20)]
    path = write(tmp_path / "a.csv", [*rows, ("row 0", "b")], "text", "label")
    with pytest.raises(DataError, match=r"different labels: rows 2 \(a\), 22 \(b\)"):
        load_task(path)
    task = load_task(path, on_error="skip")
    assert len(task.train) + len(task.validation) + len(task.test) == 19


def test_deduplicate_keeps_the_shortest_and_drops_conflicts(tmp_path: Path) -> None:
    pytest.importorskip("rdkit")
    rows = [("C" * n + "O", str(n % 2)) for n in range(2, 22)]
    rows += [("C[C@H](N)C(=O)O", "1"), ("CC(N)C(=O)O", "1"), ("N[CH](CO)C(=O)O", "0"), ("NC(CO)C(=O)O", "1")]
    task = load_task(write(tmp_path / "a.csv", rows, "smiles", "label"), deduplicate=True, split="random")
    kept = [e.text for e in (*task.train, *task.validation, *task.test)]
    assert len(kept) == 21 and "CC(N)C(=O)O" in kept
    assert any("Dropped 1 row(s)" in note for note in task.notes)
    assert any("Dropped 1 input(s) that occur with different labels" in note for note in task.notes)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"spilt": "random"}, ConfigError, "Did you mean 'split'"),
        ({"split": "scaffold"}, ConfigError, "needs molecules"),
        ({"split": "given"}, ConfigError, "test='FILE'"),
        ({"test_size": 1.5}, ConfigError, "test_size is out of range"),
        ({"test_size": 60}, DataError, "held-out part"),
        ({"metric": "token_f1"}, ConfigError, "Unknown metric"),
        ({"positive": "goood"}, ConfigError, "Did you mean 'good'"),
        ({"words": {"godo": "x"}}, ConfigError, "Did you mean 'good'"),
        ({"words": {"good": "bad"}}, ConfigError, "word of its own"),
        ({"template": "no field"}, ConfigError, "{text}"),
        ({"on_error": "ignore"}, ConfigError, "choices"),
    ],
)
def test_bad_options_are_told(moods: Path, options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_task(moods, **options)


def test_unknown_names_are_told() -> None:
    with pytest.raises(DataError, match="Did you mean 'b3db'"):
        load_task("b3bd")
    with pytest.raises(ConfigError, match="brings its own text"):
        load_task("b3db", text="smiles")


def test_an_index_column_does_not_hide_the_label(tmp_path: Path) -> None:
    rows = [(str(i), "ab"[i % 2], f"row {i}") for i in range(20)]
    assert load_task(write(tmp_path / "a.csv", rows, "", "spam", "text")).schema.labels == ("a", "b")


def test_validation_is_as_new_as_a_given_scaffold_test(alcohols: Path, tmp_path: Path) -> None:
    from coldframe.tasks.molecules import scaffold

    whole = load_task(alcohols)
    lines = [(e.text, e.target, "train") for e in (*whole.train, *whole.validation)]
    lines += [(e.text, e.target, "test") for e in whole.test]
    task = load_task(write(tmp_path / "a.csv", lines, "smiles", "active", "split"))
    assert not {scaffold(e.text) for e in task.train} & {scaffold(e.text) for e in task.validation}
    assert any("cut from train; split: scaffold" in note for note in task.notes)


def test_hub_data_set_with_its_own_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    import huggingface_hub

    files = {"default/train/0000.parquet": 12, "default/train/0001.parquet": 8, "default/test/0000.parquet": 4}
    for path, n in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        table = {"text": [f"{path} {i}" for i in range(n)], "label": [i % 2 for i in range(n)]}
        parquet.write_table(pyarrow.table(table), tmp_path / path)

    class Hub:
        def dataset_info(self, name: str, revision: str) -> object:
            return type("Info", (), {"sha": "abc"})

        def list_repo_files(self, name: str, repo_type: str, revision: str) -> list[str]:
            return [*files, "README.md"]

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda _, path, **__: str(tmp_path / path))
    task = load_task("owner/name")
    assert (len(task.train) + len(task.validation), len(task.test)) == (20, 4)
    assert len({e.id for e in (*task.train, *task.validation)}) == 20
    assert task.source == {"hub": "owner/name", "revision": "abc"}
    with pytest.raises(DataError, match="no configuration 'other'"):
        load_task("owner/name:other")


def test_a_hub_id_without_network_is_told() -> None:
    with pytest.raises(DataError, match=r"Cannot get 'nobody/nothing' from the Hugging Face hub"):
        load_task("nobody/nothing")
