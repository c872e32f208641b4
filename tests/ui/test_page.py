"""The page in a browser: what people do, and what they see."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from torch import Tensor

import reference
import served_pages
from extsub import Session, combine, save_adapter
from extsub.escaping import block
from extsub.report.reading import read_sweep
from extsub.ui.answers import Answers
from extsub.ui.listening import hosts_of, listen
from listening import first_logits
from served_pages import NEW, QUESTION, Visit

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of the libraries
PROMPT = f"<|user|>\n{QUESTION}\n<|assistant|>\n"
SELECTED = "document.activeElement"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("gradio", minversion="6.31", reason="gradio is not installed")
    return served_pages.models(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def session(folder: Path) -> Session:
    return Session.open([folder / "expert", folder / "anti"], max_new_tokens=NEW)


@pytest.fixture(scope="module")
def browser() -> Generator[Any]:
    with served_pages.chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def address(folder: Path, session: Session, browser: Any) -> Generator[str]:
    from extsub.ui.serve import application

    written = folder / "written"
    written.mkdir()
    page = application(Answers(session), read_sweep(folder / "swept"), written)
    with served_pages.served(page) as address:
        yield address


@pytest.fixture
def heard(session: Session, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    return first_logits(session, monkeypatch)


@pytest.fixture
def visit(browser: Any, address: str) -> Generator[Visit]:
    """Somebody's visit, on which nothing goes wrong and nothing is asked of others."""
    visit = Visit(browser, address)
    yield visit
    assert visit.errors == []
    assert visit.outside() == []
    visit.page.close()


def said_by(folder: Path, adapter: Path | None, question: str = QUESTION) -> tuple[str, Tensor]:
    """What PEFT's own model says, as the page shows it, and the logits of its first token."""
    with reference.evaluated(folder / "base", adapter) as model:
        tokens = model.tokenizer(f"<|user|>\n{question}\n<|assistant|>\n")["input_ids"]
        new, _ = model.greedy(tokens, NEW, {1})
        return block(model.tokenizer.decode(new, skip_special_tokens=True).strip()), model.logits(tokens)[-1]


def result(folder: Path, operation: str, alpha: float) -> Path:
    """An adapter made apart from the page."""
    output = folder / f"made-{operation}-{alpha:g}"
    if not output.exists():
        save_adapter(combine(folder / "expert", folder / "anti", operation=operation, alpha=alpha), output)
    return output


def test_a_question_is_answered_twice_and_the_slider_turns_the_right_answer(folder: Path, visit: Visit) -> None:
    chosen = read_sweep(folder / "swept")
    alpha = chosen.alpha(chosen.result)
    assert alpha is not None
    expert, result_there = said_by(folder, folder / "expert")[0], said_by(folder, result(folder, "ext-sub", alpha))[0]
    assert visit.ask() == (expert, result_there)
    assert visit.headings() == ["expert", f"ext-sub, α = {alpha:g}"]
    for turned in (2.0, 0.25):
        said = visit.after(lambda turned=turned: visit.turn(turned))
        assert said == (expert, said_by(folder, result(folder, "ext-sub", turned))[0])
        assert visit.headings() == ["expert", f"ext-sub, α = {turned:g}"]
    visit.page.fill("#question textarea", "What is it?")
    said = visit.after(lambda: visit.page.press("#question textarea", "Enter"))
    assert said[0] == said_by(folder, folder / "expert", "What is it?")[0]


def test_every_name_on_the_page_is_the_model_of_that_name(
    folder: Path, session: Session, browser: Any, heard: dict[str, Tensor]
) -> None:
    """By logits: α = 0 is the expert, the base the base, and what is written says what the page said."""
    from extsub.ui.serve import application

    output = folder / "out"
    with served_pages.served(application(Answers(session), None, output)) as address:
        visit = Visit(browser, address)
        visit.ask()
        shown = dict(zip(("expert", "ext-sub-0"), visit.after(lambda: visit.type_alpha(0)), strict=True))
        visit.after(lambda: visit.choose("left", "base"))
        visit.after(lambda: visit.choose("operation", "contrast"))
        shown |= dict(zip(("base", "contrast-1.5"), visit.after(lambda: visit.type_alpha(1.5)), strict=True))
        assert visit.headings() == ["base", "contrast, α = 1.5"]
        shown["anti-expert"] = visit.after(lambda: visit.choose("left", "anti-expert"))[0]
        visit.page.fill("#name textarea", "liked")
        visit.page.click("#write")
        visit.page.wait_for_selector("#written:has-text('written:')")
    assert heard.keys() >= shown.keys()
    made = {"base": None, "expert": folder / "expert", "ext-sub-0": folder / "expert", "anti-expert": folder / "anti"}
    made["contrast-1.5"] = output / "liked"
    for label, adapter in made.items():
        text, logits = said_by(folder, adapter)
        assert shown[label] == text, label
        torch.testing.assert_close(heard[label], logits, rtol=1e-4, atol=1e-4)
    assert (heard["base"] - heard["expert"]).abs().max() > 0.1
    assert (heard["contrast-1.5"] - heard["expert"]).abs().max() > 0.1
    assert [path.name for path in output.iterdir()] == ["liked"]


def test_the_menu_changes_operation_and_models(folder: Path, visit: Visit) -> None:
    expert = visit.ask()[0]
    subtracted = visit.after(lambda: visit.choose("operation", "subtract"))
    chosen = read_sweep(folder / "swept").record["chosen"]["subtract"]["position"]
    alpha = float(chosen.removeprefix("subtract-")) if chosen else 1.0
    assert subtracted == (expert, said_by(folder, result(folder, "subtract", alpha))[0])
    assert visit.after(lambda: visit.choose("right", "base")) == (expert, said_by(folder, None)[0])
    assert visit.headings() == ["expert", "base"]
    turned = visit.after(lambda: visit.turn(2.0))  # the right side follows the slider again
    assert turned == (expert, said_by(folder, result(folder, "subtract", 2.0))[0])


def test_a_point_in_the_picture_turns_the_slider(folder: Path, visit: Visit) -> None:
    visit.ask()
    there = visit.after(lambda: visit.point("contrast-0.5"))
    assert there[1] == said_by(folder, result(folder, "contrast", 0.5))[0]
    assert visit.page.input_value("#dial input[type=range]") == "0.5"
    assert visit.headings() == ["expert", "contrast, α = 0.5"]
    assert visit.page.locator("#picture .wide .here").get_attribute("data-position") == "contrast-0.5"
    assert len(set(visit.after(lambda: visit.point("expert")))) == 1
    assert "the same words" in str(visit.page.text_content("#said .right"))
    before = visit.headings()
    visit.after(lambda: visit.point("random-0.5"))  # a control is no operation
    assert visit.headings() == before


def test_beside_the_slider_stands_what_was_measured(folder: Path, visit: Visit) -> None:
    record = read_sweep(folder / "swept").positions["ext-sub-2"]["tasks"]
    visit.page.click(".tick[data-alpha='2.0']")
    truth, ability = record["truthfulqa-mc"]["mc1"]["value"], record["perplexity"]["perplexity"]["value"]
    visit.page.wait_for_selector(f"#known :text('{truth:.3f}')")
    visit.page.wait_for_selector(f"#known :text('{ability:.3f}')")
    assert not visit.page.locator("#known .warning").count()
    visit.type_alpha(7)
    visit.page.wait_for_selector("#known .warning:has-text('α = 7 is outside of what was measured, 0 to 2')")
    assert "--alpha 7 " in str(visit.page.text_content("#lines"))
    assert visit.page.locator("#picture .here").count() == 0


def test_a_ready_prompt_asks_itself(folder: Path, visit: Visit) -> None:
    question = visit.page.locator("#ready button").first.text_content()
    said = visit.after(lambda: visit.page.click("#ready button >> nth=0"))
    assert said[0] == said_by(folder, folder / "expert", question)[0]
    assert visit.page.input_value("#question textarea") == question


def test_nothing_is_written_but_below_the_output(folder: Path, visit: Visit) -> None:
    before = sorted(folder.rglob("*"))
    for name in ("../out-of-it", "/tmp/out-of-it", "..", ""):
        visit.page.fill("#name textarea", name)
        visit.page.wait_for_selector(f"""#lines .warning:has-text("'{name}' is not a name")""")
        visit.page.click("#write")
        visit.page.wait_for_selector(f"""#written .warning:has-text("'{name}' is not a name")""")
    (folder / "written" / "link").symlink_to(folder / "expert")
    visit.page.fill("#name textarea", "link")
    visit.page.click("#write")
    visit.page.wait_for_selector("#written .warning:has-text('already exists')")
    (folder / "written" / "link").unlink()
    assert sorted(folder.rglob("*")) == before


def test_a_hostile_answer_is_text(session: Session, visit: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = "</div><script>alert(1)</script><img src=x onerror=alert(2)> ${alert(3)} {{ 7 * 7 }} `x` [a](b)"

    class Reply(list):
        finished, shortened = True, False

        def close(self) -> None:
            pass

    monkeypatch.setattr(session, "stream", lambda *_: Reply(hostile))
    assert visit.ask(hostile) == (hostile, hostile)
    assert visit.page.locator("#said img, #said script").count() == 0


def test_hostile_names_are_text(folder: Path, browser: Any) -> None:
    from extsub.ui.serve import application

    name = "<img src=x onerror=alert(1)> ${alert(2)} {{x}}"
    hostile = shutil.copytree(folder / "expert", folder / "named" / name)
    session = Session.open([hostile, folder / "anti"], max_new_tokens=NEW)
    with served_pages.served(application(Answers(session), None, folder / name)) as address:
        visit = Visit(browser, address)
        visit.ask()
        for part in ("#head", "#lines", "#use label"):
            assert name in str(visit.page.locator(part).first.text_content())
        assert visit.page.locator("img").count() == 0
        assert visit.errors == []
        visit.page.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_on_this_machine_alone_it_answers_to_no_other_name(folder: Path, session: Session, host: str) -> None:
    """A name that somebody made to lead here is not this machine's; with --host 0.0.0.0 nobody knows all names."""
    from extsub.ui.serve import application

    with listen(host, 0) as listener:
        hosts = hosts_of(listener)
    names = {"localhost:7860": 200, "127.0.0.1": 200, "[::1]:7860": 200}
    names |= dict.fromkeys(
        ("elsewhere.example:7860", "localhost.elsewhere.example"), 400 if host == "127.0.0.1" else 200
    )
    with served_pages.served(application(Answers(session), None, folder / "none", hosts)) as address:
        assert {name: httpx.get(address, headers={"host": name}).status_code for name in names} == names


def test_two_tabs_ask_at_once_and_a_closed_one_leaves_the_model_free(folder: Path, browser: Any, address: str) -> None:
    visits = [Visit(browser, address) for _ in range(3)]
    question = "When was the river named?"
    for visit, alpha in zip(visits, (0.35, 0.65, 0.95), strict=True):
        visit.type_alpha(alpha)
        visit.page.wait_for_selector(f"#said h2:has-text('α = {alpha:g}')")
        visit.page.fill("#question textarea", question)
    for visit in visits[:2]:
        visit.page.click("#ask")
    visits[0].page.close()
    last = visits[2].after(lambda: visits[2].page.click("#ask"))
    for said, alpha in ((visits[1].answers(), 0.65), (last, 0.95)):
        assert said[1] == said_by(folder, result(folder, "ext-sub", alpha), question)[0]
    for visit in visits[1:]:
        visit.page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_screen_needs_no_scrolling_sideways(browser: Any, address: str, scheme: str) -> None:
    visit = Visit(browser, address, viewport={"width": 390, "height": 844}, color_scheme=scheme, has_touch=True)
    visit.ask("x" * 300)
    visit.after(lambda: visit.choose("operation", "subtract"))
    visit.page.fill("#name textarea", "n" * 100)
    visit.type_alpha(99)
    visit.page.wait_for_selector("#known .warning")
    assert visit.page.evaluate("document.documentElement.scrollWidth") == 390
    background = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 27, 33)"}[scheme]
    visit.page.close()


def test_the_keyboard_is_enough(folder: Path, visit: Visit) -> None:
    def tab_to(selector: str) -> None:
        for _ in range(80):
            if visit.page.evaluate(f'{SELECTED}.matches("{selector}")'):
                return
            visit.page.keyboard.press("Tab")
        raise AssertionError(f"the tabulator does not reach {selector}")

    tab_to("#question textarea")
    visit.page.keyboard.type(QUESTION)
    tab_to("#ask")
    expert = visit.after(lambda: visit.page.keyboard.press("Enter"))[0]
    tab_to("#dial input[type=range]")
    turned = visit.after(lambda: [visit.page.keyboard.press(key) for key in ("Home", *["ArrowRight"] * 10)])
    assert turned == (expert, said_by(folder, result(folder, "ext-sub", 0.5))[0])
    tab_to("#picture .wide [data-position='contrast-1']")
    there = visit.after(lambda: visit.page.keyboard.press("Enter"))
    assert there[1] == said_by(folder, result(folder, "contrast", 1.0))[0]
    tab_to("#name textarea")
    visit.page.keyboard.press("Control+a")
    visit.page.keyboard.type("typed")
    tab_to("#write")
    visit.page.keyboard.press("Enter")
    visit.page.wait_for_selector("#written:has-text('written:')")
    written, made = (
        (path / "adapter_model.safetensors").read_bytes()
        for path in (folder / "written" / "typed", result(folder, "contrast", 1.0))
    )
    assert written == made
    shutil.rmtree(folder / "written" / "typed")


def test_a_line_is_copied(browser: Any, address: str) -> None:
    visit = Visit(browser, address)
    visit.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visit.page.click("#lines [data-copy] >> nth=0")
    line = visit.page.text_content("#lines pre >> nth=0")
    assert visit.page.evaluate("navigator.clipboard.readText()") == line
    assert str(line).startswith("extsub combine ")
    visit.page.close()
