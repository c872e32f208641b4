"""Others' text, made harmless where people read, paste or run it.

Names in adapters, data and folders are others' words. Whatever leaves this program as text passes one of these
functions, chosen by who reads it: a terminal, a shell, Markdown, LaTeX, a spreadsheet, XML or JSON. A Python literal is
``repr``.
"""

from __future__ import annotations

import html
import json
import re
import shlex
from collections.abc import Iterable
from reprlib import Repr
from typing import Any

LONGEST = 100
"""Characters of a value, name or text that a message quotes."""

_REPR = Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 60

_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # control characters, ESC among them; some terminals obey those above 7F too
    "\xad\u200b\u2060-\u2065\ufeff\ufff9-\uffff"  # nothing to see
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f"  # turn the direction of what follows
    "\u2028\u2029"  # end a line
    "\ud800-\udfff"  # halves of a character: file names that are not UTF-8
    "\U000e0000-\U000e0fff]"  # tags: hidden ASCII
)
"""Characters that nobody sees, or that a terminal or an editor obeys; not joiners of emoji and of Persian words."""


def line(text: str) -> str:
    """One line for a terminal: what is in ``_UNSEEN`` is shown as Python writes it (a line break as ``\\n``)."""
    return _UNSEEN.sub(lambda match: repr(match[0])[1:-1], text)


def block(text: str) -> str:
    """Like ``line``, for text of several lines: line breaks and tabs stay."""
    text = text.replace("\r\n", "\n")
    return _UNSEEN.sub(lambda match: match[0] if match[0] in "\n\t" else repr(match[0])[1:-1], text)


def shown(value: object) -> str:
    """A value from a file for a message: as Python writes it, on one line, shortened."""
    try:
        return _shortened(line(_REPR.repr(value)))
    except ValueError:
        return "a number of thousands of digits"


def brief(text: object) -> str:
    """A name from a file, or what a library said, for a message: on one line, shortened."""
    return _shortened(line(" ".join(str(text)[:10_000].split())))


def _shortened(text: str) -> str:
    """The beginning and the end, which tells names apart."""
    half = LONGEST // 2 - 2
    return text if len(text) <= LONGEST else f"{text[:half]}...{text[-half:]}"


def shell(words: Iterable[str]) -> str:
    """The line that a shell splits into exactly these words.

    Where a word holds what nobody sees, it is written as bash and zsh read it: ``$'a\\033b'``, so that the line is one
    line, and nothing in it is obeyed by the terminal that shows it.
    """
    return " ".join(_word(word) for word in words)


def _word(word: str) -> str:
    if not _UNSEEN.search(word):
        return shlex.quote(word)
    return "$'" + "".join(sign if sign.isalnum() or sign in " /.,:=_-" else _octal(sign) for sign in word) + "'"


def _octal(character: str) -> str:
    is_byte = "\udc80" <= character <= "\udcff"  # of a file name that is not UTF-8
    content = character.encode("utf-8", "surrogateescape" if is_byte else "surrogatepass")
    return "".join(f"\\{byte:03o}" for byte in content)


def operand(text: str) -> str:
    """A path or name for a command line, where one that begins with a dash would be taken for an option."""
    return f"./{text}" if text.startswith("-") else text


def markdown(text: str) -> str:
    """Text on one line that Markdown, also in a table, shows as it is: no markup, no HTML, no links."""
    text = _MARKUP.sub(lambda match: f"\\{match[0]}", line(" ".join(text.split())))
    return re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", text)  # would be a numbered list


_MARKUP = re.compile(
    r"[\\`*_#|~&$@]|<(?=[a-z/!?])"
    r"|\[(?![-+−]?\d[-+−\d., e]*\](?![(\[:]))"  # of a link; the interval [0.1, 0.2] stays readable
    r"|(?<=[a-z]):(?=//)|(?<=www)\."  # of an address, which becomes a link by itself
    r"|^[-+](?=[\s-]|$)|^[=>]",  # of a list, a quotation, a line
    re.IGNORECASE,
)


def latex(text: str) -> str:
    """Text on one line that LaTeX shows as it is, also where a line of a table begins: no command, comment or argument.

    Minus signs and α, ±, ↑ are mathematics; letters of other alphabets stay, which LuaLaTeX can write.
    """
    text = _IN_LATEX.sub(lambda match: _LATEX[match[0]], line(" ".join(text.split())))
    text = re.sub(r"(?<![\w-])-(?=\.?\d)", "$-$", text)
    text = re.sub(r"([-,])(?=\1)", r"\1{}", text)  # two would become one sign
    return f"{{}}{text}" if text.startswith(("[", "*")) else text  # would be an argument of the \\\\ before it


_LATEX = {sign: f"\\{sign}" for sign in "{}$&#%_"} | {
    "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "`": "\\textasciigrave{}",
    "'": "\\textquotesingle{}", '"': "\\char34{}", "<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}",
    "−": "$-$", "±": "$\\pm$", "α": "$\\alpha$", "↑": "$\\uparrow$", "↓": "$\\downarrow$",
    "≤": "$\\leq$", "≥": "$\\geq$", "–": "\\textendash{}", "…": "\\ldots{}",
}  # fmt: skip
_IN_LATEX = re.compile(f"[{re.escape(''.join(_LATEX))}]")


def spreadsheet(text: str) -> str:
    """Text on one line for a cell of a CSV file; an apostrophe before what a spreadsheet would take for a formula."""
    text = line(text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def xml(text: str) -> str:
    """Text for HTML and SVG, in elements and attributes."""
    return html.escape(block(text))


def to_json(content: Any) -> str:
    """JSON for people and programs: exactly the data, indented; what is in ``_UNSEEN`` stands as ``\\u...``.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    return _UNSEEN.sub(lambda match: match[0] if match[0] == "\n" else json.dumps(match[0])[1:-1], text)
