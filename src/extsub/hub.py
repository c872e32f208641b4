"""The Hugging Face hub: ids as people write them, its errors in one sentence; for adapters, models and data alike."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from extsub.errors import ExtSubError
from extsub.escaping import brief

# A repository, then perhaps folders inside it, then perhaps a branch, tag or commit.
HUB_ID = re.compile(r"(?P<repo>([\w.-]+/)?[\w.-]+)(?P<subfolder>(/[\w.-]+)*)(@(?P<revision>[\w./-]+))?")

LOG_IN = "run 'hf auth login', or set HF_TOKEN"
REFUSED = {
    401: f"the hub does not accept this token: {LOG_IN} anew",
    403: "not permitted: this token may not write there; take another token, or another owner",
    404: "not there, or not for this token: take another token, or another owner",
    409: "it is there, and this token may not see it, or somebody has just made it: take another name, or push again",
    412: "somebody has just changed it: push again",
}
"""What a status means when something is written."""
GATED = "{name}: access is gated: ask for it on its hub page, then run 'hf auth login'"


class HubId(NamedTuple):
    """A place on the hub."""

    repo: str
    """``owner/name``, or the name alone of an old model (``gpt2``)."""

    subfolder: str
    """Inside the repository; empty for its root."""

    revision: str | None
    """A branch, tag or commit; None for the default branch."""


def hub_id_of(name: str, path: Path, kind: str, here: str = "folder") -> HubId:
    """The hub id that ``name`` must be, since nothing lies at ``path``.

    Args:
        name: as the user wrote it.
        path: where it would lie on this machine.
        kind: what is looked for: adapter, dataset or model. A model may have no owner, an adapter lie in a subfolder.
        here: what it would be on this machine, for messages.

    Raises:
        ExtSubError: it does not have the shape of a hub id, or looks like a slip in the name of something local.
    """
    match = HUB_ID.fullmatch(name)
    is_inside = match and (not match["subfolder"] or kind == "adapter") and ("/" in match["repo"] or kind == "model")
    if not match or not is_inside or name.startswith(".") or ".." in Path(name).parts:
        raise nothing_there(name, kind, here)
    if "/" in name and path.parent.is_dir() and not match["revision"]:  # do not wait for the hub to say so
        raise ExtSubError(f"{name}: no such {here} in {path.parent}; if you mean the hub's {kind}, write {name}@main")
    return HubId(match["repo"], match["subfolder"].strip("/"), match["revision"])


def nothing_there(name: str, kind: str, here: str = "folder") -> ExtSubError:
    """The error for a name that is nothing on this machine, and has not the shape of a hub id."""
    article = "an" if kind == "adapter" else "a"
    return ExtSubError(
        f"{brief(name)}: no such {here}, and not {article} {kind} of the hub (owner/name or owner/name@revision)"
    )


class Commit(NamedTuple):
    """What one commit of a repository has, at its root or in one of its folders."""

    sha: str
    folder: Path
    """Where the files that were downloaded lie."""
    files: set[str]
    """All that there are; without a connection, those that were downloaded once."""
    download: Callable[[str], Path]


@contextmanager
def commit_of(name: str, hub_id: HubId, config: str, without: str) -> Generator[Commit]:
    """The commit that a hub id means now, and its ``config``, downloaded; in the block the hub's errors are explained.

    Args:
        name: as the user wrote it.
        without: what it means that there is no ``config``.

    Raises:
        ExtSubError: as `hub_errors_explained`.
    """
    from huggingface_hub import errors, hf_hub_download, list_repo_files

    repo, subfolder, revision = hub_id

    def download(file: str, revision: str | None) -> Path:
        return Path(hf_hub_download(repo, file, subfolder=subfolder or None, revision=revision))

    with hub_errors_explained(name, revision, f"the hub repository has no {config}: {without}"):
        folder = download(config, revision).parent
        # .../snapshots/<commit>[/subfolder]: the revision is resolved once, here.
        sha = [folder, *folder.parents][len(Path(subfolder).parts)].name
        try:
            inside = f"{subfolder}/" if subfolder else ""
            listed = list_repo_files(repo, revision=sha)
            files = {file.removeprefix(inside) for file in listed if file.startswith(inside)}
        except (errors.OfflineModeIsEnabled, errors.HfHubHTTPError, OSError):
            files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        yield Commit(sha, folder, files, lambda file: download(file, sha))


@contextmanager
def hub_errors_explained(name: str, revision: str | None, missing: str) -> Generator[None]:
    """Turn the hub's errors into one sentence each.

    Args:
        name: as the user wrote it.
        revision: that was asked for.
        missing: what it means that the repository lacks the file.

    Raises:
        ExtSubError: in place of what huggingface_hub raises, and of a connection that breaks off.
    """
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise ExtSubError(GATED.format(name=name)) from error
    except errors.RepositoryNotFoundError as error:
        raise ExtSubError(f"{name}: no such folder here and no such repository on the hub, or it is private") from error
    except errors.RevisionNotFoundError as error:
        raise ExtSubError(f"{name}: the hub repository has no revision {revision}") from error
    except errors.LocalEntryNotFoundError as error:
        raise ExtSubError(
            f"{name}: no such folder here, and it is not in the cache of the hub, which cannot be reached "
            "(or HF_HUB_OFFLINE is set)"
        ) from error
    except errors.EntryNotFoundError as error:
        raise ExtSubError(f"{name}: {missing}") from error
    except (errors.HTTPError, errors.HFValidationError, OSError) as error:
        raise ExtSubError(f"{name}: {_said(error)}") from error


@contextmanager
def refusals_explained(repository: str) -> Generator[None]:
    """Turn what the hub, or the way to it, says against writing there into one sentence.

    Args:
        repository: ``owner/name``.

    Raises:
        ExtSubError: in place of what huggingface_hub raises.
    """
    from huggingface_hub import errors

    try:
        yield
    except (errors.HTTPError, OSError, RuntimeError, ValueError) as error:
        if getattr(error, "filename", None):  # a file of ours
            raise
        cause = (error.__cause__ if isinstance(error, RuntimeError) else None) or error  # of the upload of one file
        raise ExtSubError(f"{repository}: {REFUSED.get(_status(cause)) or _said(cause)}") from error


def _status(error: BaseException) -> int:
    """Of the hub's answer; 0 where there is none."""
    if (response := getattr(error, "response", None)) is not None:
        return response.status_code
    told = re.search(r"HTTP status client error \((\d{3})", str(error))  # hf_xet's, which has no response
    return int(told[1]) if told else 0


def _said(error: BaseException) -> str:
    """What went wrong: the connection to the hub, or the first line of what the hub says."""
    from huggingface_hub import constants, errors

    first_line = brief(str(error).strip().partition("\n")[0])
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so the hub is not asked: unset it"
    was_answered = getattr(error, "response", None) is not None
    of_the_way = isinstance(error, (errors.HTTPError, ConnectionError, TimeoutError)) or hasattr(error, "response")
    if of_the_way and not was_answered:
        return f"the hub ({constants.ENDPOINT}) cannot be reached, or the connection broke off ({first_line})"
    return f"the hub answered with an error: {first_line}"
