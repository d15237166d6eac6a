"""Words of data in Markdown: whatever they hold, a reader of Markdown gives them back as words."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from tests.reports.pages import HOSTILE

from coldframe.reports import markdown
from coldframe.reports.blocks import Banner, Bullets, Code, Heading, Mark, Table, Text
from coldframe.storage.card import model_card

READER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
LETTERS = st.characters(codec="utf-8", exclude_categories=["Cc"])  # control characters are a matter of terminals
WORDS = st.text(st.sampled_from("ab1 .)|`*_~<>[]()!&#;:\\-+=\n\"'/") | LETTERS, max_size=30)
NASTY = [
    HOSTILE, "a|b", "a\\|b", "a\\", "`", "a`b``c", "x\n\n# y", "[a](javascript:alert(1))", "![a](http://b/c.png)",
    "&lt;b&gt;", "**b**", "_b_ snake_case", "__0__", "~~b~~", "# a", "- a", "1. a", "12) a", "> a", "---", "=== ",
    "[a]: http://b", "<https://a.b>", "a  \nb", "```\n<script>", "<!-- a", "| a | b |\n|---|---|", "\\`<b>",
]  # fmt: skip


def words_of(text: str) -> str:
    return " ".join(text.split())


def flat(tokens: list[Token]) -> Iterator[Token]:
    for token in tokens:
        yield token
        yield from flat(token.children or [])


def plain(token: Token) -> str:
    """The words of an inline token, which holds nothing but words."""
    kinds = {child.type for child in token.children or []}
    assert kinds <= {"text", "softbreak", "text_special"}, (kinds, token.content)
    return words_of("".join(child.content or " " for child in token.children or []))


def cells(text: str) -> list[list[str]]:
    tokens = READER.parse(text)
    assert [t.type for t in tokens if t.level == 0 and t.nesting >= 0] == ["table_open"], text
    rows: list[list[str]] = []
    for before, token in zip(tokens, tokens[1:], strict=False):
        rows += [[]] if before.type == "tr_open" else []
        if before.type in ("th_open", "td_open"):
            rows[-1].append(plain(token))
    return rows


@pytest.mark.parametrize("word", NASTY)
def test_a_cell_is_one_cell(word: str) -> None:
    table = Table.plain(["name", word or "x"], [[word, "81.0 [70, 80]"], ["b", word]], words=(0, 1))
    own = words_of(word)
    assert cells(markdown.render([table])) == [["name", own], [own, "81.0 [70, 80]"], ["b", own]]


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(WORDS, WORDS)
@example("a\\", "|b")
@example("#", "")
@example("a ##", "# ")
def test_no_text_becomes_markup(word: str, other: str) -> None:
    own = words_of(word)
    table = Table.plain(["a", "b"], [["x" + word, other + "x"]])
    assert cells(markdown.render([table]))[1] == [words_of("x" + word), words_of(other + "x")]
    if not own:
        return
    for block, kind in ((Text((word, other)), "paragraph_open"), (Bullets((word,)), "bullet_list_open")):
        tokens = READER.parse(markdown.render([block]))
        assert tokens[0].type == kind, (tokens[0].type, word)
        (inline,) = [token for token in tokens if token.type == "inline"]
        assert plain(inline) == (words_of(word + other) if kind == "paragraph_open" else own)
    (inline,) = [t for t in READER.parse(markdown.render([Heading("h " + word)])) if t.type == "inline"]
    assert plain(inline) == words_of("h " + word)
    (inline,) = [t for t in READER.parse(markdown.render([Banner("gain", "h" + word)])) if t.type == "inline"]
    assert not {"html_inline", "link_open", "image", "code_inline"} & {t.type for t in flat([inline])}


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(WORDS)
@example("`` a ` b")
def test_code_holds_what_it_is_given(word: str) -> None:
    fence, *others = READER.parse(markdown.render([Code(word)]))
    assert (fence.type, others) == ("fence", []) and fence.content.rstrip("\n") == word.rstrip("\n")
    if own := words_of(word):
        text = markdown.render([Text(("run ", Mark(word, "code"), " now"))])
        (inline,) = [token for token in READER.parse(text) if token.children]
        assert [t.content for t in inline.children or [] if t.type == "code_inline"] == [own]


@pytest.mark.parametrize("word", NASTY)
def test_a_model_card_of_hostile_names(word: str) -> None:
    config = {
        "coldframe_version": "0.1.0",
        "method": "icl",
        "method_config": {"k": 5, "words" + word: word},
        "schema": {
            "name": "mood" + word,
            "kind": "classification",
            "domain": "text",
            "labels": ["bad" + word, "good"],
            "metric": "accuracy",
            "template": {"body": "Text: {text}" + word, "instruction": "Say" + word},
        },
        "task": {"source": {"file": "rows" + word + ".csv"}},
        "base_model": {"name": "tiny" + word, "weight_hash": "ab", "dtype": "x", "source": "hub"},
        "encoder": {"spec": "hf:" + word, "hash": "cd"},
        "store": {"size": 9, "hash": "cd"},
        "history": [{"epoch": 0, "train_loss": 1.0, "best": 1.0}],
        "training": {},
        "retrieval": {},
    }
    _, head, body = model_card(config).split("---\n", 2)
    assert "\n".join(head.splitlines()).count("\n") == 2, "three lines of metadata"
    tokens = READER.parse(body)
    kinds = [token.type for token in flat(tokens)]
    assert not {"html_block", "html_inline", "link_open", "image", "em_open", "s_open"} & set(kinds)
    assert kinds.count("fence") == 1 and kinds.count("table_open") == 3 and kinds.count("heading_open") == 4
    sizes = [sum(t.type in ("th_open", "td_open") for t in row) for row in rows_of(tokens)]
    assert set(sizes) == {2, 3}, "two columns of facts and settings, three of the training"


def rows_of(tokens: list[Token]) -> Iterator[list[Token]]:
    """The tokens of each row of every table."""
    row: list[Token] = []
    for token in tokens:
        row = [] if token.type == "tr_open" else [*row, token]
        if token.type == "tr_close":
            yield row
