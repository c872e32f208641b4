"""Hub ids, against a stand-in for the hub on this machine: real downloads, real errors, one commit for all files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import peft
import pytest
import torch
from huggingface_hub.repocard import metadata_load
from transformers import AutoModelForCausalLM

import adapter_files
import gguf_bases
import merge_files
import tiny_models
from conftest import start
from extsub import ExtSubError, combine, export_gguf, load_adapter, merge, save_adapter
from extsub.demo import model as demo_model
from extsub.inference.language_model import load_base
from extsub.models.adapter_handle import find
from extsub.models.base import load_config, load_model
from extsub.models.source import find_model
from stub_hub import COMMIT, OLD, Hub, serving

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    monkeypatch.chdir(tmp_path)
    with serving(Hub, monkeypatch, tmp_path) as handler:
        adapter_files.lora(handler.root / "ann" / "expert")
        adapter_files.lora(handler.root / "ann" / "anti", seed=1)
        yield handler


def test_both_files_come_from_one_commit_and_nothing_else_is_fetched(hub: type[Hub], tmp_path: Path) -> None:
    (hub.root / "ann" / "expert" / "training_args.bin").write_bytes(b"private")
    (hub.root / "ann" / "expert" / "model.safetensors").write_bytes(b"the whole base model")
    expert = load_adapter("ann/expert@old")
    save_adapter(combine(expert, load_adapter("ann/anti")), tmp_path / "out")
    record = adapter_files.record_of(tmp_path / "out")
    assert [(given["name"], given["commit"]) for given in record["inputs"]] == [
        ("ann/expert", OLD),
        ("ann/anti", COMMIT),
    ]
    fetched = {path for path in hub.asked if path.startswith("/ann/expert/")}
    assert fetched == {f"/ann/expert/resolve/old/{CONFIG}", f"/ann/expert/resolve/{OLD}/{WEIGHTS}"}


def test_the_licence_on_the_hub_is_passed_on(hub: type[Hub], tmp_path: Path) -> None:
    for name in ("expert", "anti"):
        (hub.root / "ann" / name / "README.md").write_text("---\nlicense: mit\ndatasets:\n- ann/facts\n---\n")
    save_adapter(combine("ann/expert", "ann/anti"), tmp_path / "out")
    fields = metadata_load(tmp_path / "out" / "README.md")
    assert (fields["license"], fields["datasets"]) == ("mit", ["ann/facts"])
    assert f"| expert | ann/expert \\@ {COMMIT[:12]} |" in (tmp_path / "out" / "README.md").read_text()


def test_the_template_on_the_hub_is_known_and_passed_on(hub: type[Hub], tmp_path: Path) -> None:
    (hub.root / "ann" / "expert" / "training.json").write_text('{"settings": {"template": "chat"}}')
    (hub.root / "ann" / "anti" / "extsub.json").write_text('{"template": "chat"}')
    assert [find(name).template for name in ("ann/expert", "ann/anti")] == ["chat", "chat"]
    save_adapter(combine("ann/expert", "ann/anti"), tmp_path / "out")
    assert adapter_files.record_of(tmp_path / "out")["template"] == "chat"
    (hub.root / "ann" / "anti" / "training.json").write_text('{"settings": {"template": "__import__"}}')
    known = find("ann/anti@old")
    assert known.template == "chat"
    assert known.notes == ("training.json names no template that is known here ('__import__'): it was not believed",)


def test_a_subfolder_of_a_repository(hub: type[Hub]) -> None:
    adapter_files.lora(hub.root / "ann" / "many" / "checkpoints" / "last", rank=2)
    adapter = load_adapter("ann/many/checkpoints/last@main")
    assert adapter.rank == 2
    assert adapter.source
    assert (adapter.source.hub_id, adapter.source.commit) == ("ann/many/checkpoints/last", COMMIT)


def test_a_local_folder_wins_and_nothing_is_said(hub: type[Hub], tmp_path: Path) -> None:
    adapter_files.lora(tmp_path / "ann" / "expert", rank=5)
    adapter = load_adapter("ann/expert")
    assert adapter.rank == 5
    assert not adapter.notes
    assert not hub.asked


def test_a_slip_in_a_local_name_does_not_wait_for_the_hub(hub: type[Hub], tmp_path: Path) -> None:
    (tmp_path / "ann").mkdir()
    with pytest.raises(
        ExtSubError, match="ann/expert: no such folder in ann; if you mean the hub's adapter, write ann/expert@main"
    ):
        load_adapter("ann/expert")
    assert not hub.asked
    assert load_adapter("ann/expert@main").rank == 3


def test_weights_beside_the_adapter_are_noticed_on_the_hub_too(hub: type[Hub]) -> None:
    for file in ("model.safetensors", "optimizer.pt", "adapter_model.bin"):
        (hub.root / "ann" / "expert" / file).write_bytes(b"")
    assert load_adapter("ann/expert").notes == tuple(
        f"{file} lies beside adapter_model.safetensors and was not read"
        for file in ("adapter_model.bin", "model.safetensors")
    )
    (hub.root / "ann" / "expert" / "value_head.bin").write_bytes(b"")
    with pytest.raises(ExtSubError, match="value_head.bin lies beside the adapter"):
        load_adapter("ann/expert")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ann/none", "ann/none: no such folder here and no such repository on the hub, or it is private"),
        ("ann/expert@new", "ann/expert@new: the hub repository has no revision new"),
        ("gated/model", "gated/model: access is gated: ask for it on its hub page"),
        ("ann/bare", "ann/bare: the hub repository has no adapter_config.json: it is not a PEFT adapter"),
        ("ann/half", "ann/half: neither adapter_model.safetensors nor adapter_model.bin is there"),
        ("a" * 97 + "/x", "the hub answered with an error"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(hub: type[Hub], name: str, message: str) -> None:
    (hub.root / "ann" / "bare").mkdir()
    (adapter_files.lora(hub.root / "ann" / "half") / WEIGHTS).unlink()
    with pytest.raises(ExtSubError, match=message) as caught:
        load_adapter(name)
    assert "\n" not in str(caught.value)


def test_a_connection_that_breaks_off_is_one_sentence(hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object, **__: object) -> None:
        raise huggingface_hub.errors.HTTPError("Server disconnected without sending a response.")

    monkeypatch.setattr(huggingface_hub, "list_repo_files", gone)
    with pytest.raises(
        ExtSubError, match="ann/expert: the hub .* cannot be reached, or the connection broke off"
    ) as caught:
        load_adapter("ann/expert")
    assert "Server disconnected" in str(caught.value)


def test_offline_the_cache_serves_what_it_has(hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    load_adapter("ann/expert")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.asked)
    adapter = load_adapter("ann/expert")
    assert adapter.source
    assert adapter.source.commit == COMMIT
    with pytest.raises(ExtSubError, match="ann/anti: no such folder here, and it is not in the cache of the hub"):
        load_adapter("ann/anti")
    assert len(hub.asked) == asked


def test_a_base_of_the_hub_is_merged_with_the_files_that_it_needs(
    hub: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of one commit; a quantised one is refused before its weights come; offline the cache serves what it has."""
    from huggingface_hub import constants

    base = merge_files.plain(hub.root / "ann" / "base")
    (base / "tokenizer.json").write_text("{}")
    (base / "README.md").write_text("---\nlicense: mit\n---\n")
    for name in ("pytorch_model.bin", "modeling_own.py", "training_args.bin", "original/consolidated.safetensors"):
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_bytes(b"not to be fetched")
    record = merge("ann/base@old", "ann/expert", tmp_path / "merged")
    assert (record["base"], record["changed"]) == ({"name": "ann/base", "commit": OLD, "sha256": None}, 2)
    wanted = ("README.md", "tokenizer.json", "model.safetensors")
    fetched = {path for path in hub.asked if path.startswith("/ann/base/")}
    assert fetched == {"/ann/base/resolve/old/config.json", *(f"/ann/base/resolve/{OLD}/{name}" for name in wanted)}
    expected = adapter_files.read_delta(hub.root / "ann" / "expert", adapter_files.Q)
    expected += merge_files.weights(base)[f"{adapter_files.Q}.weight"]
    ours = merge_files.weights(tmp_path / "merged")[f"{adapter_files.Q}.weight"]
    torch.testing.assert_close(ours.double(), expected, atol=1e-6, rtol=1e-6)
    fields = metadata_load(tmp_path / "merged" / "README.md")
    assert (fields["base_model"], fields["base_model_relation"], fields["license"]) == ("ann/base", "finetune", "mit")
    assert record["notes"] == ["the adapter names another base, made-up/tiny"]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert merge("ann/base@old", "ann/expert", tmp_path / "again")["base"] == record["base"]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.asked.clear()
    merge_files.plain(hub.root / "ann" / "quantised", quantization_config={"quant_method": "awq"})
    with pytest.raises(ExtSubError, match="ann/quantised is quantised"):
        merge("ann/quantised", "ann/expert", tmp_path / "none")
    with pytest.raises(ExtSubError, match="ann/anti: the hub repository has no config.json: it holds no model"):
        merge("ann/anti", "ann/expert", tmp_path / "none")
    assert not any("model.safetensors" in path for path in hub.asked if "/expert/" not in path)


@pytest.mark.filterwarnings("ignore")  # of the libraries
def test_a_model_of_the_hub_is_taken_without_the_adapter_beside_it(hub: type[Hub], tmp_path: Path) -> None:
    for name in ("plain", "both"):
        tiny_models.llama(hub.root / "ann" / name)
    made = peft.LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False)
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(hub.root / "ann" / "plain"), made).save_pretrained(
        hub.root / "ann" / "both"
    )
    both, plain = (load_base(find_model(f"ann/{name}"), "float32") for name in ("both", "plain"))
    assert len(both.name.notes) == 1
    assert plain.name.notes == ()
    for ours, theirs in zip(both.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    (hub.root / "ann" / "expert" / "config.json").write_bytes((hub.root / "ann" / "plain" / "config.json").read_bytes())
    for name in ("ann/anti", "ann/expert"):  # without config.json, and with it
        with pytest.raises(ExtSubError, match=r"an adapter is there .*: pass it as --adapter if you mean it"):
            load_model(find_model(name), torch.float32)
    with pytest.raises(ExtSubError, match=r"ann/none: the model could not be loaded: [^;]*$"):
        load_config(find_model("ann/none"))


@pytest.mark.filterwarnings("ignore")  # of the libraries
def test_of_a_base_on_the_hub_the_config_alone_is_fetched(hub: type[Hub], tmp_path: Path) -> None:
    base, shapes = gguf_bases.made(hub.root / "ann" / "base", "Qwen2ForCausalLM")
    (base / "model.safetensors").write_bytes(b"large")
    adapter = adapter_files.lora(tmp_path / "a", shapes, base_model_name_or_path="ann/base")
    assert export_gguf(adapter, tmp_path / "a.gguf")["architecture"] == "qwen2"
    assert {path.rpartition("/")[2] for path in hub.asked} == {"config.json"}
    adapter_files.edit_config(adapter, base_model_name_or_path="gated/base")
    with pytest.raises(ExtSubError, match="the base of .*: gated/base: access is gated: .* or say with --base where"):
        export_gguf(adapter, tmp_path / "b.gguf")
    export_gguf(adapter, tmp_path / "b.gguf", base="ann/base@old")


def test_the_demo_takes_its_model_from_the_hub(hub: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(demo_model, "_cache", lambda: tmp_path / "ours")
    tiny_models.llama(hub.root / demo_model.HUB)
    model = demo_model.find_demo_model(None)
    assert model == demo_model.DemoModel(demo_model.HUB, "SmolLM2-135M-Instruct")
    assert hub.asked == [f"/{demo_model.HUB}/resolve/main/config.json"]
    load_base(find_model(model.name), "float32")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.asked)
    assert demo_model.find_demo_model(None) == model  # from the hub's cache
    assert len(hub.asked) == asked
    assert not (tmp_path / "ours").exists()


DATASETS = """
import sys
from extsub.data.instructions import load_data
from extsub.errors import ExtSubError
for name in sys.argv[1:]:
    try:
        print(load_data(name).examples)
    except ExtSubError as error:
        print(error)
"""


def test_a_dataset_of_the_hub_is_read(hub: type[Hub], tmp_path: Path) -> None:
    """In a process of its own: the datasets library settles where the hub is when it is imported."""
    folder = hub.root / "ann" / "talk"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text(
        '{"instruction": "Who?", "output": "I."}\n{"instruction": "b", "output": "c"}\n'
    )
    (hub.root / "ann" / "coded").mkdir()
    (hub.root / "ann" / "coded" / "coded.py").write_text("open('ran', 'w')")  # of the kind that used to be run
    from huggingface_hub import constants

    where = {"HF_ENDPOINT": constants.ENDPOINT, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
    run = start(
        tmp_path, "-W", "ignore", "-c", DATASETS, "ann/talk", "ann/talk@main", "ann/nothing", "ann/coded", **where
    )
    rows = "[Example(messages=(Message(role='user', content='Who?'),), answer='I.'), "
    assert len(run.stdout.splitlines()) == 4, run.stderr
    first, second, third, fourth = run.stdout.splitlines()
    assert first == second
    assert first.startswith(rows), run.stderr
    assert third.startswith("ann/nothing: no dataset could be loaded from the hub: ")
    assert "Dataset scripts are no longer supported" in fourth
    assert not (tmp_path / "ran").exists()
