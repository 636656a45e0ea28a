"""The encoders of untrusted text, one for each boundary: terminal, CSV, Markdown, LaTeX, JSON, page.

rich does not strip escape sequences, whatever its markup settings say, and a backslash does not stop
GitHub from linking a name: each encoder handles what its reader would act on.
"""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

from vlsb.records import Untrusted

Encode = Callable[[Untrusted], str]
"""An encoder of this module: what stands in a text of ours for a stranger's."""

CsvCell = Untrusted | str | bool | int | float | None
"""A cell of a CSV: a `str` is a word of ours, or was encoded before."""

REPLACEMENT = "\ufffd"

# String sequences end at ST or BEL wherever that is. One without an end is dropped to the end of its
# line: a terminal would swallow more, but a stray C1 byte in damaged text must not hide all that follows.
# The classes exclude what opens a sequence, which keeps the search linear.
_SEQUENCE = re.compile(
    r"""
    (?: \x1b[PX^_\]] | [\x90\x98\x9d\x9e\x9f] )            # DCS, SOS, PM, APC, OSC
        (?: [^\x07\x18\x1a\x1b\x90\x98\x9c-\x9f]*+ (?: \x07 | \x9c | \x1b\\ )
          | [^\x07\x18\x1a\x1b\x90\x98\x9c-\x9f\n]*+ )
  | (?: \x1b\[ | \x9b ) [0-?]*+ [\ -/]*+ [@-~]?            # CSI
  | \x1b [\ -/]*+ [0-~]?                                   # every other escape, and a lone ESC
    """,
    re.VERBOSE,
)
_SPACES = re.compile(r"\s+")

# Spreadsheets look behind leading blanks and quotes; some read the full-width signs as formulas too.
_FORMULA = re.compile("[\\s\"'`]*[=+\\-@\uff1d\uff0b\uff0d\uff20]|[\\s\"'`]*?[\\t\\r\\x00]")
# Where the list separator of a locale is another one than the comma, a quoted cell is split at it too, unless
# it is the first of its line: so every place behind a separator may begin a cell.
_SEPARATOR = "(?<=[,;|\u060c\u061b\u3001\uff0c\uff1b])"
_OPENS_FORMULA = "(?=[\\s\"'`]*[=+\\-@\uff1d\uff0b\uff0d\uff20])"
_INNER_FORMULA = re.compile(_SEPARATOR + _OPENS_FORMULA)
_GUARD = re.compile(f"(?:^|{_SEPARATOR})'{_OPENS_FORMULA}")

_MARKDOWN_SIGNS = re.compile(r"[\\`*_\[\]<>|!&#~$]")
# What stands before the sign that opens a list item; it matters where the text is one itself.
_MARKDOWN_LIST = re.compile(r"^(\s*(?=[-+=](?:[\s=-]|$)|[0-9]+[.)](?:\s|$))[0-9]*)")
# Links and mentions are found in the rendered text, where a backslash is gone: only a character between
# the parts stops them. This entity shows nothing.
_BREAK = "&#8203;"
_MARKDOWN_LINK = re.compile(
    r"(?<=:)(?=//|[\w+-]+:)|(?<=@)|(?<=\\#)|(?i:(?<=www)(?=\.)|(?<=mailto:)|(?<=xmpp:))"
)
_LATEX_SIGNS = {sign: f"\\{sign}" for sign in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # Languages of babel make commands of the first; after ? and ! the other is a Spanish sign.
    '"': r"\char34{}",
    "`": r"\textasciigrave{}",
    # pdfLaTeX has no such sign.
    REPLACEMENT: "?",
}
# Side by side they are set as one sign: a dash, a quote.
_LATEX_LIGATURE = re.compile(r"(?<=-)(?=-)|(?<=')(?=')|(?<=,)(?=,)")


def for_terminal(text: Untrusted, *, lines: bool = False) -> str:
    """Return printable text: no escape sequence, control, bidi or invisible character is left.

    One line with single spaces, unless `lines` keeps newlines and tabs. Lone surrogates and characters
    without a shape become U+FFFD; tag characters go, assigned or not. rich's markup is untouched: wrap
    the result in a `Text`.
    """
    return _printable(text.expose(), lines=lines)


def for_csv(text: Untrusted) -> str:
    """Return a one-line cell that no spreadsheet takes for a formula, nor any part that it may split off."""
    raw = text.expose()
    cell = _printable(raw, lines=False)
    guard = "'" if _FORMULA.match(raw) or _FORMULA.match(cell) else ""
    return guard + _INNER_FORMULA.sub("'", cell)


def from_csv(cell: str) -> str:
    """Return a cell that came back in a sheet without the apostrophes that `for_csv` put before formulas."""
    return _GUARD.sub("", cell)


def csv_document(rows: Iterable[Iterable[CsvCell]]) -> str:
    """Return rows as CSV (RFC 4180), the only way in which this project writes one.

    Text is always quoted and numbers are bare: an unquoted text would be split at any list separator.
    """
    sheet = io.StringIO()
    writer = csv.writer(sheet, quoting=csv.QUOTE_NONNUMERIC)
    for row in rows:
        cells: list[str | int | float] = []
        for value in row:
            if isinstance(value, Untrusted):
                cells.append(for_csv(value))
            elif isinstance(value, bool):
                cells.append("true" if value else "false")
            else:
                cells.append("" if value is None else value)
        writer.writerow(cells)
    return sheet.getvalue()


def for_markdown(text: Untrusted) -> str:
    """Return one line of literal text for a Markdown table cell or list item: no link, image or HTML."""
    line = _printable(text.expose(), lines=False).strip()
    line = _MARKDOWN_LIST.sub(r"\1\\", _MARKDOWN_SIGNS.sub(r"\\\g<0>", line))
    return _MARKDOWN_LINK.sub(_BREAK, line)


def for_latex(text: Untrusted) -> str:
    """Return one line of literal text for a LaTeX table: no command, no mathematics, no comment."""
    line = _printable(text.expose(), lines=False).strip()
    line = "".join(_LATEX_SIGNS.get(each, each) for each in line)
    return _LATEX_LIGATURE.sub("{}", line)


def latex_row(cells: Sequence[str]) -> str:
    """Return one row of a LaTeX table of encoded cells."""
    row = " & ".join(cells) + r" \\"
    # After the end of the row before, these would be read as its arguments.
    return f"{{}}{row}" if row.startswith(("[", "*")) else row


def for_page(text: Untrusted, *, longest: int | None = None) -> str:
    """Return what a text node of a page shows: printable lines, without what reorders or hides characters.

    It is no HTML: it goes into the page by `json_island`. Of more than `longest` characters the rest is left
    out, and how many that are is said.
    """
    whole = _printable(text.expose(), lines=True)
    if longest is None or len(whole) <= longest:
        return whole
    return f"{whole[:longest]} [{len(whole) - longest:,} more characters left out]"


def json_island(value: object) -> str:
    """Return encoded values as JSON that may stand inside an HTML script element.

    Nothing in it ends the element or begins a comment, whatever the values hold.
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return (
        text.replace("<", "\\u003c")
        .replace(">", "\\u003e")
        .replace("&", "\\u0026")
        .replace("\x7f", "\\u007f")
    )


def for_json(text: Untrusted) -> str:
    """Return the raw text: the JSON writer escapes it, and a reader gets back what was stored."""
    return text.expose()


def versioned(schema: int) -> dict[str, int]:
    """Return the keys that every JSON report begins with: its version, under two names."""
    return {"schema": schema, "schema_version": schema}


def for_utf8(text: Untrusted) -> str:
    """Return the raw text as a binary table can hold it: U+FFFD stands for half of a surrogate pair."""
    return text.expose().encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def json_document(value: object, *, indent: int = 2) -> str:
    """Return encoded values as JSON text, without the one control character that JSON lets through."""
    return json.dumps(value, allow_nan=False, indent=indent).replace("\x7f", "\\u007f") + "\n"


def _printable(text: str, *, lines: bool) -> str:
    if not text.isprintable():
        text = "".join(
            _printable_character(each, lines=lines) for each in _SEQUENCE.sub("", text).replace("\r\n", "\n")
        )
    return text if lines else _SPACES.sub(" ", text)


def _printable_character(character: str, *, lines: bool) -> str:
    if character.isprintable() or (lines and character in "\n\t"):
        return character
    if "\U000e0000" <= character <= "\U000e007f":
        return ""
    kind = unicodedata.category(character)
    if kind == "Zs" or character.isspace():
        return " "
    # Surrogates, private use, unassigned: something was there. Controls and invisible marks just go.
    return REPLACEMENT if kind in {"Cs", "Co", "Cn"} else ""
