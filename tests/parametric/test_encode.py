"""A corpus becomes a folder: killed it goes on, grown it trains what is new, and nothing foreign is taken up."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from coldframe.methods.weight_deltas.pair_trainer import PairTrainer
from coldframe.parametric import encode as encode_module
from coldframe.parametric.banks import GeneratedAdapters, RoutedBank
from coldframe.parametric.encode import add_passages, encode
from coldframe.parametric.folder import read_folder
from coldframe.tasks.corpus import QA, Augmentation, Corpus, Passage
from coldframe.tasks.fact_corpus import fact_corpus
from tests.tiny import tiny

from coldframe.errors import ArtifactError, ConfigError, DataError
from coldframe.frozen.model import FrozenLM
from coldframe.methods.weight_deltas.adapters import Layout
from coldframe.methods.weight_deltas.dyprag import DyPRAGConfig, DyTrainer, passage_embeddings
from coldframe.methods.weight_deltas.poly_prag import PolyPRAGConfig, PolyTrainer
from coldframe.methods.weight_deltas.prag import PRAGConfig, train_adapters

FACTS = fact_corpus(7).corpus
PRAG = PRAGConfig(epochs=2, at_once=3)
POLY = PolyPRAGConfig(adapters=3, epochs=3, batch_size=4)


def part(first: int, last: int) -> Corpus:
    passages = FACTS.passages[first:last]
    return dataclasses.replace(FACTS, passages=passages, given={p.id: FACTS.given[p.id] for p in passages})


def adapters(folder: Path, corpus: Corpus) -> torch.Tensor:
    return read_folder(folder)[2].adapters([passage.id for passage in corpus.passages])


@pytest.mark.slow
def test_prag_writes_what_it_trained(lm: FrozenLM, tmp_path: Path) -> None:
    found = encode(FACTS, lm, PRAG, tmp_path / "out", stored="float32", quiet=True)
    assert (found.passages, found.trained, found.failed) == (7, 7, {})
    described, corpus, bank = read_folder(tmp_path / "out")
    assert corpus.hash == FACTS.hash and described.config == PRAG and bank.nbytes == found.nbytes
    layout = Layout.of(lm.anatomy, 2, "mlp")
    alone = [train_adapters(lm, layout, PRAG, [PRAG.prompts.of(lm, p, FACTS.given[p.id])])[0] for p in FACTS.passages]
    apart = (adapters(tmp_path / "out", FACTS) - torch.cat(alone)).abs()
    assert float((apart > 1e-4).float().mean()) < 0.01
    encode(FACTS, lm, PRAG, tmp_path / "half", quiet=True)
    torch.testing.assert_close(
        adapters(tmp_path / "half", FACTS), adapters(tmp_path / "out", FACTS), atol=2e-3, rtol=1e-2
    )


def test_a_killed_prag_does_not_train_again_what_is_finished(
    lm: FrozenLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(len(args[3]))
        return train_adapters(*args, **kwargs)

    monkeypatch.setattr(encode_module, "train_adapters", counted)
    with pytest.raises(KeyboardInterrupt):
        encode(FACTS, lm, PRAG, tmp_path, quiet=True)
    with pytest.raises(ArtifactError, match="it goes on"):
        read_folder(tmp_path)
    (tmp_path / "adapters" / ".tmp-1-x.safetensors").write_bytes(b"half")
    monkeypatch.setattr(encode_module, "train_adapters", train_adapters)
    found = encode(FACTS, lm, PRAG, tmp_path, quiet=True)
    assert trained == [3, 3] and found.trained == 1 and found.passages == 7
    assert encode(FACTS, lm, PRAG, tmp_path, quiet=True).trained == 0


def test_a_corpus_that_changed_trains_what_is_new(lm: FrozenLM, tmp_path: Path) -> None:
    encode(part(0, 5), lm, PRAG, tmp_path, quiet=True)
    before = adapters(tmp_path, part(2, 5))
    found = encode(part(2, 7), lm, dataclasses.replace(PRAG, at_once=1), tmp_path, quiet=True)
    assert (found.passages, found.trained) == (5, 2)
    assert torch.equal(adapters(tmp_path, part(2, 5)), before)
    assert len(list(tmp_path.glob("passages-*.jsonl"))) == 1
    with pytest.raises(DataError, match="no adapter for passage"):
        adapters(tmp_path, part(0, 1))
    # Other questions about a passage make another adapter of it, and of it alone.
    third = FACTS.passages[2].id
    other = dataclasses.replace(FACTS.given[third], qa=FACTS.given[third].qa[::-1])
    changed = dataclasses.replace(part(2, 7), given={**part(2, 7).given, third: other})
    assert encode(changed, lm, PRAG, tmp_path, quiet=True).trained == 1
    assert not torch.equal(adapters(tmp_path, part(2, 3)), before[:1])
    assert torch.equal(adapters(tmp_path, part(3, 5)), before[1:])


def test_other_settings_are_refused(lm: FrozenLM, tmp_path: Path) -> None:
    encode(part(0, 3), lm, PRAG, tmp_path / "prag", quiet=True)
    encode(part(0, 3), lm, POLY, tmp_path / "poly", quiet=True)
    other_model = FrozenLM(*tiny("llama", seed=1))
    for model, corpus, config, folder in (
        (lm, part(0, 3), dataclasses.replace(PRAG, epochs=3), "prag"),
        (other_model, part(0, 3), PRAG, "prag"),
        (lm, part(0, 3), POLY, "prag"),
        (lm, part(0, 4), POLY, "poly"),
        (lm, part(0, 3), dataclasses.replace(POLY, adapters=2), "poly"),
    ):
        with pytest.raises(ArtifactError, match="other settings or other passages"):
            encode(corpus, model, config, tmp_path / folder, quiet=True)
    assert encode(part(0, 3), lm, POLY, tmp_path / "poly", quiet=True).trained == 0


def test_poly_prag_writes_bank_and_table(lm: FrozenLM, tmp_path: Path) -> None:
    found = encode(FACTS, lm, POLY, tmp_path / "a", stored="float32", quiet=True)
    _, _, bank = read_folder(tmp_path / "a")
    assert isinstance(bank, RoutedBank) and found.trained == 7
    config = POLY
    layout = Layout.of(lm.anatomy, 2, "mlp")
    sequences = [config.prompts.of(lm, p, FACTS.given[p.id]) for p in FACTS.passages]
    trained = PolyTrainer(lm, layout, config, sequences).train()
    assert torch.equal(bank.trained.bank, trained.bank) and torch.equal(bank.trained.table, trained.table)
    # bytes as they are counted: S adapters and a row of S numbers for every target and passage
    numbers = 3 * layout.numbers + 7 * 9 * 3
    assert 4 * numbers <= found.nbytes < 4 * numbers + 1000
    assert not (tmp_path / "a" / "training").exists()
    queries = [[FACTS.passages[0].id, FACTS.passages[3].id], [], ["unknown"]]
    a, b = bank.factors(queries, "rows")[0]
    assert a.shape == (3, 2, 32) and not a[1].any() and bool(a[2].any()) and bank.unknown == 1
    weights = bank.weights(queries[0]).mean(0)
    first = layout.factors(bank.trained.bank)[0]
    torch.testing.assert_close(b[0], sum(weights[0, s] * first[1][s] for s in range(3)))
    exact = bank.factors(queries[:1], "mean")[0]
    one, two = (layout.factors(bank.adapters([i]))[0] for i in queries[0])
    torch.testing.assert_close(
        exact[1][0] @ exact[0][0], (one[1][0] @ one[0][0] + two[1][0] @ two[0][0]) / 2, atol=1e-6, rtol=1e-4
    )


def killed_at_the_sixth_step(monkeypatch: pytest.MonkeyPatch, trainer: type[PairTrainer]) -> list[int]:
    """The steps it begins, which are written down as they come."""
    step, done = trainer._step, []

    def stopped(self: PairTrainer, number: int) -> float:
        done.append(number)
        if len(done) == 6:
            raise KeyboardInterrupt
        return step(self, number)

    monkeypatch.setattr(trainer, "_step", stopped)
    return done


def test_a_killed_poly_prag_goes_on(lm: FrozenLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PolyTrainer, "CHECKPOINT_EVERY", 2)
    encode(FACTS, lm, POLY, tmp_path / "whole", quiet=True)
    done = killed_at_the_sixth_step(monkeypatch, PolyTrainer)
    with pytest.raises(KeyboardInterrupt):
        encode(FACTS, lm, POLY, tmp_path / "killed", quiet=True)
    encode(FACTS, lm, POLY, tmp_path / "killed", quiet=True)
    assert done[:8] == [0, 1, 2, 3, 4, 5, 4, 5]
    assert torch.equal(adapters(tmp_path / "killed", FACTS), adapters(tmp_path / "whole", FACTS))


def test_new_passages_get_rows_and_the_old_stay(lm: FrozenLM, tmp_path: Path) -> None:
    encode(part(0, 5), lm, POLY, tmp_path / "poly", quiet=True)
    before = adapters(tmp_path / "poly", part(0, 5))
    assert add_passages(tmp_path / "poly", lm, FACTS, quiet=True) == 2
    assert add_passages(tmp_path / "poly", lm, FACTS, quiet=True) == 0
    assert torch.equal(adapters(tmp_path / "poly", part(0, 5)), before)
    new = adapters(tmp_path / "poly", part(5, 7))
    assert len(list((tmp_path / "poly").glob("bank-*"))) == 1 and not torch.equal(new[0], new[1])
    # The first command once more changes nothing: all its passages are there.
    again = encode(part(0, 5), lm, POLY, tmp_path / "poly", quiet=True)
    assert (again.passages, again.trained) == (7, 0) and torch.equal(adapters(tmp_path / "poly", part(5, 7)), new)
    encode(part(0, 3), lm, PRAG, tmp_path / "prag", quiet=True)
    with pytest.raises(ArtifactError, match="Only Poly-PRAG and DyPRAG"):
        add_passages(tmp_path / "prag", lm, FACTS, quiet=True)


def test_a_new_row_starts_as_no_other_and_learns_or_is_refused(lm: FrozenLM, tmp_path: Path) -> None:
    sequences = [POLY.sequences_of(lm, p, FACTS.given[p.id]) for p in FACTS.passages]
    layout = Layout.of(lm.anatomy, POLY.rank, POLY.targets)
    whole = PolyTrainer(lm, layout, POLY, sequences)
    later = PolyTrainer(lm, layout, POLY, sequences[5:], bank=whole.bank.detach(), first=5)
    assert torch.equal(later.rows.values, whole.rows.values[5:])
    encode(part(0, 3), lm, dataclasses.replace(POLY, router_learning_rate=0.0), tmp_path / "fixed", quiet=True)
    with pytest.raises(ConfigError, match="do not learn"):
        add_passages(tmp_path / "fixed", lm, FACTS, quiet=True)


def test_added_passages_that_cannot_be_used_are_told_or_left_out(lm: FrozenLM, tmp_path: Path) -> None:
    encode(part(0, 3), lm, POLY, tmp_path / "poly", quiet=True)
    bare = Passage.of("nothing is asked", row=9)
    more = dataclasses.replace(FACTS, passages=(bare, *FACTS.passages[:4]))
    with pytest.raises(DataError, match="row 9 has no augmentation"):
        add_passages(tmp_path / "poly", lm, more, quiet=True)
    assert add_passages(tmp_path / "poly", lm, more, on_error="skip", quiet=True) == 1
    assert read_folder(tmp_path / "poly")[1].by_id.keys() == {p.id for p in FACTS.passages[:4]}


@pytest.mark.slow
def test_a_killed_addition_goes_on(lm: FrozenLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PolyTrainer, "CHECKPOINT_EVERY", 2)
    for name in ("whole", "killed"):
        encode(part(0, 2), lm, POLY, tmp_path / name, quiet=True)
    add_passages(tmp_path / "whole", lm, FACTS, quiet=True)
    done = killed_at_the_sixth_step(monkeypatch, PolyTrainer)
    with pytest.raises(KeyboardInterrupt):
        add_passages(tmp_path / "killed", lm, FACTS, quiet=True)
    add_passages(tmp_path / "killed", lm, FACTS, quiet=True)
    assert done[:8] == [0, 1, 2, 3, 4, 5, 4, 5]
    assert torch.equal(adapters(tmp_path / "killed", FACTS), adapters(tmp_path / "whole", FACTS))


def test_blanks_around_a_passage_are_none_of_it(lm: FrozenLM, tmp_path: Path) -> None:
    passage = Passage.of(" Ada lives in Rome.\n", "Ada ")
    made = Augmentation("In Rome. ", (QA(" Where does Ada live?", "Rome\n"),) * 3)
    encode(Corpus("c", (passage,), {passage.id: made}), lm, PRAG, tmp_path / "out", quiet=True)
    assert [one.id for one in read_folder(tmp_path / "out")[1].passages] == [passage.id]


def test_unusable_passages_are_told_or_listed(lm: FrozenLM, tmp_path: Path) -> None:
    bare, long = Passage.of("nothing is asked", row=9), Passage.of("word " * 300, "Long", row=10)
    given = {**FACTS.given, long.id: FACTS.given[FACTS.passages[0].id]}
    corpus = dataclasses.replace(FACTS, passages=(*FACTS.passages[:2], bare), given=given)
    config = dataclasses.replace(PRAG, form="published", epochs=1)
    with pytest.raises(DataError, match="row 9 has no augmentation"):
        encode(corpus, lm, config, tmp_path / "a", quiet=True)
    corpus = dataclasses.replace(corpus, passages=(*corpus.passages, long))
    found = encode(corpus, lm, config, tmp_path / "a", on_error="skip", quiet=True)
    assert found.passages == 2 and set(found.failed) == {bare.id, long.id}
    assert json.loads((tmp_path / "a" / "encoded.json").read_text())["failed"] == found.failed
    with pytest.raises(DataError, match="No passage can be encoded"):
        encode(dataclasses.replace(corpus, passages=(bare,)), lm, config, tmp_path / "b", on_error="skip", quiet=True)


def test_damage_is_told(lm: FrozenLM, tmp_path: Path) -> None:
    encode(part(0, 3), lm, PRAG, tmp_path / "prag", quiet=True)
    encode(part(0, 3), lm, POLY, tmp_path / "poly", quiet=True)
    (bank,) = (tmp_path / "poly").glob("bank-*")
    bank.write_bytes(bank.read_bytes()[:-8])
    with pytest.raises(ArtifactError, match="not the file that was saved"):
        read_folder(tmp_path / "poly")
    (shard,) = (tmp_path / "prag" / "adapters").glob("*")
    shard.write_bytes(b"nothing")
    with pytest.raises(ArtifactError, match="is damaged"):
        read_folder(tmp_path / "prag")
    shard.unlink()
    with pytest.raises(ArtifactError, match="lacks 3 adapters"):
        read_folder(tmp_path / "prag")
    assert encode(part(0, 3), lm, PRAG, tmp_path / "prag", quiet=True).trained == 3
    config = tmp_path / "prag" / "encoded.json"
    config.write_text(config.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(ArtifactError, match="newer coldframe"):
        read_folder(tmp_path / "prag")
    config.write_text("{")
    with pytest.raises(ArtifactError, match="is damaged"):
        read_folder(tmp_path / "prag")
    with pytest.raises(ArtifactError, match="holds no encoded corpus"):
        read_folder(tmp_path / "nowhere")


DY = DyPRAGConfig(teacher_epochs=2, epochs=2, batch_size=4, width=4)


@pytest.mark.slow
def test_dyprag_writes_network_and_embeddings(lm: FrozenLM, tmp_path: Path) -> None:
    config = dataclasses.replace(DY, train_passages=5)
    found = encode(FACTS, lm, config, tmp_path, stored="float32", quiet=True)
    assert (found.passages, found.trained) == (7, 5)
    described, corpus, bank = read_folder(tmp_path)
    assert isinstance(bank, GeneratedAdapters) and described.config == config
    assert len(corpus) == 7 and len(corpus.given) == 5  # of the others nothing is asked
    embeddings = passage_embeddings(lm, FACTS.passages)
    torch.testing.assert_close(bank.embeddings([p.id for p in FACTS.passages]), embeddings)
    layout = Layout.of(lm.anatomy, 2, "mlp")
    sequences = [DY.prompts.of(lm, p, FACTS.given[p.id]) for p in FACTS.passages[:5]]
    # One after the other, so that the order of a batch does not count.
    groups = [[sequences[i]] for i in range(5)]
    targets = torch.cat([train_adapters(lm, layout, DY.teacher, group)[0] for group in groups])
    trainer = DyTrainer(lm, layout, config, sequences, embeddings[:5], lambda rows: targets[list(rows)])
    wanted = trainer.train().network(embeddings).detach()
    torch.testing.assert_close(adapters(tmp_path, FACTS), wanted, atol=1e-4, rtol=1e-2)
    # bytes as they are counted: both nets of every target, and an embedding for each passage
    numbers = 2 * 9 * 4 * 33 + layout.numbers * 4 + 7 * 32
    assert 4 * numbers <= found.nbytes < 4 * numbers + 1000
    assert not (tmp_path / "training").exists()
    assert encode(FACTS, lm, config, tmp_path, stored="float32", quiet=True).trained == 0


def test_dyprag_takes_up_what_prag_has_trained(lm: FrozenLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode(part(0, 4), lm, DY.teacher, tmp_path, quiet=True)
    before = adapters(tmp_path, part(0, 4))
    with pytest.raises(ArtifactError, match="other settings or other passages"):
        encode(part(0, 4), lm, dataclasses.replace(DY, teacher_epochs=3), tmp_path, quiet=True)
    assert torch.equal(adapters(tmp_path, part(0, 4)), before)
    trained: list[int] = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        trained.append(len(args[3]))
        return train_adapters(*args, **kwargs)

    monkeypatch.setattr(encode_module, "train_adapters", counted)
    encode(FACTS, lm, DY, tmp_path, quiet=True)
    assert trained == [3] and read_folder(tmp_path)[0].method == "dyprag"
    assert not torch.equal(adapters(tmp_path, part(0, 4)), before)
    with pytest.raises(ArtifactError, match="other settings or other passages"):
        encode(FACTS, lm, DY.teacher, tmp_path, quiet=True)


@pytest.mark.slow
def test_a_killed_dyprag_goes_on(lm: FrozenLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DyTrainer, "CHECKPOINT_EVERY", 2)
    encode(FACTS, lm, DY, tmp_path / "whole", quiet=True)
    done = killed_at_the_sixth_step(monkeypatch, DyTrainer)
    with pytest.raises(KeyboardInterrupt):
        encode(FACTS, lm, DY, tmp_path / "killed", quiet=True)
    with pytest.raises(ArtifactError, match="it goes on"):
        read_folder(tmp_path / "killed")
    encode(FACTS, lm, DY, tmp_path / "killed", quiet=True)
    assert done[:8] == [0, 1, 2, 3, 4, 5, 4, 5] and done[-1] == 11
    assert torch.equal(adapters(tmp_path / "killed", FACTS), adapters(tmp_path / "whole", FACTS))


def test_dyprag_adds_passages_without_training(lm: FrozenLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode(part(0, 5), lm, DY, tmp_path, stored="float32", quiet=True)
    before = adapters(tmp_path, part(0, 5))
    monkeypatch.setattr(torch.Tensor, "backward", None)
    bare = dataclasses.replace(FACTS, given={})
    assert add_passages(tmp_path, lm, bare, quiet=True) == 2
    assert add_passages(tmp_path, lm, bare, quiet=True) == 0
    assert torch.equal(adapters(tmp_path, part(0, 5)), before)
    (embeddings,) = tmp_path.glob("embeddings-*")
    _, corpus, bank = read_folder(tmp_path)
    assert isinstance(bank, GeneratedAdapters) and len(corpus) == 7
    with torch.no_grad():
        wanted = bank.network(passage_embeddings(lm, FACTS.passages[5:]))
    new = adapters(tmp_path, part(5, 7))
    torch.testing.assert_close(new, wanted)
    assert not torch.equal(new[0], new[1])
    with pytest.raises(DataError, match="no embedding of passage 'nobody'"):
        bank.adapters(["nobody"])
    with pytest.raises(ConfigError, match="DyPRAG has no routing"):
        bank.adapters([FACTS.passages[0].id], "uniform")
    # The file says how many there are.
    embeddings.write_bytes(embeddings.read_bytes()[:-8])
    with pytest.raises(ArtifactError, match="not the file that was saved"):
        read_folder(tmp_path)


def test_a_grown_corpus_with_the_same_training_passages_is_only_embedded(lm: FrozenLM, tmp_path: Path) -> None:
    config = dataclasses.replace(DY, train_passages=3)
    assert encode(part(0, 5), lm, config, tmp_path, stored="float32", quiet=True).trained == 3
    before = adapters(tmp_path, part(0, 5))
    found = encode(FACTS, lm, config, tmp_path, stored="float32", quiet=True)
    assert (found.passages, found.trained) == (7, 0)
    torch.testing.assert_close(adapters(tmp_path, part(0, 5)), before)
    with pytest.raises(ArtifactError, match="other settings or other passages"):
        encode(part(1, 7), lm, config, tmp_path, stored="float32", quiet=True)


def test_dyprag_tells_or_lists_unusable_passages(lm: FrozenLM, tmp_path: Path) -> None:
    bare, long = Passage.of("nothing is asked", row=9), Passage.of("word " * 300, "Long", row=10)
    corpus = dataclasses.replace(FACTS, passages=(*FACTS.passages[:3], bare, long))
    with pytest.raises(DataError, match="row 9 has no augmentation"):
        encode(corpus, lm, DY, tmp_path / "a", quiet=True)
    config = dataclasses.replace(DY, train_passages=3)
    with pytest.raises(DataError, match="longer than the model's context .row 10"):
        encode(corpus, lm, config, tmp_path / "a", quiet=True)
    found = encode(corpus, lm, config, tmp_path / "a", on_error="skip", quiet=True)
    assert (found.passages, found.trained) == (4, 3) and set(found.failed) == {long.id}
