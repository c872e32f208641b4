"""The command line: parse, one call into a room, print. Rooms are imported inside the commands, so that --help is
quick and no command loads what it does not need."""

from __future__ import annotations

import contextlib

from cyclopts import CycloptsError

from extsub.cli import adapters, chains, findings, models, negatives, ui  # noqa: F401  their commands
from extsub.cli.app import app
from extsub.cli.task_options import offer_options
from extsub.errors import ExtSubError
from extsub.printing import to_stdout

PRINTED = {"--help", "-h", "--version", "-V"}


def run_command(arguments: list[str]) -> None:
    """Parse a command line and do what it says; without arguments, show the help.

    Raises:
        ExtSubError: the command line is wrong, or the command ran into what a user can fix.
    """
    offer_options(arguments)
    only_prints = not arguments or not PRINTED.isdisjoint(arguments)
    try:
        with to_stdout() if only_prints else contextlib.nullcontext():
            app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        command = " ".join(["extsub", *(error.command_chain or ())])
        raise ExtSubError(f"{' '.join(str(error).split())} Run '{command} --help'.") from error
