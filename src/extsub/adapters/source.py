"""Find an adapter's files: in a local folder or on the Hugging Face hub. Nothing here reads what they hold."""

from __future__ import annotations

import re
from pathlib import Path

from extsub.adapters.adapter import Source
from extsub.adapters.stated import CARD, PROVENANCE, TRAINING
from extsub.errors import ExtSubError
from extsub.files.reading import elsewhere, located
from extsub.hub import HubId, commit_of, hub_id_of

CONFIG = "adapter_config.json"
SAFETENSORS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"

WEIGHTS = re.compile(r"\.(safetensors|bin|pt|pth|ckpt|npz|npy|h5|msgpack|gguf)", re.IGNORECASE)

# By the beginning of their names: weights that were trained with an adapter, which a result would lose.
TRAINED_BESIDE = (
    (re.compile(r"non_lora|.*trainable", re.IGNORECASE), "other trained weights, as of LLaVA or LongLoRA"),
    (re.compile(r".*(projector|resampler|aligner|qformer|connector|merger)", re.IGNORECASE), "a trained projector"),
    (re.compile(r".*(head|classifier|score|regressor)s?[.-]", re.IGNORECASE), "a trained head"),
    (re.compile(r".*embed(s|ding|dings|_tokens)?[.-]", re.IGNORECASE), "trained embeddings"),
    (re.compile(r"(vit|visual|vision|image|audio|speech)(_\w+)?[.-]", re.IGNORECASE), "a trained encoder"),
    (re.compile(r"modules_to_save", re.IGNORECASE), "modules stored whole"),
)

# What a trainer keeps to go on from here. No weights of a model.
STATE = re.compile(
    r"(lr_)?(optimizer|optim|scheduler|scaler)|distrib_optim|training_args|train(er|ing)_state|rng_state|random_states"
    r"|sampler|dl_state_dict|((bf16|fp16)_)?zero_pp_rank|mp_rank",
    re.IGNORECASE,
)


def find_adapter(name: str) -> Source:
    """The files of a local folder, or of ``owner/name[/subfolder][@revision]`` on the hub. A local folder wins.

    Raises:
        ExtSubError: nothing is there, or what is there is not one unsharded PEFT adapter.
    """
    folder = located(name)
    if folder.is_dir():
        return _in_folder(name, folder)
    if folder.exists():
        raise ExtSubError(f"{name} is a file: give the folder that holds {CONFIG} and the weights")
    return _on_hub(name, hub_id_of(name, folder, "adapter"))


def _in_folder(name: str, folder: Path) -> Source:
    try:
        files = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise ExtSubError(f"{name} cannot be read: {error.strerror}") from error
    if CONFIG not in files:
        raise ExtSubError(f"{name}: no {CONFIG} in this folder{elsewhere(folder, CONFIG)}{_other_format(files)}")
    files |= {f"{path.parent.name}/{path.name}" for path in folder.glob("[0-9]_*/*")}  # of sentence-transformers
    weights = _choose_weights(name, files)
    return Source(name, folder, folder / CONFIG, folder / weights, notes=_beside(files, weights))


def _choose_weights(name: str, files: set[str]) -> str:
    """Which of ``files`` holds the weights."""
    for file in sorted(filter(_holds_weights, files)):
        if meaning := next((meaning for names, meaning in TRAINED_BESIDE if names.match(file)), None):
            raise ExtSubError(
                f"{name}: {file} lies beside the adapter ({meaning}) and is not part of it, so it would be left out: "
                "move it away if the adapter works without it"
            )
    for candidate in (SAFETENSORS, PICKLE):
        if candidate in files:
            return candidate
    sharded = sorted(file for file in files if file.endswith(".index.json") and file.startswith("adapter_model"))
    if sharded:
        raise ExtSubError(f"{name}: the adapter is sharded ({sharded[0]}): merge its shards into {SAFETENSORS} first")
    raise ExtSubError(f"{name}: neither {SAFETENSORS} nor {PICKLE} is there{_other_format(files)}")


def _holds_weights(file: str) -> bool:
    """Whether a file's name says that it has weights of a model other than an adapter's."""
    folder, _, name = file.rpartition("/")
    inside = not folder or re.fullmatch(r"\d_\w+", folder)
    return bool(inside and WEIGHTS.fullmatch(Path(name).suffix) and not STATE.match(name)) and name != SAFETENSORS


def _beside(files: set[str], weights: str) -> tuple[str, ...]:
    """A note on every file of weights that is not the adapter, shards of one model as one."""
    beside = {re.sub(r"-\d+-of-\d+", "-...", file) for file in files if _holds_weights(file) and file != weights}
    return tuple(f"{file} lies beside {weights} and was not read" for file in sorted(beside))


def _other_format(files: set[str]) -> str:
    """A guess at what a folder without a PEFT adapter holds."""
    formats = {
        "adapters.safetensors": "an MLX adapter",
        "adapters.npz": "an MLX adapter",
        "pytorch_adapter.bin": "an AdapterHub adapter",
        "pytorch_lora_weights.safetensors": "a diffusers LoRA",
        "model.safetensors": "a full model",
        "model.safetensors.index.json": "a full model",
        "pytorch_model.bin": "a full model",
    }
    guesses = [f"{file} looks like {what}, not a PEFT adapter" for file, what in formats.items() if file in files]
    return f" ({guesses[0]})" if guesses else ""


def _on_hub(name: str, hub_id: HubId) -> Source:
    """Download config, weights, and what says more of them (licence, data, template) of one commit, nothing else."""
    with commit_of(name, hub_id, CONFIG, "it is not a PEFT adapter") as commit:
        chosen = _choose_weights(name, commit.files)
        weights = commit.download(chosen)
        for file in (CARD, TRAINING, PROVENANCE):
            if file in commit.files:
                commit.download(file)
    public = "/".join(filter(None, (hub_id.repo, hub_id.subfolder)))
    notes = _beside(commit.files, chosen)
    return Source(name, commit.folder, commit.folder / CONFIG, weights, public, commit.sha, notes)
