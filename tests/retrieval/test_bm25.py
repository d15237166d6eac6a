"""BM25: words, scripts without blanks, and queries that share nothing with the store."""

from __future__ import annotations

import numpy as np
import pytest

from coldframe.retrieval.bm25 import BM25
from coldframe.retrieval.retriever import RetrievalConfig, Retriever
from coldframe.retrieval.store import Store
from coldframe.tasks.task import Example

TICKETS = {
    "chinese": ["我的银行卡还没有到账请帮我查询", "如何修改登录密码和手机号码", "转账失败但是钱已经被扣除了"],
    "japanese": [
        "カードがまだ届いていません",
        "パスワードを変更するにはどうすればいいですか",
        "送金に失敗しましたがお金は引かれました",
    ],
    "thai": ["บัตรของฉันยังมาไม่ถึง", "ฉันจะเปลี่ยนรหัสผ่านได้อย่างไร", "โอนเงินล้มเหลวแต่เงินถูกหักไปแล้ว"],
}


def example(text: str) -> Example:
    return Example(text, "A", id=text, key=text)


@pytest.mark.parametrize("script", TICKETS)
@pytest.mark.parametrize("place", range(3))
def test_a_part_of_a_text_without_blanks_finds_the_text(script: str, place: int) -> None:
    text = TICKETS[script][place]
    index = BM25(TICKETS[script])
    for query in (text[: 3 * len(text) // 4], text[len(text) // 4 :]):
        indices, scores = index.search([query], 1)
        assert indices.tolist() == [[place]] and scores[0, 0] > 0


def test_scripts_may_be_mixed_and_single_characters_are_words() -> None:
    index = BM25(["订单 ABC-12 已发货", "a cat", "猫"])
    assert index.search(["where is abc"], 1)[0].tolist() == [[0]]
    assert index.search(["cat"], 1)[0].tolist() == [[1]]
    assert index.search(["猫"], 1)[0].tolist() == [[2]]


def test_entries_that_share_no_word_are_not_retrieved() -> None:
    indices, scores = BM25(["the cat", "a dog", "the dog"]).search(["the bird", "nothing here", ""], 2)
    assert indices.tolist() == [[0, 2], [-1, -1], [-1, -1]]
    assert scores[1:].tolist() == [[0, 0], [0, 0]] and (scores[0] > 0).all()
    assert BM25(["the cat", "a dog"]).score(["the bird"], np.array([[0, 1, -1]]))[0, 1:].tolist() == [0, 0]


def test_how_many_queries_share_no_word_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    store = Store.of([example("the cat"), example("a dog")])
    tool = Retriever(store, "text", 1, RetrievalConfig(similarity="bm25"))
    retrieved = tool.retrieve([example("the bird"), example("nothing"), example("zilch")], exclude_same_key=False)
    assert (retrieved.indices[:, 0] >= 0).tolist() == [True, False, False]
    assert "2 of 3 queries share no word with the store: nothing is retrieved for them" in capsys.readouterr().err
    tool.retrieve([example("the bird")], exclude_same_key=False)
    assert "share no word" not in capsys.readouterr().err
