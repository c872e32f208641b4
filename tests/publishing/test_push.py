"""What goes to the hub, and what is said where it does not: against a stand-in for the hub that takes real uploads."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, ModelCard

import adapter_files
import benchmark_files
import sweep_files
from conftest import ROOT, Command, contents, start
from extsub import ExtSubError, combine, load_adapter, push, save_adapter
from stub_hub import TOKEN, WritableHub, serving

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=")  # huggingface_hub's way to send a large file
OURS = ("README.md", "adapter_config.json", "adapter_model.safetensors", "extsub.json")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[WritableHub]]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    state = {"private": {}, "heads": {}, "commits": [], "objects": {}, "refuses": {}}
    with serving(WritableHub, monkeypatch, tmp_path, **state) as handler:
        yield handler


@pytest.fixture
def better(tmp_path: Path) -> Path:
    """An adapter that extsub combined."""
    return combined(tmp_path, "better")


def combined(folder: Path, name: str, alpha: float = 0.5) -> Path:
    for seed, given in enumerate(("expert", "anti")):
        adapter_files.lora(folder / given, seed=seed, rank=2 + seed)
    save_adapter(combine(folder / "expert", folder / "anti", alpha=alpha), folder / name)
    return folder / name


def trained(folder: Path, kind: str = "LORA") -> Path:
    """An adapter as extsub train leaves it, without training."""
    if kind == "LORA":
        adapter_files.lora(folder)
    else:
        tensors = {"prompt_embeddings": torch.zeros(2, 8)}
        adapter_files.write(folder, tensors, {"peft_type": kind, "task_type": "CAUSAL_LM", "num_virtual_tokens": 2})
    record = {
        "format": 1,
        "settings": {
            "template": "chat",
            "batch_size": 8,
            "seed": 0,
            "epochs": 2,
            "learning_rate": 2e-5,
            "warmup": 0.03,
        },
        "plan": {"data": {"name": "ann/facts", "rows": 9, "sha256": "d" * 64}, "steps": 3, "trainable_parameters": 96},
        "first_loss": 3.0,
        "last_loss": 2.0,
        "versions": {"extsub": "0.1.0"},
    }
    (folder / "training.json").write_text(json.dumps(record))
    (folder / "loss.png").write_bytes(b"\x89PNG a picture")
    return folder


# ---- what arrives ----------------------------------------------------------------------------------------------------


def test_the_bytes_of_the_folder_arrive_in_one_commit_and_the_card_names_the_repository(
    hub: type[WritableHub], better: Path, extsub: Command
) -> None:
    before = contents(better)
    done = extsub("push", "better", "ann/better")
    assert (done.returncode, done.stderr) == (0, "")
    (commit,) = hub.commits
    assert commit["message"] == f"ext-sub of expert and anti (α 0.5), written by extsub {version('extsub')}"
    assert sorted(commit["added"]) == sorted(OURS)
    assert hub.private == {"ann/better": True}
    for name in set(OURS) - {"README.md"}:
        assert commit["added"][name] == before[name]
    card = commit["added"]["README.md"].decode()
    assert "PeftModel.from_pretrained(model, 'ann/better')" in card
    assert "--lora-modules better=ann/better" in card
    assert (
        "$ extsub export gguf ann/better --output better.gguf\n$ llama-server -m BASE.gguf --lora better.gguf" in card
    )
    assert ModelCard(card).data.base_model == adapter_files.BASE
    assert contents(better) == before, "the folder stays as it is"
    lines = done.stdout.splitlines()
    assert lines[0] == "ann/better: ext-sub of expert and anti (α 0.5), private"
    assert lines[-2:] == [f"written: {hub_url()}/ann/better", "next:    extsub inspect ann/better"]


def hub_url() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT


def test_what_was_pushed_is_an_adapter_that_loads_from_there(hub: type[WritableHub], better: Path) -> None:
    record = push(better, "ann/better", public=True)
    assert hub.private == {"ann/better": False}
    assert record["commit"] == hub.heads["ann/better"]
    arrived, here = load_adapter("ann/better@main"), load_adapter(better)
    for name, module in here.modules.items():
        assert torch.equal(adapter_files.dense(module.read()), adapter_files.dense(arrived.modules[name].read()))


def test_what_is_not_extsubs_stays_here_and_is_named(hub: type[WritableHub], better: Path, extsub: Command) -> None:
    for name in ("notes.txt", ".env", "id_rsa", ".README.md.partial-write", "training_args.bin", "tokenizer.json"):
        (better / name).write_text("a secret")
    for name in ("checkpoint-10", ".cache", "runs"):
        (better / name).mkdir()
        (better / name / "optimizer.pt").write_text("a secret")
    done = extsub("push", "better", "ann/better", "--json")
    assert done.returncode == 0, done.stderr
    assert sorted(hub.commits[0]["added"]) == sorted(OURS)
    assert not [content for content in hub.objects.values() if b"a secret" in content]
    assert json.loads(done.stdout)["left_out"] == [
        ".README.md.partial-write", ".cache/", ".env", "checkpoint-10/", "id_rsa", "notes.txt", "runs/",
        "tokenizer.json", "training_args.bin",
    ]  # fmt: skip
    assert "stays here  checkpoint-10/\n" in extsub("push", "better", "ann/better").stdout


def test_a_dry_run_shows_card_and_sizes_and_asks_nothing(
    hub: type[WritableHub], better: Path, extsub: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    told = extsub("push", "better", "ann/better", "--dry-run").stdout
    assert "ann/better: ext-sub of expert and anti (α 0.5), private, not uploaded\n" in told
    assert "model = PeftModel.from_pretrained(model, 'ann/better')\n" in told
    assert f"        {(better / 'extsub.json').stat().st_size / 1e3:.1f} kB  extsub.json\n" in told
    record = json.loads(extsub("push", "better", "ann/better", "--dry-run", "--json").stdout)
    sizes = {file["name"]: file["bytes"] for file in record["files"]}
    assert sizes["README.md"] == len(record["card"].encode())
    for name in set(OURS) - {"README.md"}:
        assert sizes[name] == (better / name).stat().st_size
    assert record["commit"] is None
    assert hub.asked == []


@pytest.mark.parametrize(
    ("kind", "called"), [("LORA", "LoRA"), ("P_TUNING", "p-tuning"), ("PROMPT_TUNING", "prompt-tuning")]
)
def test_a_trained_adapter_goes_up_with_its_picture(
    hub: type[WritableHub], tmp_path: Path, kind: str, called: str
) -> None:
    before = contents(trained(tmp_path / "expert", kind))
    record = push(tmp_path / "expert", "lab/expert")
    assert record["what"].startswith(f"{called} adapter for ")
    (commit,) = hub.commits
    assert {name: commit["added"][name] for name in before} == before
    card = commit["added"]["README.md"].decode()
    assert "'lab/expert'" in card
    assert ("vllm serve" in card) == (kind == "LORA")
    assert ModelCard(card).data.datasets == ["ann/facts"]


@pytest.mark.filterwarnings("ignore")  # of the libraries
def test_what_extsub_train_writes_can_be_pushed(tmp_path: Path, hub: type[WritableHub], extsub: Command) -> None:
    """What of it names a place on this machine is told."""
    benchmark_files.base(tmp_path / "base")
    benchmark_files.lines(tmp_path / "data.jsonl", [{"instruction": "Who?", "output": "Nobody."}] * 4)
    asked = ("--model", "base", "--data", tmp_path / "data.jsonl", "--output", "o", "--batch-size", 2)
    assert extsub("train", *asked).returncode == 0
    record = json.loads(extsub("push", "o", "ann/o", "--json").stdout)
    assert sorted(hub.commits[0]["added"]) == sorted(file["name"] for file in record["files"])
    assert str(tmp_path) not in record["card"]
    assert [note.partition(": ")[0] for note in record["notes"]] == [
        "adapter_config.json names no base model of the hub, so others cannot find it",
        f"adapter_config.json names {tmp_path / 'base'}, a place on this machine, and goes up as it is",
        f"training.json names {tmp_path / 'data.jsonl'}, a place on this machine, and goes up as it is",
    ]


def merged(folder: Path, files: tuple[str, ...] = ()) -> Path:
    """As extsub merge leaves a model."""
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    carried = ["config.json", "generation_config.json", "tokenizer.json", "additional_chat_templates/tool.jinja"]
    (folder / "additional_chat_templates").mkdir(parents=True)
    for name in (*shards, "model.safetensors.index.json", *carried):
        (folder / name).write_text(f"what {name} holds")
    record = {
        "format": 1,
        "base": {"name": "owner/base", "commit": "b" * 40, "sha256": None},
        "adapter": {"kind": "LORA", "name": "better", "commit": None, "weights_sha256": "a" * 64},
        "files": [*shards, "model.safetensors.index.json", *carried, *files],
        "notes": [],
        "versions": {"extsub": "0.1.0"},
    }
    (folder / "extsub.json").write_text(json.dumps(record))
    code = "model = M.from_pretrained('merged', dtype=\"auto\")\ntokenizer = T.from_pretrained('merged')"
    front = "---\nbase_model: owner/base\nbase_model_relation: finetune\nlibrary_name: transformers\n---\n"
    (folder / "README.md").write_text(f"{front}# merged\n\n## Use\n\n```python\n{code}\n```\n")
    return folder


def test_a_merged_model_goes_up_whole_and_only_what_merging_wrote(hub: type[WritableHub], tmp_path: Path) -> None:
    folder = merged(tmp_path / "merged")
    (folder / "notes.txt").write_text("a secret")
    before = contents(folder)
    record = push(folder, "ann/whole", overwrite=True)
    assert (record["what"], record["left_out"]) == ("owner/base with better merged in", ["notes.txt"])
    (commit,) = hub.commits
    sent = commit["added"]
    card = sent.pop("README.md").decode()
    assert sent == {name: content for name, content in before.items() if name not in ("README.md", "notes.txt")}
    assert "\n# whole\n" in card
    assert "from_pretrained('ann/whole', dtype=\"auto\")\ntokenizer = T.from_pretrained('ann/whole')" in card
    assert ModelCard(card).data.base_model_relation == "finetune"
    assert contents(folder) == before
    with pytest.raises(ExtSubError, match="^--scores are for the card of an adapter: push the adapter with them$"):
        push(folder, "ann/whole", scores=tmp_path)
    with pytest.raises(ExtSubError, match="holds another result"):
        push(combined(tmp_path, "better"), "ann/whole")


@pytest.mark.parametrize("name", [".env", "../expert/adapter_config.json", "/etc/hosts", "modeling.py", "optimizer.pt"])
def test_a_record_that_lists_what_no_merged_model_has_is_refused(
    hub: type[WritableHub], tmp_path: Path, name: str
) -> None:
    (merged(tmp_path / "merged", (name,)) / ".env").write_text("a secret")
    with pytest.raises(
        ExtSubError, match=f"extsub.json names {re.escape(name)}, which no merged model has: merge anew"
    ):
        push(tmp_path / "merged", "ann/whole")
    (merged(tmp_path / "cut") / "config.json").unlink()
    with pytest.raises(ExtSubError, match="cut/config.json is missing, or not a file of its own"):
        push(tmp_path / "cut", "ann/whole")
    assert hub.asked == []


def test_every_line_of_the_page_does_what_it_says(hub: type[WritableHub], better: Path, extsub: Command) -> None:
    adapters = [load_adapter(name).source.provenance() for name in ("expert", "anti")]
    swept = sweep_files.made_up(Path("swept"), items=40, alphas=(0.5,), operations=("ext-sub",))
    swept["made_of"]["adapters"] = adapters
    sweep_files.write(Path("swept"), swept)
    lines = (ROOT / "docs" / "publish.md").read_text(encoding="utf-8").splitlines()
    commands = [line.partition("#")[0].split()[1:] for line in lines if line.startswith("    extsub push")]
    assert len(commands) == 4
    for command in commands:
        done = extsub(*command)
        assert (done.returncode, done.stderr) == (0, ""), command
    assert hub.private == {"ann/better": True, "ann/shown": False}
    assert ["README.md" in commit["added"] and len(commit["added"]) for commit in hub.commits] == [4, 1, 4]
    assert b"model-index" in hub.commits[1]["added"]["README.md"]


# ---- a repository that is there --------------------------------------------------------------------------------------


def test_the_same_adapter_may_be_pushed_again(hub: type[WritableHub], better: Path) -> None:
    first = push(better, "ann/better")
    again = push(better, "ann/better")
    assert (again["commit"], len(hub.commits)) == (first["commit"], 1)
    assert again["notes"][-1] == "nothing had changed there"
    (hub.root / "ann" / "better" / "README.md").write_text("an older card")
    push(better, "ann/better")
    assert list(hub.commits[1]["added"]) == ["README.md"]


def test_another_adapter_is_replaced_only_if_one_says_so(hub: type[WritableHub], tmp_path: Path, better: Path) -> None:
    push(trained(tmp_path / "other"), "ann/better")
    with pytest.raises(ExtSubError) as refused:
        push(better, "ann/better")
    assert str(refused.value) == (
        "ann/better holds another result: choose another repository, or pass --overwrite to replace it"
    )
    assert len(hub.commits) == 1
    push(better, "ann/better", overwrite=True)
    assert hub.commits[1]["removed"] == ["loss.png", "training.json"]
    assert set(contents(hub.root / "ann" / "better")) == {*OURS, ".gitattributes"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ["pytorch_model.bin", "README.md"],
            "ann/theirs holds files that extsub did not write, first pytorch_model.bin: choose another repository",
        ),
        (["model.safetensors", "config.json"], "ann/theirs was not written by extsub (it has neither extsub.json nor"),
        (
            ["adapter_config.json", "adapter_model.safetensors", "README.md"],
            "ann/theirs was not written by extsub (it has neither extsub.json nor training.json): choose another "
            "repository",
        ),
        (["extsub.json", "notes.md"], "ann/theirs holds files that extsub did not write, first notes.md: choose"),
    ],
)
def test_what_others_put_there_is_never_replaced(
    hub: type[WritableHub], better: Path, files: list[str], message: str
) -> None:
    HfApi(token=TOKEN).create_repo("ann/theirs", private=True)
    for name in files:
        (hub.root / "ann" / "theirs" / name).write_text("theirs")
    before = contents(hub.root / "ann" / "theirs")
    for overwrite in (False, True):
        with pytest.raises(ExtSubError, match=re.escape(message)):
            push(better, "ann/theirs", overwrite=overwrite)
    assert (hub.commits, contents(hub.root / "ann" / "theirs")) == ([], before)


@pytest.mark.parametrize(
    ("private", "public", "message"),
    [
        (False, False, "ann/new is public: pass --public to publish there, or choose another repository"),
        (True, True, "ann/new is private: leave --public out, or make it public on its settings page of the hub first"),
    ],
)
def test_nothing_is_published_by_mistake(
    hub: type[WritableHub], better: Path, private: bool, public: bool, message: str
) -> None:
    HfApi(token=TOKEN).create_repo("ann/new", private=private)
    with pytest.raises(ExtSubError) as refused:
        push(better, "ann/new", public=public)
    assert (str(refused.value), hub.commits) == (message, [])
    push(better, "ann/new", public=not private)  # an empty repository is as good as none
    assert len(hub.commits) == 1


# ---- what stands in the way ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["better", "a/b/c", "ann/", "/better", "ann/be tter", "ann/better@main", "https://hf.co/a/b", "", "ann/-x"],
)
def test_what_is_not_owner_and_name_is_refused(
    hub: type[WritableHub], better: Path, extsub: Command, name: str
) -> None:
    refused = extsub("push", "better", name)
    assert refused.returncode == 2
    assert "owner/name, the id of a repository on the hub\n" in refused.stderr
    assert hub.asked == []


def test_without_a_token_one_is_told_how_to_get_one(
    hub: type[WritableHub], better: Path, extsub: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    refused = extsub("push", "better", "ann/better")
    assert (refused.returncode, refused.stderr) == (
        2, "Error: ann/better: no token of the hub on this machine: run 'hf auth login', or set HF_TOKEN\n"
    )  # fmt: skip
    assert hub.asked == []
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    refused = extsub("push", "better", "ann/better")
    assert (refused.returncode, refused.stderr) == (
        2, "Error: ann/better: the hub does not accept this token: run 'hf auth login', or set HF_TOKEN anew\n"
    )  # fmt: skip


def test_what_the_token_may_not_do_is_one_sentence(hub: type[WritableHub], better: Path, extsub: Command) -> None:
    refused = extsub("push", "better", "meta-llama/better")
    assert (refused.returncode, refused.stderr) == (
        2,
        "Error: meta-llama/better: not permitted: this token may not write there; take another token, or another "
        "owner\n",
    )
    assert hub.commits == []


@pytest.mark.parametrize(
    ("part", "status", "said"),
    [
        ("/large/", 403, "not permitted: this token may not write there; take another token, or another owner"),
        ("/commit/", 412, "somebody has just changed it: push again"),
        ("/commit/", 400, "the hub answered with an error: "),
        ("validate-yaml", 400, "the hub answered with an error: Invalid metadata in README.md."),
    ],
)
def test_a_push_that_fails_leaves_an_empty_repository_and_goes_on(
    hub: type[WritableHub], better: Path, extsub: Command, part: str, status: int, said: str
) -> None:
    hub.refuses[part] = status
    refused = extsub("push", "better", "ann/better")
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"Error: ann/better: {said}")
    assert refused.stderr.endswith("; the repository was made and is empty, the same command goes on\n")
    assert refused.stderr.count("\n") == 1
    assert set(contents(hub.root / "ann" / "better")) == {".gitattributes"}
    hub.refuses.clear()
    assert extsub("push", "better", "ann/better").returncode == 0


def test_what_changed_meanwhile_is_not_overwritten(
    hub: type[WritableHub], better: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(better, "ann/better")
    look = HfApi.model_info

    def look_and_lose(*given: object, **more: object) -> object:
        seen = look(*given, **more)
        hub.heads["ann/better"] = "e" * 40
        return seen

    monkeypatch.setattr(HfApi, "model_info", look_and_lose)
    (hub.root / "ann" / "better" / "README.md").write_text("theirs")
    with pytest.raises(ExtSubError, match="^ann/better: somebody has just changed it: push again$"):
        push(better, "ann/better")
    assert (hub.root / "ann" / "better" / "README.md").read_text() == "theirs"


def test_without_a_network_that_is_said(
    hub: type[WritableHub], better: Path, extsub: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    with socket.create_server(("127.0.0.1", 0)) as server:
        nobody = f"http://127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", nobody)
    refused = extsub("push", "better", "ann/better")
    assert refused.returncode == 2
    assert refused.stderr.startswith(
        f"Error: ann/better: the hub ({nobody}) cannot be reached, or the connection broke"
    )
    assert refused.stderr.count("\n") == 1
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused = extsub("push", "better", "ann/better")
    assert (refused.returncode, refused.stderr) == (
        2, "Error: ann/better: HF_HUB_OFFLINE is set, so the hub is not asked: unset it\n"
    )  # fmt: skip


def test_the_hubs_other_large_storage_refuses_in_one_sentence(
    hub: type[WritableHub], better: Path, extsub: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Xet, which a stand-in does not speak: what its own library raises is told as well."""
    pytest.importorskip("hf_xet")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    hub.refuses["/xet-write-token/"] = 403
    refused = extsub("push", "better", "ann/better")
    assert refused.returncode == 2
    assert refused.stderr.startswith("Error: ann/better: not permitted: this token may not write there; ")
    assert refused.stderr.endswith("; the repository was made and is empty, the same command goes on\n")
    assert refused.stderr.count("\n") == 1


def test_who_stops_a_push_is_told_where_to_look(
    hub: type[WritableHub], better: Path, extsub: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(HfApi, "create_commit", stopped)
    done = extsub("push", "better", "ann/better")
    assert (done.returncode, done.stderr) == (
        130, f"Error: interrupted; the hub has not confirmed it: look at {hub_url()}/ann/better\n"
    )  # fmt: skip


def spoil(folder: Path, how: str) -> None:
    weights, record = folder / "adapter_model.safetensors", folder / "extsub.json"
    if how == "gone":
        shutil.rmtree(folder)
    elif how == "no weights":
        weights.unlink()
    elif how == "cut":
        weights.write_bytes(weights.read_bytes()[:-4])
    elif how == "a pickle":
        weights.rename(folder / "adapter_model.bin")
    elif how == "others' weights":
        adapter_files.edit_tensors(folder, remove="v_proj")
    elif how == "no record":
        record.unlink()
    elif how == "no JSON":
        record.write_text("{")
    elif how == "a link":
        weights.rename(folder.parent / "elsewhere")
        weights.symlink_to(folder.parent / "elsewhere")
    elif how == "a head":
        (folder / "value_head.bin").write_bytes(b"")
    else:
        value = {"inputs": [], "format": 2, "notes": "none", "versions": {}, "scores": {"tasks": 1}}[how]
        record.write_text(json.dumps({**json.loads(record.read_text()), how: value}))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("gone", "better: no such folder: give one that extsub wrote"),
        ("no weights", "neither adapter_model.safetensors nor adapter_model.bin is there"),
        ("cut", "adapter_model.safetensors is not the one that extsub.json tells of: write the adapter anew"),
        (
            "a pickle",
            "better/adapter_model.safetensors is missing, or not a file of its own: put the file itself there",
        ),
        ("others' weights", "adapter_model.safetensors is not the one that extsub.json tells of"),
        ("no record", "better was not written by extsub (it has neither extsub.json nor training.json)"),
        ("no JSON", "better/extsub.json is broken: write the folder anew"),
        ("a link", "better/adapter_model.safetensors is missing, or not a file of its own: put the file itself there"),
        ("a head", "better: value_head.bin lies beside the adapter (a trained head) and is not part of it"),
        ("inputs", "better/extsub.json is broken: write the folder anew"),
        ("notes", "better/extsub.json is broken: write the folder anew"),
        ("versions", "better/extsub.json is broken: write the folder anew"),
        ("scores", "better/extsub.json is broken: write the folder anew"),
        ("format", "better/extsub.json has format 2, and this extsub reads format 1"),
    ],
)
def test_what_extsub_did_not_write_is_refused_before_the_hub_is_asked(
    hub: type[WritableHub], better: Path, extsub: Command, how: str, message: str
) -> None:
    spoil(better, how)
    refused = extsub("push", "better", "ann/better")
    assert refused.returncode == 2
    assert message in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert hub.asked == []


@pytest.mark.parametrize("name", ["expert", "base"])
def test_adapters_and_models_of_other_programs_are_refused(tmp_path: Path, better: Path, name: str) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "model.safetensors").write_bytes(b"")
    with pytest.raises(ExtSubError, match="was not written by extsub \\(it has neither extsub.json nor training.json"):
        push(tmp_path / name, "ann/better", dry_run=True)


def test_others_words_do_nothing_on_the_card(tmp_path: Path, better: Path) -> None:
    """A folder may come from anybody who says that extsub wrote it."""
    path = better / "extsub.json"
    record = json.loads(path.read_text())
    evil = "x\n```\n<img src=x onerror=alert(1)> [a](javascript:b)"
    record["inputs"][0] |= {
        "licence": {"base_model": "evil/one", "license": evil},
        "role": evil,
        "weights_sha256": evil,
    }
    record["versions"]["extsub"] = evil
    path.write_text(json.dumps(record))
    card = push(better, "ann/better", dry_run=True)["card"]
    assert ModelCard(card).data.base_model == adapter_files.BASE
    text = card.partition("\n---\n")[2]
    assert "\n<img" not in text
    assert not re.search(r"(?<!\\)<img", text.replace("@software", "").partition("```bibtex")[0])


def test_from_the_shell_the_endpoint_is_the_environments(hub: type[WritableHub], better: Path, tmp_path: Path) -> None:
    """In a process of its own, as HF_ENDPOINT is read when huggingface_hub is imported; and torch is not."""
    code = (
        "import sys\nfrom extsub.__main__ import main\n"
        "try: main(['push', 'better', 'ann/better', '--quiet'])\nfinally: print(*sys.modules)"
    )
    where = {"HF_ENDPOINT": hub_url(), "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    done = start(tmp_path, "-c", code, HF_HOME=str(tmp_path / "home"), **where)
    assert (done.returncode, done.stderr) == (0, "")
    assert adapter_files.tensors_of(hub.root / "ann" / "better")
    assert not {"torch", "transformers", "peft"} & set(done.stdout.split())
    assert os.environ["HF_HUB_OFFLINE"] == "1"
