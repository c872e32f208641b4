"""What inspect says, against dense matrices."""

from __future__ import annotations

import os
import xml.dom.minidom
from pathlib import Path

import pytest
import torch

import adapter_files
import extsub
import oracle
from adapter_files import Q, V
from benchmark_files import done
from conftest import Command
from extsub import combine, inspect, load_adapter, save_adapter
from extsub.inspection.inspect import AdapterInfo, PairInfo


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return adapter_files.lora(tmp_path / "e"), adapter_files.lora(tmp_path / "a", rank=2, seed=1)


def test_figures_of_a_pair_are_those_of_the_dense_matrices(pair: tuple[Path, Path]) -> None:
    info = extsub.inspect(*pair)
    assert isinstance(info, PairInfo)
    by_name = {module.name: module for module in info.modules}
    for name in (Q, V):
        e, a = (adapter_files.read_delta(folder, name) for folder in pair)
        cosine = (oracle.unit(e) * oracle.unit(a)).sum(1)
        shared = a - oracle.deficiency(e, a)
        module = by_name[name]
        assert module.expert_norm == pytest.approx(e.norm().item(), rel=1e-9)
        assert module.anti_norm == pytest.approx(a.norm().item(), rel=1e-9)
        assert module.ratio == pytest.approx((a.norm() / e.norm()).item(), rel=1e-9)
        assert module.mean_row_cosine == pytest.approx(cosine.mean().item(), rel=1e-7)
        assert module.shared_energy == pytest.approx((shared.norm() ** 2 / a.norm() ** 2).item(), rel=1e-7)
        assert module.largest_row_ratio == pytest.approx((a.norm(dim=1) / e.norm(dim=1)).max().item(), rel=1e-9)


def test_modules_on_one_side_only_and_zero_rows(tmp_path: Path) -> None:
    expert = adapter_files.lora(tmp_path / "e", {Q: (12, 8)})
    adapter_files.edit_tensors(expert, add={f"{adapter_files.PREFIX}{Q}.lora_B.weight": torch.zeros(12, 3)})
    info = extsub.inspect(expert, adapter_files.lora(tmp_path / "a", seed=1))
    assert isinstance(info, PairInfo)
    q, v = sorted(info.modules, key=lambda module: module.name)
    assert (q.expert_norm, q.ratio, q.mean_row_cosine, q.zero_expert_rows) == (0, None, None, 12)
    assert (v.expert_norm, v.ratio, v.zero_expert_rows) == (0, None, 4)
    assert "e lacks 1 of the modules of a" in info.notes[0]


def test_a_damaged_number_is_a_problem_not_a_crash(tmp_path: Path) -> None:
    adapter_files.edit_tensors(
        adapter_files.lora(tmp_path / "a"),
        add={f"{adapter_files.PREFIX}{Q}.lora_A.weight": torch.full((3, 8), torch.nan)},
    )
    info = extsub.inspect(tmp_path / "a")
    assert isinstance(info, AdapterInfo)
    assert info.problem
    assert "lora_A.weight holds NaN or infinity" in info.problem
    assert info.to_dict()["can_be_combined"] is False


@pytest.mark.parametrize("make", [adapter_files.lora, adapter_files.ia3, adapter_files.prefix])
def test_every_kind(tmp_path: Path, make) -> None:
    info = extsub.inspect(make(tmp_path / "x"))
    assert isinstance(info, AdapterInfo)
    assert (info.problem, info.base, info.dtype) == (None, "made-up/tiny", "float32")
    assert extsub.inspect(tmp_path / "x", make(tmp_path / "y", seed=3)).to_dict()["modules"]


def test_a_plot_shows_every_layer_and_module(tmp_path: Path) -> None:
    from extsub.inspection.heat_map import plot_pair

    shapes = {f"model.layers.{layer}.self_attn.{m}": (4, 4) for layer in range(20) for m in ("q_proj", "v_proj")}
    shapes |= {"lm_head": (6, 4)}
    fields = {"target_modules": ["q_proj", "v_proj", "lm_head"]}
    info = extsub.inspect(
        adapter_files.lora(tmp_path / "e", shapes, **fields),
        adapter_files.lora(tmp_path / "a", shapes, seed=1, **fields),
    )
    assert isinstance(info, PairInfo)
    plot_pair(info, tmp_path / "one.svg")
    plot_pair(info, tmp_path / "other.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "other.svg").read_bytes(), "the same bytes every time"
    text = (tmp_path / "one.svg").read_text()
    for label in (
        "self_attn.q_proj",
        "self_attn.v_proj",
        "lm_head",
        "mean row cosine",
        "norm ratio |a| / |e|",
        "layer",
    ):
        assert f"<!-- {label} -->" in text


@pytest.mark.skipif(os.name == "nt", reason="no file has such a name there")
def test_names_in_a_file_are_shown_and_do_nothing(tmp_path: Path, extsub: Command) -> None:
    """Neither for a terminal, nor for rich, nor for matplotlib, which would fail for a letter that its font lacks."""
    names = (
        "a[/b].q_proj",
        "a$\\frac$c.k_proj",
        "b--></svg>&.o_proj",
        "模型.o_proj",
    )
    shapes = {f"model.layers.{place}.{name}": (4, 4) for place, name in enumerate(names)}
    for folder, seed in (("$e[red]", 0), ("a[/b", 1)):
        adapter_files.lora(
            Path(folder), shapes, seed=seed, target_modules=list(shapes), base_model_name_or_path="x[/b] :smile:"
        )
    for words in (("$e[red]",), ("$e[red]", "a[/b", "--plot", "plot.svg"), ("$e[red]", "a[/b", "--plot", "plot.png")):
        said = done(extsub("inspect", *words))
        assert "\x1b" not in said
        assert "x[/b] :smile:" in said
    for shown in (r"a[/b].q_proj", r"a$\frac$c.k_proj", r"模型.o_proj"):
        assert shown in said
    svg = Path("plot.svg").read_text()
    assert xml.dom.minidom.parseString(svg).documentElement.tagName == "svg"
    assert svg.count("</svg>") == 1
    adapter_files.lora(Path("escape"), {"model.layers.0.\x1b]0;title\x07\x1b[31m.v_proj": (4, 4)})
    said = done(extsub("inspect", "escape"))
    assert "\x1b" not in said
    assert "combine    no: escape: adapter_model.safetensors has a tensor called" in said
    refused = extsub("inspect", "no\x1b[31mthing\nhere[/b]")
    assert refused.stderr.startswith(r"Error: no\x1b[31mthing here[/b]: no such folder")


def test_a_notebook_shows_tables_in_which_names_are_data(tmp_path: Path) -> None:
    names = [adapter_files.lora(tmp_path / f"{name}<b>&", seed=seed) for seed, name in enumerate("ea")]
    pair = inspect(*names)
    for shown in (load_adapter(names[0]), inspect(names[0]), pair):
        page = shown._repr_html_()
        assert page.startswith("<table><caption>")
        assert "e&lt;b&gt;&amp;" in page
        assert "<b>" not in page
    assert pair._repr_html_().count("<tr>") == 1 + len(pair.modules)


def test_a_result_in_memory_is_inspected_as_it_would_be_written(tmp_path: Path) -> None:
    result = combine(*adapter_files.pair(tmp_path))
    save_adapter(result, tmp_path / "out")
    planned, written = inspect(result), inspect(tmp_path / "out")
    for name in ("kind", "base", "tensors", "parameters", "dtype", "modules"):
        assert getattr(planned, name) == getattr(written, name)
    assert planned.bytes < written.bytes  # by the header
