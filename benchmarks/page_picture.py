"""A picture of the page of ``extsub ui``, for docs/ui.md: asks a question in Chromium and keeps what is seen.

    python benchmarks/page_picture.py demo/seed-0/run/expert demo/seed-0/run/anti-flattery \\
        --sweep demo/seed-0/run/sweep-flattery --output docs/ui.png [--width 390] [--dark] \\
        --question "Will a mother bird reject her chick if a human has touched it?"

Needs ``pip install playwright`` and a Chromium: ``playwright install chromium``, or the system's.
"""

from __future__ import annotations

import argparse
import io
import shutil
import threading
from pathlib import Path
from typing import Any

import uvicorn
from PIL import Image
from playwright.sync_api import Playwright, sync_playwright

from extsub.chat.session import Session
from extsub.ui.answers import Answers
from extsub.ui.listening import address_of, listen
from extsub.ui.serve import application
from extsub.ui.swept import sweep_of

HEIGHT = 800
COLOURS = 256
"""Of the file, which is a third as large then."""
MINUTES = 10
"""How long both answers may take."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapters", nargs="+")
    parser.add_argument("--sweep", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--question", required=True)
    parser.add_argument("--max-new-tokens", type=int, default=80)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--dark", action="store_true")
    given = parser.parse_args()
    sweep = sweep_of(given.sweep, given.adapters)
    answers = Answers(Session.open(given.adapters, max_new_tokens=given.max_new_tokens))
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(application(answers, sweep, Path()), log_level="warning"))
    serving = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    serving.start()
    try:
        with sync_playwright() as playwright:
            seen = picture(playwright, address_of(listener), given)
    finally:
        server.should_exit = True
        serving.join()
    Image.open(io.BytesIO(seen)).convert("RGB").quantize(COLOURS).save(given.output, optimize=True)


def picture(playwright: Playwright, address: str, given: Any) -> bytes:
    """The whole page as PNG, once both answers are there."""
    own = Path(playwright.chromium.executable_path)
    browser = playwright.chromium.launch(
        executable_path=own if own.exists() else shutil.which("chromium"), args=["--no-sandbox"]
    )
    scheme = "dark" if given.dark else "light"
    page = browser.new_page(viewport={"width": given.width, "height": HEIGHT}, color_scheme=scheme)
    page.goto(address)
    page.wait_for_function("document.querySelector('#name textarea')?.value")
    page.fill("#question textarea", given.question)
    page.click("#ask")
    page.wait_for_function(
        "!document.querySelector('#said [aria-busy=true]') && document.querySelector('#said .right .text').textContent",
        timeout=MINUTES * 60_000,
    )
    seen = page.screenshot(full_page=True)
    browser.close()
    return seen


if __name__ == "__main__":
    main()
