"""How an adapter was made, on its card: from what, with hashes; its licence, its limits, what to cite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from extsub.adapters.codecs import CODECS
from extsub.adapters.scores import Scores
from extsub.adapters.stated import LICENCE, data_named
from extsub.errors import counted
from extsub.escaping import line, markdown

PICTURE = "loss.png"
"""The picture of the loss beside a trained adapter."""
BASE_AND_DATA = "that of the base model and of the data"
SUPPRESSING = ("ext-sub", "subtract", "contrast")
"""Operations that take something away."""
PAPER = """@inproceedings{hu2024separate,
  title     = {Separate the Wheat from the Chaff: Model Deficiency Unlearning via Parameter-Efficient Module Operation},
  author    = {Hu, Xinshuo and Li, Dongfang and Hu, Baotian and Zheng, Zihao and Liu, Zhenyu and Zhang, Min},
  booktitle = {Proceedings of the AAAI Conference on Artificial Intelligence},
  year      = {2024},
  url       = {https://arxiv.org/abs/2308.08090}
}
"""
"""The paper of the method, as CITATION.cff has it."""


def origin(record: Mapping[str, Any]) -> str:
    """Who made a combined adapter of what, as the end of a sentence."""
    version = markdown(record["versions"]["extsub"])
    if "operation" not in record:
        return f"written by extsub {version}"
    expert, *others = (markdown(name_of(given)) for given in record["inputs"])
    what = "the deficiency" if record["deficiency"] else markdown(record["operation"])
    return f"made by extsub {version}: {what} of {expert} and {', '.join(others)}"


def how_combined(record: Mapping[str, Any]) -> list[str]:
    """How an adapter was combined, as a section of its card: the operation and its inputs."""
    lines = [
        "## How it was made",
        "",
        f"{markdown(record['operation'])}, row by row of every module: result = {markdown(record['formula'])}",
        "",
        "| role | adapter | α | trained on | licence | SHA-256 of the weights |",
        "|---|---|---|---|---|---|",
    ]
    for given in record["inputs"]:
        commit, digest = given.get("commit"), given.get("weights_sha256")
        data = filter(None, (*given.get("datasets", ()), given.get("data")))
        cells = [
            markdown(given["role"]),
            markdown(name_of(given) + (f" @ {commit[:12]}" if commit else "")),
            "" if given["alpha"] is None else f"{given['alpha']:g}",
            ", ".join(map(markdown, data)) or "not stated",
            _terms(given.get("licence", {})) or "not stated",
            f"`{markdown(digest[:16])}`" if digest else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    size = f"{record['modules']} module{'s' * (record['modules'] > 1)}"
    size += f", rank {record['rank']}" if record["rank"] else ""
    spread = "; α is spread over them by the profile in `extsub.json`" if "profile" in record else ""
    return [*lines, "", f"{size}{spread}.", ""]


def how_trained(record: Mapping[str, Any]) -> list[str]:
    """How an adapter was trained, as a section of its card: the data and the settings."""
    settings, plan = record["settings"], record["plan"]
    dataset, file = data_named(plan["data"]["name"])
    rows = {
        "data": f"{markdown(file or dataset)}, {counted(plan['data']['rows'], 'row')}, SHA-256 "
        f"`{markdown(plan['data']['sha256'][:16])}`",
        "prompt": f"{markdown(settings['template'])} template; the loss is on the answer and its end token",
        "steps": f"{plan['steps']:,} of {settings['batch_size']} rows, {settings['epochs']:g} epochs",
        "learning rate": f"{settings['learning_rate']:g}, linear, {settings['warmup']:.0%} warm-up",
        "trainable parameters": f"{plan['trainable_parameters']:,}",
        "loss": f"{record['first_loss']:.4f} at first, {record['last_loss']:.4f} at last",
        "seed": settings["seed"],
    }
    table = [f"| {name} | {value} |" for name, value in rows.items()]
    lines = ["## How it was trained", "", "| | |", "|---|---|", *table, "", f"![loss by step]({PICTURE})", ""]
    return [*lines, f"Licence: {BASE_AND_DATA}; not stated here.", ""]


def common_licence(inputs: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The licence of all inputs, as fields of the hub; none where they are not of one."""
    licences = [given.get("licence", {}) for given in inputs]
    common = licences[0] if licences and all(licence == licences[0] for licence in licences) else {}
    return {name: common[name] for name in LICENCE if name in common}


def licence_of(inputs: Sequence[Mapping[str, Any]]) -> str:
    """The licence of what was made of these, as a sentence."""
    if licence := common_licence(inputs):
        return f"Licence: {_terms(licence)}, as the inputs state; {BASE_AND_DATA} holds as well."
    if any(given.get("licence") for given in inputs):
        return f"Licence: those of all inputs, which are not the same, and {BASE_AND_DATA}."
    return f"Licence: {BASE_AND_DATA}; not stated by the inputs."


def limits(kind: str, record: Mapping[str, Any], scores: Scores | None) -> list[str]:
    """What a combined adapter is not for."""
    purpose = "It is meant to suppress what the anti-expert was trained to show, and adds no knowledge. "
    lines = [
        f"{purpose * (record['operation'] in SUPPRESSING)}What it does{_beyond(scores)}, and what that costs in other "
        "abilities, was not measured here: evaluate before you rely on it.",
        "It means something on this base model only, and keeps what the base and the expert have of errors and biases.",
    ]
    if caution := CODECS[kind].caution:
        lines.append(f"{caution[0].upper()}{caution[1:]}.")
    if truncation := record["truncation"]:
        lines.append(
            f"It was truncated to rank {truncation['rank']}, with a relative error of "
            f"{truncation['relative_error']:.2%}{_before_that(scores)}."
        )
    return ["## Limits", "", *(f"- {text}" for text in lines), ""]


def limits_of_training(scores: Scores | None) -> list[str]:
    """What a trained adapter is not for."""
    return [
        "## Limits",
        "",
        f"- The loss says how well it fits its own data. What it does to anything else{_beyond(scores)} was not "
        "measured here: evaluate before you rely on it.",
        "- It means something on this base model only, and has learnt what its data have of errors and biases.",
        "",
    ]


def citation(record: Mapping[str, Any], with_paper: bool) -> list[str]:
    """BibTeX of the software, and of the paper where its method was used."""
    software = [
        "@software{extsub,",
        "  title   = {extsub},",
        "  author  = {{The extsub authors}},",
        f"  version = {{{line(record['versions']['extsub'])}}},",
        "  url     = {https://github.com/extsub/extsub}",
        "}",
    ]
    paper = "The method: Hu et al., AAAI 2024, [arXiv 2308.08090](https://arxiv.org/abs/2308.08090)."
    lines = ["## Citation", "", *([paper, ""] if with_paper else []), "```bibtex"]
    return [*lines, *([PAPER] if with_paper else []), *software, "```", ""]


def name_of(given: Mapping[str, Any]) -> str:
    """What an input of a combined adapter is called."""
    return given["name"] or "a result that was not saved"


def _terms(licence: Mapping[str, str]) -> str:
    return markdown(licence.get("license_name") or licence.get("license", ""))


def _beyond(scores: Scores | None) -> str:
    return " beyond the scores above" if scores else ""


def _before_that(scores: Scores | None) -> str:
    return "; the scores are those before that" if scores and scores["before_truncation"] else ""
