"""The program ``extsub`` as cyclopts knows it, and what its commands share."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from extsub.console.arguments import HelpFormatter, Printing, as_typed

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
