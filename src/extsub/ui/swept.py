"""A sweep for the page: of exactly the models that are loaded, or its figures would be others'."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from extsub.adapters.load import load_adapter
from extsub.errors import ExtSubError
from extsub.escaping import brief
from extsub.evaluation.evaluated_model import identify
from extsub.evaluation.tasks import load_task_files
from extsub.models import adapter_handle
from extsub.report.reading import Sweep, read_sweep
from extsub.report.samples import samples


def sweep_of(folder: Path, adapters: Sequence[str], model: str | None = None, task_file: Sequence[str] = ()) -> Sweep:
    """What ``extsub sweep`` wrote about these adapters on this base.

    Args:
        adapters: the expert first.
        model: the base; unless given, what the adapters name.
        task_file: Python files that register tasks or operations of one's own.

    Raises:
        ExtSubError: it wrote nothing there, or about others.
    """
    load_task_files(tuple(task_file))
    sweep = read_sweep(folder)
    made_of = sweep.record["made_of"]
    swept = [adapter["weights_sha256"] for adapter in made_of["adapters"]]
    here = [source.provenance()["weights_sha256"] for name in adapters if (source := load_adapter(name).source)]
    if here != swept:
        names = ", ".join(brief(adapter["name"]) for adapter in made_of["adapters"])
        raise ExtSubError(f"--sweep {folder} is of other adapters ({names}): give the sweep of these, or none")
    base = identify(adapter_handle.base_of(model, [adapter_handle.find(name) for name in adapters]))
    for known in ("base_sha256", "base_commit"):
        if base[known] and made_of[known] and base[known] != made_of[known]:
            raise ExtSubError(
                f"--sweep {folder} is of another base ({brief(made_of['base'])}): give the sweep of this one, or none"
            )
    samples(sweep)  # reads the items: what is wrong with them is said before a model is loaded
    return sweep
