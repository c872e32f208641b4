"""The page on an address of this machine, until somebody ends it. Nothing on it comes from elsewhere."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from extsub.chat.session import Session
from extsub.models.prompts import PromptOption
from extsub.report.reading import Sweep
from extsub.settings import Dtype
from extsub.ui.answers import Answers
from extsub.ui.listening import address_of, hosts_of, listen
from extsub.ui.output import check_folder
from extsub.ui.swept import sweep_of

HOST, PORT = "127.0.0.1", 7860
POLICY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'; form-action 'none'"
"""What a browser may load: Gradio's own scripts need the second half."""
SECONDS = 2
"""How long pages that are still open keep the server from ending."""


def serve(
    expert: str,
    anti_experts: Sequence[str],
    model: str | None = None,
    *,
    prompt: PromptOption = "auto",
    dtype: Dtype = "auto",
    max_new_tokens: int | None = None,
    sweep: Path | None = None,
    task_file: Sequence[str] = (),
    output: Path = Path(),
    host: str = HOST,
    port: int = PORT,
    ready: Callable[[str], None] = lambda _: None,
) -> None:
    """Load everything and answer browsers until SIGINT or SIGTERM.

    Args:
        expert: the adapter to improve, a folder or hub id.
        anti_experts: adapters trained on examples of what to suppress.
        model: the base; unless given, what the adapters name.
        prompt: the text around a question, as `evaluate` takes it.
        dtype: of the weights.
        max_new_tokens: the longest answer; 256 unless given.
        sweep: what ``extsub sweep`` wrote about the same models.
        task_file: Python files that register tasks of one's own, for the sweep.
        output: the folder below which the page may write.
        host: the address that is heard; 127.0.0.1 is this machine alone.
        port: 0 takes a free one.
        ready: is told the page's address when it can be opened.

    Raises:
        ExtSubError: the address is taken, or models, sweep or output are at fault.
    """
    import uvicorn

    names = [expert, *anti_experts]
    with listen(host, port) as listener:
        check_folder(output)
        swept = sweep_of(sweep, names, model, task_file) if sweep else None
        session = Session.open(names, model, prompt=prompt, dtype=dtype, max_new_tokens=max_new_tokens)
        page = application(Answers(session), swept, output, hosts_of(listener))
        with contextlib.suppress(KeyboardInterrupt):  # which is how it ends
            ready(address_of(listener))
            config = uvicorn.Config(page, log_level="warning", timeout_graceful_shutdown=SECONDS)
            uvicorn.Server(config).run(sockets=[listener])


def application(answers: Answers, sweep: Sweep | None, output: Path, hosts: Sequence[str] = ("*",)) -> Any:
    """The page as an ASGI application, which answers to these names alone (``hosts_of``)."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # Gradio reports on every launch and error otherwise
    import gradio as gr
    from fastapi import FastAPI
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from extsub.ui.page import STYLE, THEME, Page

    return gr.mount_gradio_app(
        FastAPI(
            openapi_url=None, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts), Middleware(OnlyOurs)]
        ),
        Page(answers, sweep, output).blocks(),
        path="/",
        css=STYLE,
        theme=THEME,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        mcp_server=False,
        ssr_mode=False,
        show_error=False,
    )


class OnlyOurs:
    """Middleware: browsers load nothing from elsewhere, whatever an answer holds, and no other page shows this one."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """As ASGI wants it."""

        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"content-security-policy", POLICY)]
            await send(message)

        await self.app(scope, receive, send_with_policy)
