"""Tables to paste: LaTeX itself sets them, whatever is in them, and CSV is read back as it was."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings

from extsub.escaping import latex as in_latex
from extsub.escaping import spreadsheet
from extsub.tables import Cell, Table, TableRow, latex, markdown, to_csv
from test_escaping import TEXT, is_seen

ROWS = [
    TableRow((Cell("a_b"), Cell("0.5", "[0.4, 0.6]", bold=True)), "first"),
    TableRow((Cell("c"), Cell("−0.1"))),
    TableRow((Cell("[d]"), Cell("")), "chosen first"),
]
TABLE = Table("t", "", ("name", "mc2 ↑"), 1, ROWS)


def test_a_table_in_latex() -> None:
    assert latex(TABLE, ["50 % of\nall"]).splitlines() == [
        "% \\usepackage{booktabs}", "\\begin{tabular}{lr}", "\\toprule", "name & mc2 $\\uparrow$ \\\\", "\\midrule",
        "a\\_b & \\textbf{0.5 [0.4, 0.6]} \\\\", "c & $-$0.1 \\\\", "\\midrule", "\\textbf{{}[d]} &  \\\\",
        "\\bottomrule", "\\end{tabular}", "% 50 % of\\nall",
    ]  # fmt: skip


def test_a_table_in_markdown() -> None:
    assert markdown(TABLE, ["note"]).splitlines() == [
        "| name | mc2 ↑ |", "|---|---:|", "| a\\_b | **0.5 [0.4, 0.6]** |", "| c | −0.1 |", "| **\\[d]** |  |", "",
        "- note",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "shown"),
    [("-0.5 to -.3", "$-$0.5 to $-$.3"), ("ext-sub-0.5", "ext-sub-0.5"), ("a--b---c", "a-{}-b-{}-{}-c"),
     ("*x", "{}*x"), ("1e-05", "1e-05"), ("\\input{x}", "\\textbackslash{}input\\{x\\}")],
)  # fmt: skip
def test_signs_in_latex(text: str, shown: str) -> None:
    assert in_latex(text) == shown


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="LaTeX is not here")
def test_latex_sets_every_text(tmp_path: Path) -> None:
    """In a cell at the beginning of a line, bold and not; each text stays within its row."""
    texts: list[str] = []

    @settings(max_examples=200)
    @given(TEXT)
    def collect(text: str) -> None:
        texts.append(text.encode("ascii", "replace").decode())  # other letters need LuaLaTeX

    collect()
    rows = [TableRow((Cell(text), Cell("1"), Cell(text, bold=True))) for text in texts]
    table = latex(Table("", "", ("", "α ± ≤ ↑", ""), 1, rows), texts).replace("tabular}", "longtable}")
    preamble = "\\documentclass{article}\\usepackage{booktabs,longtable}\\begin{document}\n"
    (tmp_path / "t.tex").write_text(preamble + table + "\\end{document}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "t.tex"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert run.returncode == 0, run.stdout[-2000:]
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".aux", ".log", ".pdf", ".tex"]


@given(TEXT)
def test_a_spreadsheet_calculates_nothing(text: str) -> None:
    (head, row) = csv.reader(io.StringIO(to_csv(["name", "value"], [[text, -0.5]])))
    assert (head, row) == (["name", "value"], [spreadsheet(text), "-0.5"])
    assert is_seen(row[0])
    assert not row[0].startswith(("=", "+", "-", "@"))
