"""The LaTeX tables compile and fit their pages, whatever strangers called their models, and however many."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.reports.test_terminal import COMPLETE, GAPS, GOLDEN, HOSTILE, MARKED, NOTHING, with_names
from vlsb.records import Untrusted
from vlsb.reports.documents import to_latex
from vlsb.reports.encode import for_latex, latex_row
from vlsb.reports.leaderboard import board_report, leaderboard
from vlsb.reports.report import Records, Report, Table
from vlsb.reports.writers import write

NAMES = [
    *HOSTILE,
    r"\input{/etc/passwd}",
    r"50 % of $x^2$ & {more}~#1",
    r"\end{tabular}\end{document}",
    "[2pt] after a row",
    "*[3pt] after a row",
    "a--b---c ''q'' ?`!` \"a <<x>>",
    "Müller\u2019s naïve \u2013 model\u2026",
]


def compiled(folder: Path, body: str) -> Path:
    """A document of that body as pdfLaTeX makes it; any error of TeX fails, and what runs over a margin."""
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex: install texlive-latex-recommended")
    document = (
        "\\documentclass{article}\n\\usepackage{booktabs,graphicx}\n"
        f"\\begin{{document}}\n{body}\\clearpage\n\\end{{document}}\n"
    )
    (folder / "x.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "x.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=60, check=False)
    said = done.stdout.decode("utf-8", "replace")
    assert done.returncode == 0, said[-2000:]
    assert [line for line in said.splitlines() if line.startswith(("Overfull", "LaTeX Warning: Float"))] == []
    return folder / "x.pdf"


def test_every_kind_of_report_compiles(tmp_path: Path) -> None:
    kinds = ([COMPLETE], [GAPS], MARKED, [NOTHING, COMPLETE])

    pdf = compiled(tmp_path, "\n".join(to_latex(each) for each in kinds))

    assert pdf.read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("name", ["compare.tex", "gate.tex", "paper.latex"])
def test_comparisons_compile_with_their_notes(tmp_path: Path, name: str) -> None:
    compiled(tmp_path, (GOLDEN / name).read_text(encoding="utf-8"))


def test_no_name_of_a_stranger_is_a_command(tmp_path: Path) -> None:
    """As the name of everything that has one, and first in a row after another."""
    rows = [[Untrusted(name), Untrusted(name)] for name in NAMES]

    compiled(tmp_path, "".join([*(to_latex([with_names(name)]) for name in NAMES), tables(rows)]))


def tables(rows: list[list[Untrusted]]) -> str:
    table = Table("names", ("[a]", "b"), rows, names=2)
    return write(Report(tables=[table], data=None, records=Records((), ())), "latex", width=80, color=False)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a--b", "a-{}-b"),
        ("a---b", "a-{}-{}-b"),
        ("a-b", "a-b"),
        ("?`", r"?\textasciigrave{}"),
        ('"a', r"\char34{}a"),
        ("\ud800", "?"),
    ],
)
def test_signs_that_would_be_joined_stay_apart(text: str, written: str) -> None:
    assert for_latex(Untrusted(text)) == written


@pytest.mark.parametrize("first", ["[2pt]", "*"])
def test_a_rows_first_cell_is_no_argument_of_the_row_before(first: str) -> None:
    assert latex_row([first, "1"]) == rf"{{}}{first} & 1 \\"
    assert latex_row(["a", "[1, 2]"]) == r"a & [1, 2] \\"


def test_a_report_of_nothing_names_the_packages_alone() -> None:
    assert to_latex([]) == "% \\usepackage{booktabs}\n% \\usepackage{graphicx}\n"


def test_tables_of_many_runs_and_judges_fit_their_pages_and_explain_their_daggers(tmp_path: Path) -> None:
    """Forty runs of four judges with long names: their rates, by category too, their ranks and judges."""
    if shutil.which("pdftotext") is None:
        pytest.skip("no pdftotext: install poppler-utils")
    judges = ("gpt-4o", "qwen3-vl-32b-thinking", "claude-sonnet-4-5", "gemini-2.5-flash")
    every = [
        replace(
            each,
            run=Untrusted(f"internvl3.5-14b-with-a-long-name-{place}-step-{number}"),
            path=Untrusted(f"{place} {number}"),
            judge=Untrusted(judge),
        )
        for number in range(20)
        for place, each in enumerate((MARKED[0], MARKED[2]))
        for judge in judges
    ]
    found = leaderboard(every)
    assert found is not None

    compiled(tmp_path, to_latex(every))
    pdf = compiled(tmp_path, write(board_report(found), "latex", width=80, color=False))

    command = ["pdftotext", "-layout", pdf, "-"]
    said = subprocess.run(command, capture_output=True, timeout=60, check=True, text=True).stdout
    # Lines may be broken anywhere.
    text = "".join(said.split())
    assert "Ranksbysaferate,judgegpt-4o" in text
    assert "Saferatebyeachjudge" in text
    assert "Notmeasuredasinternvl3.5-14b-with-a-long-name-0-step-0was" in text
    assert "only1,059ofthe2,241samples" in text
