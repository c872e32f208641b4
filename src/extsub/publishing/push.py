"""What extsub wrote, on the Hugging Face hub, with a card that is written for its place there."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TypedDict

from extsub.adapters.scores import Scores
from extsub.adapters.stated import CARD
from extsub.errors import ExtSubError
from extsub.escaping import brief
from extsub.evaluation.tasks import load_task_files
from extsub.files.reading import located
from extsub.publishing.adapter import adapter_in
from extsub.publishing.folder import WrittenFolder
from extsub.publishing.measured import scores_for
from extsub.publishing.merged import merged_in
from extsub.publishing.records import is_merged, read_record
from extsub.publishing.upload import upload


class PushedFile(TypedDict):
    """One file on the hub."""

    name: str
    bytes: int


class PushRecord(TypedDict):
    """What `push` did, or would do."""

    repository: str
    """``owner/name``"""
    url: str
    private: bool
    what: str
    """What it is, in some words."""
    message: str
    """Of the commit."""
    files: list[PushedFile]
    left_out: list[str]
    """What lies in the folder and does not go up."""
    card: str
    """README.md as it goes up."""
    notes: list[str]
    """What a user should know, in sentences."""
    commit: str | None
    """None where nothing was uploaded."""


def push(
    folder: str | PathLike[str],
    repository: str,
    *,
    scores: str | PathLike[str] | None = None,
    public: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    task_file: Sequence[str] = (),
) -> PushRecord:
    """Upload an adapter that extsub combined or trained, or a model that it merged, to the hub, in one commit.

    What extsub wrote goes up, byte by byte, and nothing else that lies there; the card is written anew for the
    repository. The folder stays as it is.

    Args:
        folder: the adapter or model.
        repository: ``owner/name``; made unless it is there.
        scores: a folder that ``sweep`` or ``evaluate`` wrote, whose scores of this adapter are to stand on the card.
            Unless given, those that a recipe measured, if it did.
        public: make the repository public; it is private unless told otherwise.
        overwrite: replace another adapter that extsub has put there.
        dry_run: say what would be done, and ask nothing of the network.
        task_file: Python files of your own that register tasks.

    Raises:
        ExtSubError: the folder, the scores or the id are at fault, nobody is logged in, the token may not do this, the
            hub cannot be reached, or the repository holds something else.
    """
    _check_id(repository)
    written = _read(folder)
    card = written.card(repository, _measured(written, scores, task_file))
    sizes = {CARD: len(card.encode()), **{name: (written.path / name).stat().st_size for name in written.files}}
    record: PushRecord = {
        "repository": repository,
        "url": _url(repository),
        "private": not public,
        "what": written.what,
        "message": written.message,
        "files": [{"name": name, "bytes": size} for name, size in sizes.items()],
        "left_out": written.left_out,
        "card": card,
        "notes": written.notes,
        "commit": None,
    }
    if not dry_run:
        record["commit"], notes = upload(written, card, repository, public=public, overwrite=overwrite)
        record["notes"] = [*written.notes, *notes]
    return record


def _read(folder: str | PathLike[str]) -> WrittenFolder:
    path = located(str(folder))
    if not path.is_dir():
        raise ExtSubError(f"{folder}: no such folder: give one that extsub wrote")
    record_file, record = read_record(path)
    return merged_in(path, record) if is_merged(record) else adapter_in(path, record_file, record)


def _measured(written: WrittenFolder, scores: str | PathLike[str] | None, task_file: Sequence[str]) -> Scores | None:
    if scores is None:
        return None
    if not written.hashes:
        raise ExtSubError("--scores are for the card of an adapter: push the adapter with them")
    load_task_files(tuple(task_file))
    return scores_for(scores, written.hashes, written.record)


def _check_id(repository: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ExtSubError(f"{brief(repository)} is not owner/name, the id of a repository on the hub") from error
    if "/" not in repository:
        raise ExtSubError(f"{repository} has no owner: give owner/name, the id of a repository on the hub")


def _url(repository: str) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repository}"
