"""Performance reports: what `janoscope bench` measures on this machine, every bench in files of its own."""

from collections.abc import Callable
from pathlib import Path

import torch

from ...errors import InputError
from ..analysis_files import write_json, write_whole
from ..bench_analyze import SMALL_MAP, SMALL_RUN, bench_analyze
from ..bench_analyze import describe_bench as describe_analyze
from ..bench_execute import SIZES, bench_execute
from ..bench_record import CASES, SMALL_CASES, bench_record
from ..bench_record import describe_bench as describe_record
from ..bench_scale import SMALL, bench_scale
from ..recipe import Recipe
from ..scaling import Measured, describe_scaling
from .task import OnStep


def files(recipe: Recipe) -> list[str]:
    """What `make_whole` will write."""
    return [f"{name}.json" for name in _benches(recipe)]


def make_whole(recipe: Recipe, folder: Path, quick: bool, on_step: OnStep) -> None:
    """NAME.json and NAME.md of every bench that the recipe lists under `benches`."""
    names = _benches(recipe)
    for done, name in enumerate(names, start=1):
        _BENCHES[name](folder, name, quick)
        on_step(done, len(names))


def _benches(recipe: Recipe) -> list[str]:
    names = [str(name) for name in recipe.settings.get("benches", _BENCHES)]
    if unknown := [name for name in names if name not in _BENCHES]:
        raise InputError(f"{recipe.slug}: no bench {unknown[0]!r}; legal: {', '.join(_BENCHES)}.")
    return names


def _record(folder: Path, name: str, quick: bool) -> None:
    result = bench_record(SMALL_CASES if quick else CASES, folder, lambda text: None)
    write_json(folder / f"{name}.json", result)
    _write_text(folder / f"{name}.md", "Performance of recording", describe_record(result))


def _analyze(folder: Path, name: str, quick: bool) -> None:
    result = bench_analyze(SMALL_MAP if quick else None, SMALL_RUN if quick else None, folder)
    write_json(folder / f"{name}.json", result)
    _write_text(folder / f"{name}.md", "Performance of the analysis", describe_analyze(result))


def _execute(folder: Path, name: str, quick: bool) -> None:
    torch.set_num_threads(1)  # idle threads wait in processor time
    clock = "wall" if torch.cuda.is_available() else "cpu"
    result = bench_execute("tiny" if quick else name.removeprefix("execute-"), repeats=2 if quick else 5, clock=clock)
    write_json(folder / f"{name}.json", result.to_json())
    _write_text(folder / f"{name}.md", "Performance of the executor", f"```\n{result}\n```")


def _scale(folder: Path, name: str, quick: bool) -> None:
    result = bench_scale(10, SMALL, 12, 1, say=lambda text: None) if quick else bench_scale(say=lambda text: None)
    write_json(folder / f"{name}.json", result)
    _write_text(folder / f"{name}.md", "Scale of a calibration", describe_scaling(Measured.from_json(result)))


def _write_text(path: Path, title: str, text: str) -> None:
    write_whole(path, f"# {title}\n\n{text}\n".encode())


_BENCHES: dict[str, Callable[[Path, str, bool], None]] = {
    "record": _record,
    "analyze": _analyze,
    **{f"execute-{size}": _execute for size in SIZES},
    "scale": _scale,
}
