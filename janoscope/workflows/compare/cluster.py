"""Compare over a Ray cluster: one task a prompt and seed, the full run and every method of it on one machine."""

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

from ...errors import ExecutionError, InputError
from ...metrics import load_lpips
from ...parallel.tasks import Outcome, fan_out
from ...pipeline.call import CallOptions, make_call
from ...pipeline.model import load_model
from ...pipeline.model_options import ModelOptions
from ...results.comparison import FULL, Comparison, Row, Run
from ...results.statistics import Key
from .contest import FAILED, Contest, make_method
from .measure import device_name, device_of


@dataclass(frozen=True)
class CompareRecipe:
    """What to compare. call: each prompt and seed are put in; lpips: whether, or why not."""

    model: str
    options: ModelOptions
    call: CallOptions
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    methods: tuple[str, ...]
    lpips: bool | str = False


@dataclass(frozen=True)
class Part:
    """One call's comparison, and what `make_call` warned of."""

    comparison: Comparison
    warnings: tuple[str, ...]


OnPart = Callable[[int, int, Outcome[Key, Part], Comparison | None], None]


def compare_over_ray(
    recipe: CompareRecipe, address: str, *, known: Comparison | None = None, on_part: OnPart | None = None
) -> Comparison:
    """`compare`, its calls spread over a cluster.

    A speedup compares two runs of one machine; `Run.machine` says which. Every worker warms its methods up once. A lost worker or
    a call that fails costs its own call: the comparison then is not `complete`. known: an earlier comparison; calls that it holds
    whole are kept, the others made anew. on_part: (calls done, in all, what became of this one, all that is known or None).

    Raises InputError where the cluster cannot be reached or the earlier comparison is of another thing, ExecutionError where no
    call could be compared.
    """
    keys = list(product(recipe.prompts, recipe.seeds))
    labels = tuple(dict.fromkeys((FULL, *recipe.methods)))
    parts = {key: part for key in keys if known and (part := _part_of(known, key, labels)) is not None}
    waiting = [key for key in keys if key not in parts]
    errors: dict[Key, str] = {}
    for done, outcome in enumerate(fan_out(waiting, partial(_comparing_worker, recipe), ray=address), start=1):
        if outcome.result is None:
            errors[outcome.task] = outcome.error or "no result"
        else:
            _refuse_another(outcome.result.comparison, next(iter(parts.values()), None))
            parts[outcome.task] = outcome.result.comparison
        so_far = _joined([parts[key] for key in keys if key in parts], complete=len(parts) == len(keys)) if parts else None
        if on_part is not None:
            on_part(done, len(waiting), outcome, so_far)
    if not parts:
        raise ExecutionError(f"no call could be compared: {next(iter(errors.values()))}")
    return _joined([parts[key] for key in keys if key in parts], complete=len(parts) == len(keys))


def _comparing_worker(recipe: CompareRecipe) -> Callable[[Key], Part]:
    model = load_model(recipe.model, recipe.options)
    methods = [make_method(text) for text in dict.fromkeys((FULL, *recipe.methods))]
    lpips = load_lpips() if recipe.lpips is True else recipe.lpips or None
    machine = f"{socket.gethostname()}, {device_name(device_of(model))}"
    contest: Contest | None = None

    def work(key: Key) -> Part:
        nonlocal contest
        prompt, seed = key
        call = make_call(model, replace(recipe.call, prompt=prompt, seed=seed))
        if contest is None:
            contest = Contest(model, [call], methods, lpips)
        contest.meet(call)
        found = _of_call(contest.found(done=True), key)
        rows = tuple(replace(row, runs=[replace(run, machine=machine) for run in row.runs]) for row in found.rows)
        return Part(replace(found, rows=rows, device=machine), tuple(call.warnings))

    return work


def _of_call(found: Comparison, key: Key) -> Comparison:
    """What was found of one call; pictures only where they are this call's."""
    rows = tuple(replace(row, runs=[run for run in row.runs if run.key == key]) for row in found.rows)
    first = found.row(FULL).runs[0].key == key
    return replace(found, rows=rows, pictures=found.pictures if first else {})


def _part_of(known: Comparison, key: Key, labels: Sequence[str]) -> Comparison | None:
    """What an earlier comparison holds of one call, if it holds all of it."""
    rows = {row.label: row for row in known.rows}
    whole = all(label in rows and any(run.key == key for run in rows[label].runs) for label in labels)
    if not whole:
        return None
    part = _of_call(known, key)
    shown = [label for label in labels if not rows[label].note.startswith(FAILED)]
    if key == known.row(FULL).runs[0].key and not set(shown) <= set(part.pictures):
        return None  # an image that could not be read is made again
    there = [replace(row, runs=[_with_machine(run, known.device) for run in row.runs]) for row in part.rows]
    return replace(part, rows=tuple(there))


def _with_machine(run: Run, device: str) -> Run:
    return run if run.machine else replace(run, machine=device)


def _refuse_another(mine: Comparison, theirs: Comparison | None) -> None:
    names = ("model", "dtype", "steps", "call")
    differing = [] if theirs is None else [name for name in names if getattr(mine, name) != getattr(theirs, name)]
    if differing:
        raise InputError(
            f"the calls differ in {', '.join(differing)}, so they are no one comparison; begin anew in another --output."
        )


def _joined(parts: Sequence[Comparison], complete: bool) -> Comparison:
    """One comparison of many calls' parts, in their order."""
    machines = sorted({run.machine for part in parts for row in part.rows for run in row.runs if run.machine})
    missing = {name: why for part in reversed(parts) for name, why in part.missing.items()}
    pictures = next((part.pictures for part in parts if part.pictures), {})
    by_label: dict[str, list[Row]] = {}
    for row in (row for part in parts for row in part.rows):
        by_label.setdefault(row.label, []).append(row)
    rows = tuple(_joined_row(of_one) for of_one in by_label.values())
    complete = complete and all(len(row.runs) == len(parts) or row.note.startswith(FAILED) for row in rows)
    return replace(parts[0], rows=rows, device="; ".join(machines), missing=missing, pictures=pictures, complete=complete)


def _joined_row(rows: Sequence[Row]) -> Row:
    """A method that failed on one machine says so, and keeps its runs on the others."""
    notes = [row.note for row in rows if row.note.startswith(FAILED)] or [row.note for row in rows]
    return replace(rows[0], runs=[run for row in rows for run in row.runs], note=notes[0])
