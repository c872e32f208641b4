"""The program ``extsub`` as cyclopts knows it, and what its commands share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cyclopts import App, Group, Parameter

from extsub.console.arguments import HelpFormatter, Pasting, Printing, as_typed
from extsub.models.prompts import PromptOption
from extsub.settings import Dtype

app = App(
    name="extsub",
    help="Suppress a deficiency of a fine-tuned language model by exact arithmetic on two adapters.",
    help_epilogue="To begin: extsub demo. Every command has an example: extsub combine --help.",
    help_format="plaintext",
    help_formatter=HelpFormatter(),
    version_flags=["--version", "-V"],
    suppress_keyboard_interrupt=False,
    # no --no-overwrite; --target-modules a b
    default_parameter=Parameter(negative=(), consume_multiple=True, show_default=as_typed),
)
app.register_install_completion_command(help="Complete commands and options in this shell (bash, zsh, fish).")

Printed = Annotated[Printing, Parameter(name="*")]
"""What every command takes: --json and --quiet."""
DEFAULT = Printing()
Pasted = Annotated[Pasting, Parameter(name="*")]
"""What commands with a table take: --markdown, --latex, --csv."""
ON_A_TERMINAL = Pasting()
ASKING = Parameter(group=Group("Asking", sort_key=2))


@dataclass(frozen=True, kw_only=True)
class Opening:
    """How `extsub.Session` is opened, in the same words by every command that has one."""

    model: Annotated[str | None, ASKING] = None
    """The base: a folder or hub id; unless given, the base that the adapters name."""
    prompt: Annotated[PromptOption, ASKING] = "auto"
    """Text around a question, as in extsub evaluate: auto is what the adapter was trained with, else chat where the
    tokenizer has such a template, else extsub."""
    max_new_tokens: Annotated[int | None, ASKING] = None
    """Longest answer; 256 unless given."""
    dtype: Annotated[Dtype, ASKING] = "auto"
    """Of the weights; auto is bfloat16 on a GPU that has it, else float32. Processors without instructions for bfloat16
    only imitate it, many times slower."""


Opened = Annotated[Opening, Parameter(name="*")]
AS_USUAL = Opening()
