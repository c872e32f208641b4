"""``extsub train --config FILE``: what the command line leaves open is as the file says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import Token

from extsub.settings import option
from extsub.training.settings import TrainingSettings

if TYPE_CHECKING:
    from cyclopts import App, ArgumentCollection


def from_file(_app: App, _commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Add the file's settings to what cyclopts has read of the command line, as values that it need not convert.

    Raises:
        ExtSubError: as `read_config`.
    """
    given = arguments["--config"].tokens
    settings = read_config(Path(given[0].value)) if given else {}
    for name, value in settings.items():
        argument = arguments[option(name)]
        if not argument.has_tokens:
            is_text = isinstance(value, str)  # perhaps a choice, which cyclopts 4 converts in any case
            argument.append(Token(value=value) if is_text else Token(implicit_value=value))


def read_config(path: Path) -> dict[str, Any]:
    """The settings of a training in a YAML file.

    Raises:
        ExtSubError: it cannot be read, or a name or value in it is wrong.
    """
    from extsub.files.yaml import read_yaml
    from extsub.values import settings_of

    where = f"--config {path}"
    return settings_of(where, read_yaml(where, path) or {}, TrainingSettings)
