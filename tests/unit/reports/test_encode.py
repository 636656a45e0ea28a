"""What strangers may write and what is left of it at each boundary."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt  # comes with rich
from markdown_it.token import Token

import vlsb
from vlsb.records import Untrusted
from vlsb.reports.encode import csv_document, for_csv, for_json, for_markdown, for_terminal, from_csv

FRAGMENTS = [
    *("\x1b", "\x1b[", "\x1b]", "\x1bP", "\x1bX", "\x1b^", "\x1b_", "\x1b\\", "\x1b(B", "\x1bc"),
    *("\x9b", "\x9d", "\x90", "\x98", "\x9e", "\x9f", "\x9c", "\x07", "\x18", "\x1a", "\x00", "\x7f"),
    *("31m", "52;c;aGk=", "8;;http://x.y", "0;title", "?25l", "2J", ";", "A", "[", "]"),
    *("\u202a", "\u202e", "\u2066", "\u2069", "\u200e", "\u200f", "\u061c", "\u2028", "\ufeff", "\u200b"),
    *("\u200d", "\ud800", "\udfff", "\U000e0041", "\U000e0000", "\ue000", "\u0378", "\xad", "\u3000"),
    *("\n", "\r", "\t", " ", "\x0b", "\x85", "text", "naïve", "図", "e\u0301"),
    *("=", "+", "-", "@", "'", '"', ",", "=cmd()", "|", "\\", "`", "``", "*", "_", "#", "!", "&", "<", ">"),
    *(
        "[x](http://e.vil)",
        "![i](//e.vil)",
        "<b>",
        "<!--",
        "-->",
        "&amp;",
        "&#64;",
        "http://",
        "https://e.vil",
    ),
    *(
        "www.",
        "www.e.vil",
        "a@b.co",
        "@name",
        "#12",
        "~~x~~",
        "mailto:",
        "1. ",
        "- ",
        ":smile:",
        "$x$",
        "]: ",
    ),
]
hostile = st.one_of(
    st.text(st.characters()),
    st.text(st.characters(categories=["Cs", "Cc", "Cf", "Co", "Zl", "Zp", "Zs"])),
    st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join),
)


@given(hostile)
def test_terminal_text_is_one_printable_line(text: str) -> None:
    shown = for_terminal(Untrusted(text))

    assert shown.isprintable()
    assert "  " not in shown
    assert shown.encode("utf-8").decode("utf-8") == shown


@given(hostile)
def test_terminal_lines_keep_only_newlines_and_tabs_beside_printable_text(text: str) -> None:
    shown = for_terminal(Untrusted(text), lines=True)

    assert shown.replace("\n", "").replace("\t", "").isprintable()
    shown.encode("utf-8")


@given(hostile)
def test_cleaning_twice_changes_nothing(text: str) -> None:
    once = for_terminal(Untrusted(text))

    assert for_terminal(Untrusted(once)) == once


@given(st.text(st.characters(categories=["L", "N", "P", "S"])))
def test_ordinary_text_reaches_the_terminal_as_it_is(text: str) -> None:
    assert for_terminal(Untrusted(text)) == text
    assert for_terminal(Untrusted(text), lines=True) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mred\x1b[0mb", "aredb"),
        ("a\x9b1;31mb", "ab"),
        ("a\x1b]52;c;aGVsbG8=\x07b", "ab"),
        ("a\x1b]52;c;aGVsbG8=\x1b\\b", "ab"),
        ("a\x9d0;title\x9cb", "ab"),
        ("a\x1b]0;ti\ntle\x07b", "ab"),
        ("a\x1bPq#0\x1b\\b", "ab"),
        ("a\x1bXsos\x1b\\b\x1b^pm\x1b\\c\x1b_apc\x1b\\d", "abcd"),
        ("a\x1b]8;;http://e.vil\x1b\\link\x1b]8;;\x1b\\", "alink"),
        ("a\x1b]52;c;never ended", "a"),
        ("a\x1b[31", "a"),
        ("a\x1b", "a"),
        ("a\x1bcb\x1b(Bc", "abc"),
        ("a\x9dnever ended\nb", "a b"),
        ("a\rb\r\nc\td", "a b c d"),
        ("user\u202egnp.exe", "usergnp.exe"),
        ("a\u200b\u200d\ufeffb\U000e0041\U000e0000", "ab"),
        ("a\ud800b", "a\ufffdb"),
        ("[red]x[/red] :smile:", "[red]x[/red] :smile:"),
    ],
)
def test_whole_sequences_go_and_the_text_around_them_stays(text: str, shown: str) -> None:
    assert for_terminal(Untrusted(text)) == shown


def test_lines_survive_where_lines_are_asked_for() -> None:
    assert for_terminal(Untrusted("a\r\n\tb\u2028c"), lines=True) == "a\n\tb c"


@pytest.mark.parametrize("opening", ["\x1b]", "\x9d\n", "\x1b[", "\x1bP;", "\x9b0"])
def test_a_megabyte_of_openings_is_cleaned_in_linear_time(opening: str) -> None:
    assert len(for_terminal(Untrusted(opening * 500_000))) <= 1


@given(hostile)
def test_no_csv_cell_starts_like_a_formula_in_any_disguise(text: str) -> None:
    cell = for_csv(Untrusted(text))

    assert cell.isprintable()
    assert not re.match(r"[\s\"`]*[=+\-@]", unicodedata.normalize("NFKC", cell))


@pytest.mark.parametrize(
    "text",
    ["=cmd()", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "\x00x", "  =x", '"=x', "'=x", "\u200b=x", "\x1b[0m=x"],
)
def test_a_formula_is_disarmed_with_an_apostrophe(text: str) -> None:
    assert for_csv(Untrusted(text)).startswith("'")


@given(hostile)
def test_no_part_of_a_csv_cell_is_a_formula_where_a_locale_splits_at_another_sign(text: str) -> None:
    for part in re.split("[,;|\u060c\u061b\u3001\uff0c\uff1b]", for_csv(Untrusted(text))):
        assert not re.match(r"[\s\"`]*[=+\-@]", unicodedata.normalize("NFKC", part))


@pytest.mark.parametrize("text", ["a;=1+1;b", 'a;"=1+1', "a,  @SUM(A1)", "a|+1", "a\uff1b\uff1d1", ";=1"])
def test_a_formula_behind_a_separator_is_disarmed_where_it_stands(text: str) -> None:
    assert for_csv(Untrusted(text)).replace("'", "") == text.replace("  ", " ")
    assert re.search("[,;|\uff1b]'", for_csv(Untrusted(text)))


@pytest.mark.parametrize("text", ["one, two; three", "a;b=c", "https://x.y/?a=1;b=2", "3 - 2", "well-known"])
def test_a_separator_before_a_word_changes_nothing(text: str) -> None:
    assert for_csv(Untrusted(text)) == text


@given(hostile)
def test_a_csv_cell_survives_the_writer_and_a_reader(text: str) -> None:
    sheet = csv_document([[Untrusted(text), 1, None, True, 0.5, "word"]])

    assert next(csv.reader(io.StringIO(sheet))) == [for_csv(Untrusted(text)), "1", "", "true", "0.5", "word"]


@given(st.text("a;,|=+-@'\"` ", max_size=12))
def test_what_goes_out_in_a_csv_comes_back_as_it_was(text: str) -> None:
    line = for_terminal(Untrusted(text))

    assert from_csv(for_csv(Untrusted(text))) == line


def test_texts_of_a_csv_are_quoted_and_numbers_are_bare() -> None:
    assert csv_document([["head", "n"], [Untrusted("a;=1+1"), 2.5]]) == '"head","n"\r\n"a;\'=1+1",2.5\r\n'


def test_every_csv_is_written_by_the_one_writer() -> None:
    files = Path(vlsb.__file__).parent.rglob("*.py")
    writers = [path.name for path in files if re.search(r"csv\.(writer|DictWriter)|QUOTE_", path.read_text())]

    assert writers == ["encode.py"]


def leaves(tokens: list[Token]) -> list[Token]:
    return [leaf for each in tokens for leaf in (leaves(each.children) if each.children else [each])]


def literal(text: str) -> str:
    """The text a Markdown reader should see: no more than the terminal shows."""
    return for_terminal(Untrusted(text)).strip()


@given(hostile)
def test_a_markdown_cell_renders_as_its_literal_text(text: str) -> None:
    cell = for_markdown(Untrusted(text))
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])

    tokens = parser.parse(f"| a | b |\n| - | - |\n| {cell} | end |\n")

    inlines = [each for each in tokens if each.type == "inline"]
    assert len(inlines) == 4
    assert {each.type for each in leaves(inlines[2].children or [])} <= {"text", "text_special"}
    assert "".join(each.content for each in leaves(inlines[2].children or [])).replace(
        "\u200b", ""
    ) == literal(text)


@given(hostile)
def test_a_markdown_list_item_holds_one_paragraph_of_literal_text(text: str) -> None:
    tokens = MarkdownIt("commonmark", {"html": True}).parse(f"- x\n- {for_markdown(Untrusted(text))}\n- y\n")

    blocks = {each.type.removesuffix("_open").removesuffix("_close") for each in tokens}
    assert blocks <= {"bullet_list", "list_item", "paragraph", "inline"}
    assert sum(each.type == "list_item_open" for each in tokens) == 3


@given(hostile)
def test_no_address_or_mention_is_left_for_a_linker(text: str) -> None:
    rendered = html.unescape(for_markdown(Untrusted(text)).replace("\\", ""))

    assert not re.search(r"://|www\.|@\w|#\d|mailto:[\w]|:[a-z]+:", rendered, re.IGNORECASE)


@given(hostile)
def test_json_gives_back_what_was_stored(text: str) -> None:
    written = json.dumps([for_json(Untrusted(text))])

    assert written.isascii()
    assert json.loads(written) == json.loads(json.dumps([text]))
