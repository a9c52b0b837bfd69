"""Sets: one recording a prompt in a directory, with an append-only manifest that says what became of each."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from ...capture import Tap
from ...errors import InputError, PeerLost, RecordingError
from ...parallel.pair import Pair
from ...parallel.tasks import Outcome, Rank, fan_out
from ...pipeline.call import CallOptions, make_call
from ...pipeline.model import load_model
from ...pipeline.model_options import ModelOptions
from ...pipeline.prompts import Prompt
from ...pipeline.provenance import RunOptions
from ...plan import Policy
from ...recording import open_recording, partial_path
from .manifest import COMPLETE, FAILED, INTERRUPTED, MANIFEST, Entry, Manifest, sha256_of
from .session import follow, record_model
from .tool_taps import export_taps


@dataclass(frozen=True)
class SetRecipe:
    """How every prompt of a set is recorded.

    model, load: the MODEL and how it is loaded. call: the options, their prompt not yet set.
    tools: whose taps (`tool_taps.export_taps`) are recorded beside `taps`.
    """

    model: str
    load: ModelOptions
    call: CallOptions
    taps: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    policy: str | None = None
    store_dtype: str | None = None
    keep_output: bool = True

    @property
    def key(self) -> str:
        """Changes with everything that changes what is recorded: device, dtype, and what policy and probe files say."""
        load = self.load.to_json(self.model)
        load |= {"probe": _contents(load["probe"])}
        facts: dict[str, object] = {"load": load, "call": asdict(self.call) | {"prompt": None}, "taps": self.taps}
        facts |= {"policy": _contents(self.policy), "store_dtype": self.store_dtype}
        facts |= {"tools": self.tools} if self.tools else {}
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _contents(name: object) -> str | None:
    """What stands for a policy or probe: its file's hash, wherever the file lies; a preset's name for itself."""
    if not isinstance(name, str | Path) or not Path(name).is_file():
        return None if name is None else str(name)
    return sha256_of(Path(name))


@dataclass(frozen=True)
class SetTask:
    """One prompt to record, at `path`."""

    prompt: Prompt
    path: str
    recipe: SetRecipe


@dataclass(frozen=True)
class RecordedFile:
    """What the manifest keeps of a complete recording; nothing in the process of a pair that does not write."""

    sha256: str | None = None
    bytes: int | None = None
    steps: int | None = None


@dataclass(frozen=True)
class SetPlan:
    """What a run over a directory will do. stale: unfinished recordings that are made anew."""

    tasks: tuple[SetTask, ...]
    skipped: tuple[Entry, ...]
    stale: tuple[Path, ...]


def plan_set(
    directory: Path, prompts: Sequence[Prompt], recipe: SetRecipe, *, rank: Rank | None = None, force: bool = False
) -> SetPlan:
    """Which prompts are still to be recorded: those without a complete recording of the size that the manifest noted.

    rank: shares the prompts, not what is left of them, which the other ranks may see at another moment.

    Raises InputError where the directory holds recordings made with other options or prompts, or a recording of unknown origin
    under a name that this set needs, unless `force`; and for a file there that is no recording.
    """
    known = Manifest(directory).read()
    if not force:
        _refuse_others(known, prompts, recipe, directory)
    tasks, skipped, stale = [], [], []
    for prompt in (rank or Rank()).share(prompts):
        path = directory / f"{prompt.stem}.h5"
        entry = known.get(path.name)
        if entry is None and path.exists():
            _refuse_unlisted(path, force)
        if entry is not None and _is_there(entry, directory) and path.stat().st_size == entry.bytes and not force:
            skipped.append(entry)
            continue
        if partial_path(path).exists():
            stale.append(partial_path(path))
        tasks.append(SetTask(prompt, str(path.resolve()), recipe))
    return SetPlan(tuple(tasks), tuple(skipped), tuple(stale))


def _refuse_unlisted(path: Path, force: bool) -> None:
    """Raise InputError for a file that the manifest does not list, unless `force` and it is a recording.

    A recording is what a kill between its last byte and its line leaves; anything else is a user's own, whatever was said.
    """
    if not force:
        raise InputError(f"{path} exists and {MANIFEST} does not know it; move it away, or pass --force to replace it.")
    try:
        with open_recording(path, partial=True):
            return
    except RecordingError as error:
        raise InputError(f"{path} is no recording and would be replaced; move it away, or take another directory.") from error


def _is_there(entry: Entry, directory: Path) -> bool:
    return entry.status == COMPLETE and (directory / entry.file).exists()


def _refuse_others(known: dict[str, Entry], prompts: Sequence[Prompt], recipe: SetRecipe, directory: Path) -> None:
    """Every complete recording must be one that this run would make; a longer list of prompts may follow a shorter one."""
    wanted, key = {f"{prompt.stem}.h5": prompt.text for prompt in prompts}, recipe.key
    for entry in known.values():
        if not _is_there(entry, directory):
            continue
        path, advice = directory / entry.file, "take another directory, or pass --force"
        if wanted.get(entry.file) != entry.prompt:
            raise InputError(f"{path} was recorded for another prompt than this list has there; {advice}.")
        if entry.recipe != key:
            raise InputError(f"{path} was recorded with another model or other options; {advice}.")


def record_set(
    plan: SetPlan,
    directory: Path,
    recipe: SetRecipe,
    *,
    device: str | None = None,
    ray: str | None = None,
    on_done: Callable[[Entry], None] | None = None,
    pair: Pair | None = None,
) -> list[Entry]:
    """Record what is to be done, here or over a Ray cluster (whose nodes share the directory).

    device: for this process, where the recipe names none. pair: each prompt is recorded by two processes together, of which the
    one that leads writes. Gives the entries, failed ones included. After an interruption the manifest says so.
    """
    manifest = Manifest(directory)
    done: list[Entry] = []
    if pair is not None:
        pair.agree("the prompts that are still to be recorded", [task.path for task in plan.tasks])
    writes = pair is None or pair.leads
    for outcome in _outcomes(plan, recipe, device, ray, manifest if writes else None, pair):
        entry = _entry_of(outcome)
        if writes:
            manifest.append(entry)
        done.append(entry)
        if on_done is not None:
            on_done(entry)
    return done


def _outcomes(
    plan: SetPlan, recipe: SetRecipe, device: str | None, ray: str | None, manifest: Manifest | None, pair: Pair | None
) -> Iterator[Outcome[SetTask, RecordedFile]]:
    load = replace(recipe.load, device=recipe.load.device or device)
    make_worker = partial(_recording_worker, replace(recipe, load=load), pair)
    started: list[SetTask] = []

    def watched() -> Callable[[SetTask], RecordedFile]:
        work = make_worker()

        def work_on(task: SetTask) -> RecordedFile:
            started.append(task)
            return work(task)

        return work_on

    try:
        yield from fan_out(plan.tasks, make_worker if ray else watched, ray=ray)
    except (KeyboardInterrupt, PeerLost):
        if started and manifest is not None:
            manifest.append(_entry(started[-1], INTERRUPTED))
        raise


def _recording_worker(recipe: SetRecipe, pair: Pair | None) -> Callable[[SetTask], RecordedFile]:
    """Load the model; the worker records one prompt and gives what the manifest needs, if it is the one that writes."""
    model = load_model(recipe.model, recipe.load, pair=pair)
    policy: Policy | None = model.policy(recipe.policy) if recipe.policy else None
    taps: tuple[Tap | str, ...] = (*recipe.taps, *export_taps(model.probe, recipe.tools))

    def work(task: SetTask) -> RecordedFile:
        call = make_call(model, replace(recipe.call, prompt=task.prompt.text))
        if pair is not None and not pair.leads:
            follow(model, call, policy=policy)
            return RecordedFile()
        recorded = record_model(
            model,
            call,
            Path(task.path),
            asked_for=RunOptions(recipe.model, task.recipe.load, task.recipe.call.extra or {}),
            taps=taps,
            policy=policy,
            store_dtype=recipe.store_dtype,
            keep_output=recipe.keep_output,
            force=True,  # plan_set has decided what may be replaced
        )
        return RecordedFile(sha256_of(recorded.path), recorded.path.stat().st_size, recorded.steps)

    return work


def _entry_of(outcome: Outcome[SetTask, RecordedFile]) -> Entry:
    if outcome.result is None:
        return _entry(outcome.task, FAILED, error=outcome.error)
    return _entry(outcome.task, COMPLETE, outcome.result)


def _entry(task: SetTask, status: str, file: RecordedFile | None = None, error: str | None = None) -> Entry:
    file = file or RecordedFile()
    return Entry(
        file=Path(task.path).name,
        index=task.prompt.index,
        prompt=task.prompt.text,
        seed=task.recipe.call.seed,
        status=status,
        recipe=task.recipe.key,
        sha256=file.sha256,
        bytes=file.bytes,
        steps=file.steps,
        error=error,
    )
