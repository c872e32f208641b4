"""The heat map of expert against anti-expert, if both still lie where the sweep found them."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from extsub.adapters.load import load_adapter
from extsub.errors import ExtSubError
from extsub.files.reading import located
from extsub.inspection.heat_map import plot_pair
from extsub.inspection.inspect import compare
from extsub.report.provenance import given
from extsub.report.reading import Sweep

NAME = "Heat maps of expert and anti-expert: norm ratio, and mean row cosine, by layer and module"


def heat_map(sweep: Sweep) -> tuple[str, str]:
    """(SVG, sentence): the SVG is empty where it cannot be drawn, and the sentence says why."""
    expert, anti_experts = given(sweep)
    pair = []
    try:
        for name, was in zip((expert, anti_experts[0]), sweep.record["made_of"]["adapters"], strict=False):
            if not was["commit"] and not located(name).is_dir():
                return "", f"No heat map: {name} is not there any more, seen from this folder."
            pair.append(load_adapter(name))
            if pair[-1].source is None or pair[-1].source.provenance() != was:
                return "", f"No heat map: {name} is another adapter now than the sweep had."
        info = compare(*pair)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "pair.svg"
            plot_pair(info, path)
            text = path.read_text(encoding="utf-8")
    except ExtSubError as error:
        return "", f"No heat map: {error}."
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = text.replace("<svg ", f'<svg role="img" aria-label="{NAME}" ', 1)
    return text, "For each module, how large the anti-expert's change is beside the expert's, and how alike they point."
