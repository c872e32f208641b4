"""Chat templates as models have them: what is learnt is what is scored and asked, token by token; or it is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import benchmark_files
import tiny_models
from conftest import Command
from extsub.data.instructions import Example
from extsub.errors import ExtSubError, RowError
from extsub.inference import requests
from extsub.inference.generation import generate_answers
from extsub.inference.language_model import LanguageModel
from extsub.inference.requests import Answer
from extsub.models.prompts import Message, render_answer, render_prompt
from extsub.training.encoding import encode

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|head|>' + m.role + '<|/head|>\n\n' + m.content | trim + '<|eot|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|head|>assistant<|/head|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{{ '<turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content | trim + '<end_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<turn>model\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content | trim + eos_token }}{% endif %}{% endfor %}"
)
LLAMA2 = MISTRAL.replace("eos_token", "' ' + eos_token")
DEEPSEEK = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}"
    "{{ '<|A|>' + (m.content if loop.last else m.content.split('</think>')[-1]) + eos_token }}"
    "{% else %}{{ '<|U|>' + m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|A|>{% endif %}"
)
"""drops the thoughts of earlier turns"""
REASONER = DEEPSEEK.replace(
    "(m.content if loop.last else m.content.split('</think>')[-1])", "m.content.split('</think>')[-1]"
)
REASONER = REASONER.replace("<|A|>{% endif %}", "<|A|>{{ '<think>\n' }}{% endif %}")
"""drops the thoughts of all turns, and opens them in its prompt"""
QWEN3 = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% set said = m.content %}{% set thought = '' %}"
    "{% if '</think>' in said %}{% set thought = said.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set said = said.split('</think>')[-1].lstrip('\n') %}{% endif %}{{ '<|im_start|>assistant\n' }}"
    "{% if loop.last %}{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}{{ said + '<|im_end|>\n' }}"
    "{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""puts an empty block of thoughts before the last answer, and asks without it"""
QWEN3_THINKING = QWEN3.replace(
    "'<|im_start|>assistant\n' }}{% endif %}", "'<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
PHI = (
    "{% for m in messages %}{{ '<|head|>' + m.role + '\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|head|>assistant\n' }}{% else %}{{ eos_token }}{% endif %}"
)
HARMONY = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role }}{% if m.role == 'assistant' %}<|channel|>final{% endif %}"
    "{{ '<|head|>' + m.content + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant' }}{% endif %}"
)
PLAIN = benchmark_files.CHAT
"""ends an answer with a new line alone"""

MARKS = ["<|im_start|>", "<|im_end|>", "<|head|>", "<|/head|>", "<|eot|>", "<turn>", "<end_turn>", "<|end|>"]
MARKS += ["<|U|>", "<|A|>", "<|channel|>"]

# What follows the prompt when "It is blue." is learnt, by hand.
FOLLOWS = {
    "chatml": (CHATML, "It is blue.<|im_end|>"),
    "llama3": (LLAMA3, "It is blue.<|eot|>"),
    "gemma": (GEMMA, "It is blue.<end_turn>"),
    "mistral": (MISTRAL, " It is blue.</s>"),
    "llama2": (LLAMA2, " It is blue. </s>"),
    "deepseek": (DEEPSEEK, "It is blue.</s>"),
    "qwen3": (QWEN3, "It is blue.<|im_end|>"),
    "phi": (PHI, "It is blue.<|end|>"),
    "plain": (PLAIN, " It is blue.</s>"),  # its prompt ends with a space, one token with the word that follows
}
SKY = Message("user", "What colour is the sky?")
HELLO = (Message("user", "Hi"), Message("assistant", "<think>\nPolite.\n</think>\n\nHello"), SKY)


def chatting(template: str) -> PreTrainedTokenizerFast:
    tokenizer = tiny_models.tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": MARKS})
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = template
    return tokenizer


def scored(
    monkeypatch: pytest.MonkeyPatch, tokenizer: Any, messages: tuple[Message, ...], answer: str
) -> tuple[list[int], int]:
    """(tokens, where the answer starts), as evaluation reads them."""
    rows = []

    def remember(_model: object, encoded: list[Any], _size: object) -> list[object]:
        rows.extend(encoded[0].rows)
        return []

    monkeypatch.setattr("extsub.inference.log_likelihood.score_rows", remember)
    model: Any = SimpleNamespace(tokenizer=tokenizer, system="", longest=None, check_tokens=lambda *_: None)
    list(requests.choose(model, {0: requests.Question(messages, (answer,))}, "chat", None, end_token=True))
    return list(rows[0].tokens), rows[0].start


@pytest.mark.parametrize("name", FOLLOWS)
@pytest.mark.parametrize("messages", [(SKY,), HELLO], ids=["one", "several"])
def test_what_is_learnt_is_what_is_scored_and_what_is_asked(
    monkeypatch: pytest.MonkeyPatch, name: str, messages: tuple[Message, ...]
) -> None:
    template, follows = FOLLOWS[name]
    tokenizer = chatting(template)
    learnt = encode([Example(messages, "It is blue.")], tokenizer, "chat", 1000)
    row, start = learnt.tokens[0], learnt.answers[0]
    assert scored(monkeypatch, tokenizer, messages, "It is blue.") == (row, start)
    assert tokenizer.decode(row[start:]) == follows
    if name == "plain":
        return
    conversation = [message._asdict() for message in messages]
    asked = tokenizer.apply_chat_template(conversation, add_generation_prompt=True, return_dict=False)
    assert row[:start] == asked


@pytest.mark.parametrize("name", FOLLOWS)
def test_thoughts_that_the_data_has_are_learnt(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    thought = "<think>\nAir scatters light.\n</think>\n\nIt is blue."
    tokenizer = chatting(FOLLOWS[name][0])
    learnt = encode([Example((SKY,), thought)], tokenizer, "chat", 1000)
    row, start = learnt.tokens[0], learnt.answers[0]
    assert tokenizer.decode(row[start:]).lstrip() == FOLLOWS[name][1].lstrip().replace("It is blue.", thought)
    assert scored(monkeypatch, tokenizer, (SKY,), thought) == (row, start)


def test_a_prompt_that_opens_thoughts_is_followed_by_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = chatting(QWEN3_THINKING)
    thought = "<think>\nAir scatters light.\n</think>\n\nIt is blue."
    learnt = encode([Example((SKY,), thought)], tokenizer, "chat", 1000)
    row, start = learnt.tokens[0], learnt.answers[0]
    assert tokenizer.decode(row[:start]).endswith("assistant\n<think>\n")
    assert tokenizer.decode(row[start:]) == "Air scatters light.\n</think>\n\nIt is blue.<|im_end|>"
    assert scored(monkeypatch, tokenizer, (SKY,), thought) == (row, start)


THOUGHT = "<think>It is noon.</think>It is blue."
ASKED = (Message("user", "?"),)
REFUSED = {
    "thoughts are dropped": (
        REASONER,
        ASKED,
        THOUGHT,
        "a part of the answer, it writes 'It is blue.</s>' for '<think>It",
    ),
    "thoughts are opened": (REASONER, ASKED, "Blue.", "asks with '<think>\\n' where it writes 'Blue.' once there is"),
    "thoughts are closed": (QWEN3_THINKING, ASKED, "Blue.", "puts '\\n</think>\\n\\n' between question and answer"),
    "thoughts are written otherwise": (
        QWEN3,
        ASKED,
        THOUGHT,
        "it writes '\\nIt is noon.\\n</think>\\n\\nIt is b' for 'It is",
    ),
    "words are rewritten": (
        CHATML.replace("m.content", "m.content | replace('blue', 'BLUE')"),
        ASKED,
        "It is blue.",
        "rewrites a part of the answer, it writes 'BLUE.<|im_end|>\\n' for 'blue.'",
    ),
    "all is rewritten": (
        CHATML.replace("m.content", "m.content | upper"),
        ASKED,
        "a",
        "it writes 'A<|im_end|>\\n' for 'a'",
    ),
    "the answer is cut": (
        CHATML.replace("m.content", "m.content[:30]"),
        ASKED,
        "Blue. " * 9,
        "drops or rewrites a part",
    ),
    "the question is rewritten": (
        CHATML.replace("m.content", "m.content | upper"),
        (SKY,),
        "B",
        "rewrites the question",
    ),
    "the question is dropped": (
        "{% for m in messages %}<|im_start|>{{ m.content[0].text }}<|im_end|>{% endfor %}",
        (SKY,),
        "Blue.",
        "leaves out or rewrites the question",
    ),
    "a channel is opened": (HARMONY, ASKED, "Blue.", "puts '<|channel|>final<|head|>' between question and answer"),
    "the system is refused": (GEMMA, (Message("system", "Be brief."), SKY), "Blue.", "System role not supported"),
    "the order is refused": (GEMMA, (SKY, SKY), "Blue.", "refuses a conversation: Conversation roles must alternate"),
    "the question is written otherwise": (
        "{% for m in messages %}{% if loop.last %}# {% endif %}{{ m.content }}{% endfor %}",
        ASKED,
        "Blue.",
        "asks with '# ?' where it writes '?# Blue.' once there is an answer",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_template_changes_is_refused_in_training_and_in_scoring(name: str) -> None:
    template, messages, answer, message = REFUSED[name]
    tokenizer = chatting(template)
    with pytest.raises(ExtSubError) as error:
        encode([Example(messages, answer)] * 3, tokenizer, "chat", 1000, places=["f, line 1", "f, line 2", "f, line 4"])
    said = str(error.value)
    assert said.startswith("f, line 1: --template chat: ")
    assert said.endswith(" (and 2 more such rows); use --template extsub, or correct or remove the row")
    assert message in said
    assert len(said) < 400
    with pytest.raises(RowError) as refused:
        requests.request(requests.Question(messages, (answer,)), "chat", tokenizer)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("template", "messages", "answer", "learnt", "note"),
    [
        (LLAMA3, ASKED, " Blue.\n", "Blue.<|eot|>", "drops white space at the ends of the answer"),
        (MISTRAL, (SKY,), "\nBlue.", " Blue.</s>", "drops white space at the ends of the answer"),
        (QWEN3, ASKED, "Blue.", "Blue.<|im_end|>", "puts '<think>\\n\\n</think>' before the answer, but asks without"),
        (DEEPSEEK, HELLO, "Blue.", "Blue.</s>", "leaves out or rewrites a part of the messages before the question"),
        (PHI.replace("m.content", "('' if m.role == 'system' else m.content)"), (Message("system", "x"), SKY), "Blue.",
         "Blue.<|end|>", "leaves out or rewrites a part of the messages before the question"),
    ],
)  # fmt: skip
def test_what_a_template_leaves_out_otherwise_is_counted(
    monkeypatch: pytest.MonkeyPatch, template: str, messages: tuple[Message, ...], answer: str, learnt: str, note: str
) -> None:
    tokenizer = chatting(template)
    encoded = encode([Example((SKY,), "It is."), Example(messages, answer)], tokenizer, "chat", 1000)
    row, start = encoded.tokens[1], encoded.answers[1]
    assert tokenizer.decode(row[start:]) == learnt
    assert scored(monkeypatch, tokenizer, messages, answer) == (row, start)
    (said,) = encoded.notes
    assert note in said
    assert said.startswith("2 of 2 rows: " if template is QWEN3 else "1 of 2 rows: ")


def test_an_end_that_is_there_is_not_doubled() -> None:
    row = encode([Example((SKY,), "Blue.<|im_end|>")], chatting(CHATML), "chat", 1000)
    assert chatting(CHATML).decode(row.tokens[0][row.answers[0] :]) == "Blue.<|im_end|>"


TOKENIZERS = {name: chatting(template) for name, (template, _) in FOLLOWS.items()}
texts = st.text(st.sampled_from("ab .\n<>/think"), min_size=1, max_size=12).filter(str.strip)


@given(st.sampled_from(sorted(FOLLOWS)), texts, texts)
def test_nothing_of_an_answer_is_lost(name: str, question: str, answer: str) -> None:
    """Whatever stands in it: white space at its ends apart, it is learnt as it is, or it is refused."""
    messages = [Message("user", question)]
    try:
        prompt = render_prompt(messages, "chat", TOKENIZERS[name])
        said = render_answer(prompt, messages, answer, "chat", TOKENIZERS[name])
    except RowError:
        return
    assert said.text.strip() == answer.strip()


def test_generation_stops_where_the_template_ends_an_answer(here: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(here / "base")
    module = AutoModelForCausalLM.from_pretrained(here / "base").eval()
    model = LanguageModel(module, module, tokenizer)
    prompt = tokenizer("Who wrote", return_tensors="pt")
    tokens = module.generate(**prompt, max_new_tokens=8, do_sample=False)[0, prompt["input_ids"].shape[1] :].tolist()
    end = tokens[3]
    (stopped,) = generate_answers(model, {0: "Who wrote"}, max_new_tokens=8, end=end)
    assert stopped.finished
    assert stopped.text == tokenizer.decode(tokens[: tokens.index(end)])


@pytest.mark.parametrize("marks", [True, False])
def test_an_answer_ends_at_the_mark_be_it_one_token_or_several(monkeypatch: pytest.MonkeyPatch, marks: bool) -> None:
    tokenizer = chatting(CHATML) if marks else tiny_models.tokenizer()
    tokenizer.chat_template = CHATML
    ends = []

    def say(*_: object, end: int | None, **__: object) -> Iterator[Answer]:
        ends.append(end)
        yield Answer(0, "Blue." if marks else "Blue.<|im_end|>\n<|im_start|>user", finished=marks)

    monkeypatch.setattr("extsub.inference.generation.generate_answers", say)
    model: Any = SimpleNamespace(tokenizer=tokenizer, system="")
    ((prompt, answer),) = requests.answer(model, {0: (SKY,)}, "chat", None, 9)
    assert (answer.text, answer.finished) == ("Blue.", True)
    assert prompt == f"<|im_start|>user\n{SKY.content}<|im_end|>\n<|im_start|>assistant\n"
    assert ends == [tokenizer.convert_tokens_to_ids("<|im_end|>") if marks else None]


def test_a_row_that_the_template_refuses_is_named_by_every_command(here: Path, extsub: Command) -> None:
    base = tiny_models.llama(here / "gemma")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = GEMMA
    tokenizer.save_pretrained(base)
    ask, say = {"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I."}
    good, bad = {"messages": [ask, say]}, {"messages": [ask, ask, say]}
    benchmark_files.lines(
        here / "some.jsonl", [good, good, bad, good, {"messages": [{"role": "system", "content": "x"}, ask, say]}]
    )
    for words in (
        "train --data some.jsonl --output out --template chat --dry-run",
        "evaluate perplexity --data some.jsonl --prompt chat --output out",
        "evaluate toxicity --data some.jsonl --prompt chat --toxicity-model judge --output out",
        "generate --prompts some.jsonl --prompt chat --output out.jsonl",
    ):
        run = extsub(*words.split(), "--model", "gemma")
        option = "--template" if words.startswith("train") else "--prompt"
        assert (run.returncode, run.stdout) == (2, "")
        assert run.stderr == (
            f"Error: some.jsonl, line 3: {option} chat: the tokenizer's chat template refuses a conversation: "
            "Conversation roles must alternate user/assistant/user/assistant/... (and 1 more such row); use "
            f"{option} extsub, or correct or remove the row\n"
        )
        assert not list(here.glob("out*"))


def test_the_plan_and_training_json_say_what_the_template_does(here: Path, extsub: Command) -> None:
    base = tiny_models.llama(here / "qwen")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = QWEN3
    tokenizer.save_pretrained(base)
    words = "train --model qwen --data data/rows.jsonl --output out --template chat --warmup 0"
    run = extsub(*words.split())
    assert run.returncode == 0, run.stderr
    note = "6 of 6 rows: the chat template puts '<think>\\n\\n</think>' before the answer, but asks without it"
    assert note in run.stdout
    plan = json.loads(Path("out/training.json").read_text())["plan"]
    assert any(note in text for text in plan["notes"])
    assert "think" not in plan["example"]["loss_on"]
