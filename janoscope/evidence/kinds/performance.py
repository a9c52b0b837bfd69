"""Performance reports: what `janoscope bench` measures on this machine, every benchmark in files of its own."""

from collections.abc import Callable, Mapping
from pathlib import Path

from ...errors import InputError
from ...pipeline.model import usable_device
from ...pipeline.threads import one_torch_thread
from ...workflows.bench.analyze import SMALL_MAP, SMALL_RUN, bench_analyze
from ...workflows.bench.analyze import describe_bench as describe_analyze
from ...workflows.bench.cluster_cost import Measured, describe_scaling
from ...workflows.bench.execute import SIZES, bench_execute
from ...workflows.bench.execute import describe_bench as describe_execute
from ...workflows.bench.files import write_bench
from ...workflows.bench.record import CASES, SMALL_CASES, bench_record
from ...workflows.bench.record import describe_bench as describe_record
from ...workflows.bench.scale import SMALL, bench_scale
from ..page import Figures, Section
from ..recipe import Recipe
from ..task import OnStep

BENCHES = ("record", "analyze", "execute-flux-like", "scale")
# figures, and the same in Markdown
Result = tuple[Mapping[str, object], str]


def files(recipe: Recipe) -> list[str]:
    """What `make` will write."""
    return [f"{name}.json" for name in _benches(recipe)]


def make(recipe: Recipe, folder: Path, quick: bool, on_step: OnStep) -> None:
    """NAME.json and NAME.md of every benchmark that the recipe lists under `benches`."""
    names = _benches(recipe)
    for done, name in enumerate(names, start=1):
        write_bench(folder, name, *_BENCHES[name](name, folder, quick))
        on_step(done, len(names))


def _benches(recipe: Recipe) -> list[str]:
    names = [str(name) for name in recipe.settings.get("benches", BENCHES)]
    if unknown := [name for name in names if name not in _BENCHES]:
        raise InputError(f"{recipe.slug}: no benchmark {unknown[0]!r}; legal: {', '.join(_BENCHES)}.")
    return names


def _record(name: str, scratch: Path, quick: bool) -> Result:
    found = bench_record(SMALL_CASES if quick else CASES, scratch, _silent)
    return found, describe_record(found)


def _analyze(name: str, scratch: Path, quick: bool) -> Result:
    found = bench_analyze(SMALL_MAP if quick else None, SMALL_RUN if quick else None, scratch)
    return found, describe_analyze(found)


def _execute(name: str, scratch: Path, quick: bool) -> Result:
    clock = "cpu" if usable_device(None) == "cpu" else "wall"
    with one_torch_thread():
        found = bench_execute("tiny" if quick else name.removeprefix("execute-"), repeats=2 if quick else 5, clock=clock)
    return found.to_json(), describe_execute(found)


def _scale(name: str, scratch: Path, quick: bool) -> Result:
    found = bench_scale(10, SMALL, 12, 1, say=_silent) if quick else bench_scale(say=_silent)
    return found, describe_scaling(Measured.from_json(found))


def _silent(text: str) -> None:
    """The progress bar of the whole is enough."""


_BENCHES: dict[str, Callable[[str, Path, bool], Result]] = {
    "record": _record,
    "analyze": _analyze,
    **{f"execute-{size}": _execute for size in SIZES},
    "scale": _scale,
}


def draw(recipe: Recipe, figures: Figures) -> Section:
    """NAME.md of every benchmark in the recipe's `benches`, headings one level deeper; one that was not run is named."""
    blocks, absent = [], []
    for name in recipe.settings.get("benches", []):
        path = recipe.directory / f"{name}.md"
        if not path.is_file():
            absent.append(str(name))
            continue
        text = path.read_text(encoding="utf-8").strip()
        blocks.append("#" + text if text.startswith("# ") else f"## {name}\n\n{text}")
    if not blocks:
        raise InputError(f"{recipe.directory} holds no benchmark; make them with --remake.")
    return Section("", [*blocks, *([f"Not run yet: {', '.join(absent)}."] if absent else [])])
