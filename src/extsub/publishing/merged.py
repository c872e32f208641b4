"""The folder of a model that extsub merged, as it goes to the hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from extsub.adapters.stated import CARD, PROVENANCE
from extsub.errors import ExtSubError
from extsub.escaping import brief, markdown
from extsub.files.reading import read_bytes
from extsub.merging.folder import is_ours
from extsub.publishing.folder import WrittenFolder, check_files, places_in

WEIGHTS = "config.json", ".safetensors", "model.safetensors.index.json"
"""How the names of those end that make it what it is."""


def merged_in(path: Path, record: dict[str, Any]) -> WrittenFolder:
    """Read and check a merged model.

    Args:
        record: what ``extsub.json`` holds.

    Raises:
        ExtSubError: something is missing, a link, or of no kind that a merged model has.
    """
    files = tuple(name for name in record["files"] if name not in (CARD, PROVENANCE))
    for name in files:
        if not is_ours(name):
            raise ExtSubError(f"{path / PROVENANCE} names {brief(name)}, which no merged model has: merge anew")
    check_files(path, (*files, CARD, PROVENANCE))
    try:
        card = read_bytes(path / CARD).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ExtSubError(f"{path / CARD} cannot be read: merge anew") from error
    what = brief(f"{record['base']['name']} with {record['adapter']['name']} merged in")
    return WrittenFolder(
        path,
        (*files, PROVENANCE),
        tuple(name for name in files if name.endswith(WEIGHTS)),
        what,
        f"{what} by extsub {brief(record['versions']['extsub'])}",
        lambda repository, _: _addressed(card, repository),
        places_in({PROVENANCE: record}),
    )


def _addressed(card: str, repository: str) -> str:
    """The card of a merged model, with its place on the hub where the name of its folder stood."""
    title = markdown(repository.rpartition("/")[2])
    card = re.sub(r"^# .*$", lambda _: f"# {title}", card, count=1, flags=re.MULTILINE)
    return re.sub(r"""(?<=from_pretrained\()('[^'\n]*'|"[^"\n]*")""", lambda _: repr(repository), card)
