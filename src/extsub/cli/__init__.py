"""The command line: parse, one call into a room, print. Rooms are imported inside the commands, so that --help is
quick and no command loads what it does not need."""

from __future__ import annotations

import contextlib
from dataclasses import fields
from pathlib import Path
from typing import Any

from cyclopts import CycloptsError
from cyclopts.config import Dict

from extsub.cli import adapters, chains, findings, models, ui  # noqa: F401  their commands
from extsub.cli.app import app
from extsub.console.arguments import as_options
from extsub.errors import ExtSubError
from extsub.escaping import brief
from extsub.printing import to_stdout
from extsub.training.settings import TrainingSettings

PRINTED = {"--help", "-h", "--version", "-V"}


def run_command(arguments: list[str]) -> None:
    """Parse a command line and do what it says; without arguments, show the help.

    Raises:
        ExtSubError: the command line is wrong, or the command ran into what a user can fix.
    """
    tokens = as_options(arguments)
    app["train"].config = _config(tokens)
    only_prints = not tokens or not PRINTED.isdisjoint(tokens)
    try:
        with to_stdout() if only_prints else contextlib.nullcontext():
            app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        command = " ".join(["extsub", *(error.command_chain or ())])
        raise ExtSubError(f"{' '.join(str(error).split())} Run '{command} --help'.") from error


def _config(tokens: list[str]) -> list[Dict]:
    """The settings in the file that ``--config`` names. A name in it that is not a setting is an error."""
    for place, token in enumerate(tokens):
        if token == "--config" and place + 1 < len(tokens):
            return [Dict(_read_config(Path(tokens[place + 1])), use_commands_as_keys=False)]
        if token.startswith("--config="):
            return [Dict(_read_config(Path(token.removeprefix("--config="))), use_commands_as_keys=False)]
    return []


def _read_config(path: Path) -> dict[str, Any]:
    from extsub.recipe.values import mapping_of, read_yaml, settings_of

    content = read_yaml(f"--config {path}", path)
    if not isinstance(content or {}, dict):
        raise ExtSubError(f"--config {path}: expected settings with their values (rank: 8)")
    settings = mapping_of(f"--config {path}", content or {}, None)
    if unknown := sorted(settings.keys() - {one.name for one in fields(TrainingSettings)}):
        raise ExtSubError(
            f"--config {path}: {brief(unknown[0])} is not a setting of extsub train; see extsub train --help"
        )
    settings_of(f"--config {path}", settings, TrainingSettings)  # cyclopts would cut a number off
    return settings
