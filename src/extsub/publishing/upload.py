"""Files into one commit of a repository on the hub, which is new or may be replaced."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from extsub.adapters.adapter import sha256
from extsub.adapters.stated import CARD, PROVENANCE, TRAINING
from extsub.errors import ExtSubError, kept_when_interrupted
from extsub.escaping import brief
from extsub.hub import LOG_IN, refusals_explained
from extsub.merging import folder as merged
from extsub.publishing import adapter
from extsub.publishing.folder import WrittenFolder

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

HUBS_WARNING = "Warnings while validating metadata"
"""How a warning begins that says what the hub thinks of the card."""
HUBS_OWN = ".gitattributes"
"""What the hub puts into every repository."""


class Uploaded(NamedTuple):
    """What the hub has now."""

    commit: str
    notes: list[str]
    """What the hub said, and what was as it is before."""


def upload(written: WrittenFolder, card: str, repository: str, *, public: bool, overwrite: bool) -> Uploaded:
    """Make a repository, or look what is in it, and put the files there in one commit.

    Args:
        card: README.md.
        repository: ``owner/name``.

    Raises:
        ExtSubError: there is no token, it may not do this, the hub cannot be reached, or the repository holds something
            else.
    """
    api = _api(repository)
    there = _look(api, repository)
    if there:
        _check_visibility(repository, there, public)
        return _commit(api, repository, written, card, list(_stale(repository, there, written, overwrite)), there)
    with refusals_explained(repository):
        api.create_repo(repository, private=not public)
    try:
        return _commit(api, repository, written, card, [], None)
    except ExtSubError as error:
        raise ExtSubError(f"{error}; the repository was made and is empty, the same command goes on") from error


def _commit(
    api: HfApi, repository: str, written: WrittenFolder, card: str, stale: list[str], there: ModelInfo | None
) -> Uploaded:
    """Add the files and take away what is ``stale``; refused where the repository is no longer as it was."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    operations = [
        *(CommitOperationAdd(name, written.path / name) for name in written.files),
        CommitOperationAdd(CARD, card.encode()),
        *(CommitOperationDelete(name) for name in stale),
    ]
    before = there.sha if there else None
    with (
        warnings.catch_warnings(record=True) as said,
        refusals_explained(repository),
        kept_when_interrupted(lambda: f"the hub has not confirmed it: look at {api.endpoint}/{repository}"),
    ):
        warnings.filterwarnings("always", HUBS_WARNING)
        done = api.create_commit(repository, operations, commit_message=written.message, parent_commit=before)
    notes = [brief(warning.message) for warning in said if re.match(HUBS_WARNING, str(warning.message))]
    return Uploaded(done.oid, [*notes, *(["nothing had changed there"] if done.oid == before else [])])


def _api(repository: str) -> HfApi:
    """Raises ExtSubError where nobody is logged in."""
    from huggingface_hub import HfApi, get_token

    token = get_token()
    if token is None:
        raise ExtSubError(f"{repository}: no token of the hub on this machine: {LOG_IN}")
    return HfApi(token=token, library_name="extsub")


def _look(api: HfApi, repository: str) -> ModelInfo | None:
    """What is there; None where nothing is, or nothing that the token may see."""
    from huggingface_hub.errors import RepositoryNotFoundError

    with refusals_explained(repository):
        try:
            return api.model_info(repository, files_metadata=True)
        except RepositoryNotFoundError:
            return None


def _check_visibility(repository: str, there: ModelInfo, public: bool) -> None:
    if not public and not there.private:
        raise ExtSubError(f"{repository} is public: pass --public to publish there, or choose another repository")
    if public and there.private:
        raise ExtSubError(
            f"{repository} is private: leave --public out, or make it public on its settings page of the hub first"
        )


def _stale(repository: str, there: ModelInfo, written: WrittenFolder, overwrite: bool) -> Iterator[str]:
    """The files that an overwrite takes away.

    Raises:
        ExtSubError: something is there that extsub did not write, or another result that is not to be replaced.
    """
    files = {file.rfilename: file for file in there.siblings or () if file.rfilename != HUBS_OWN}
    if not files:
        return
    if foreign := sorted(name for name in files if not _is_ours(name)):
        raise ExtSubError(
            f"{repository} holds files that extsub did not write, first {brief(foreign[0])}: choose another repository"
        )
    if not files.keys() & {PROVENANCE, TRAINING}:
        raise ExtSubError(
            f"{repository} was not written by extsub (it has neither {PROVENANCE} nor {TRAINING}): choose another "
            "repository"
        )
    same = all(name in files and _is_same(files[name], written.path / name) for name in written.identity)
    if not same and not overwrite:
        raise ExtSubError(
            f"{repository} holds another result: choose another repository, or pass --overwrite to replace it"
        )
    if overwrite:
        yield from sorted(files.keys() - {*written.files, CARD})


def _is_ours(name: str) -> bool:
    return name in (*adapter.FILES, CARD) or merged.is_ours(name)


def _is_same(there: RepoSibling, here: Path) -> bool:
    if there.lfs is not None:
        return there.lfs.sha256 == sha256(here)
    content = here.read_bytes() if there.size == here.stat().st_size else b""
    return there.blob_id == hashlib.sha1(b"blob %d\0%b" % (len(content), content), usedforsecurity=False).hexdigest()
