"""The page of ``extsub ui`` on small models, in a Chromium where there is one."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

import reference
import sweep_files
import tiny_models
from extsub import load_adapter
from extsub.evaluation.evaluated_model import identify
from extsub.models.source import find_model

QUESTION = "Who wrote the book?"
NEW = 12
"""tokens of an answer"""
ALPHAS = (0.25, 0.5, 1.0, 2.0)


def models(folder: Path) -> Path:
    """A base, an expert, two anti-experts, and a made-up sweep of the first three."""
    base = tiny_models.llama(folder / "base", max_position_embeddings=512)
    for seed, name in enumerate(("expert", "anti", "other"), start=1):
        reference.adapter(base, folder / name, "lora", seed)
    sweep_files.made_up(folder / "swept", alphas=ALPHAS, operations=("ext-sub", "subtract", "contrast", "random"))
    record = json.loads((folder / "swept" / "sweep.json").read_text())
    sources = [load_adapter(folder / name).source for name in ("expert", "anti")]
    record["made_of"] = {
        **identify(find_model(str(base))),
        "adapters": [source.provenance() for source in sources if source],
    }
    sweep_files.write(folder / "swept", record)
    return folder


@contextlib.contextmanager
def served(application: Any) -> Generator[str]:
    """The address of an application that is served by a thread, until the block ends."""
    import uvicorn

    from extsub.ui.listening import address_of, listen

    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(application, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield address_of(listener)
    finally:
        server.should_exit = True
        thread.join()


@contextlib.contextmanager
def chromium() -> Generator[Any]:
    """A browser; skips where playwright or Chromium is not installed."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        own = Path(playwright.chromium.executable_path)
        program = str(own) if own.exists() else shutil.which("chromium") or shutil.which("google-chrome")
        if not program:
            pytest.skip("no Chromium here: playwright install chromium, or apt install chromium")
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])  # root has no sandbox
        yield browser
        browser.close()


class Visit:
    """A page that somebody has open, and what it asked the network for."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        options = {"viewport": {"width": 1280, "height": 800}, **options}
        self.page = browser.new_page(**options)
        self.page.set_default_timeout(20_000)
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.on("dialog", lambda dialog: (self.errors.append("a dialog"), dialog.dismiss()))
        self.page.goto(address)
        self.page.wait_for_selector("#write")
        self.page.wait_for_function("document.querySelector('#name textarea').value")  # the page's scripts are there

    def ask(self, question: str = QUESTION) -> tuple[str, str]:
        """Type a question; both answers."""
        self.page.fill("#question textarea", question)
        return self.after(lambda: self.page.click("#ask"))

    def after(self, act: Callable[[], object]) -> tuple[str, str]:
        """Both answers that an act leads to, once they are whole."""
        self.page.evaluate("document.querySelector('#said .pair').dataset.old = 'yes'")  # gone with the next answer
        act()
        return self.answers()

    def answers(self) -> tuple[str, str]:
        """Both, once they are whole."""
        self.page.wait_for_function(
            "!document.querySelector('#said [data-old], #said [aria-busy=true]')"
            " && document.querySelector('#said .right .text').textContent"
        )
        left, right = (self.page.text_content(f"#said .{side} .text") for side in ("left", "right"))
        return left, right

    def headings(self) -> list[str]:
        """The names of both answers."""
        return self.page.locator("#said h2").all_text_contents()

    def type_alpha(self, alpha: float) -> None:
        """Into the field beside the slider."""
        self.page.fill("#dial input[type=number]", f"{alpha:g}")
        self.page.press("#dial input[type=number]", "Enter")

    def point(self, label: str) -> None:
        """Click a point of the picture."""
        self.page.click(f"#picture .wide [data-position='{label}'] .mark", force=True)

    def turn(self, alpha: float) -> None:
        """Drag the slider with the mouse."""
        slider = self.page.locator("#dial input[type=range]")
        slider.scroll_into_view_if_needed()
        low, high = (float(slider.get_attribute(name)) for name in ("min", "max"))
        box, thumb = slider.bounding_box(), 24
        here = float(slider.input_value())

        def place(value: float) -> float:
            return box["x"] + thumb / 2 + (box["width"] - thumb) * (value - low) / (high - low)

        middle = box["y"] + box["height"] / 2
        self.page.mouse.move(place(here), middle)
        self.page.mouse.down()
        self.page.mouse.move(place((here + alpha) / 2), middle)
        self.page.mouse.move(place(alpha), middle)
        self.page.mouse.up()

    def choose(self, group: str, name: str) -> None:
        """A choice of the menu."""
        if not self.page.locator(f"#{group}").is_visible():
            self.page.click("#menu > button")
        self.page.click(f"#{group} label:has-text('{name}')")

    def outside(self) -> list[str]:
        """Requests to anywhere but this machine."""
        return [url for url in self.requests if not re.match(r"(http://127\.0\.0\.1:\d+/|data:|blob:)", url)]
