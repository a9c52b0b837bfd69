"""Remake: every result of a report from nothing, on the bundled models or on one that is named."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import InputError
from ..pipeline.call import PipelineCall
from ..pipeline.model import Model, load_model
from ..pipeline.model_options import ModelOptions
from ..pipeline.provenance import UNKNOWN, installed_versions
from ..results.writing import write_json
from ..workflows.compare.measure import device_name, device_of
from .kinds import KINDS, WholeKind
from .provenance import FILE as MADE
from .provenance import SCHEMA, Extra, Provenance, read_provenance
from .recipe import FILE, Recipe, Subject, Table, read_recipe, slug_of
from .task import OnStep, Task, make_calls

Progress = Callable[[str], AbstractContextManager[OnStep | None]]
Load = Callable[[str, ModelOptions], Model]


@dataclass(frozen=True)
class Request:
    """What a remake may change. model: measured instead of the bundled ones. load: how the model is loaded.

    prompts, seeds, call: instead of the subject's own. quick: the recipe's small run, which shows structure and no figures.
    """

    model: str | None = None
    load: ModelOptions = field(default_factory=ModelOptions)
    prompts: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    call: Table = field(default_factory=dict)
    quick: bool = False


def remake(
    directory: Path,
    request: Request,
    *,
    output: Path | None = None,
    force: bool = False,
    progress: Progress,
    load: Load = load_model,
) -> Path:
    """Make a report's results anew; gives the folder that they are in, which holds a recipe of its own.

    Without a model the bundled subjects are made, in the report's folder or in `output`. A model gets a folder beside the
    report's, `table1-flux.1-dev`. Results appear when a subject is whole; what stood there is kept until then.
    progress: gives a context with a step callback for a subject's name. load: `load_model`, or one that keeps what it loaded.

    Raises InputError for a folder without a recipe, a kind that cannot be made, a model whose family the recipe does not know,
    and results that would be replaced without `force`.
    """
    recipe = read_recipe(directory)
    kind = KINDS.get(recipe.kind)
    if kind is None:
        raise InputError(f"{directory / FILE}: no kind {recipe.kind!r}; legal: {', '.join(KINDS)}.")
    target = output or (directory if request.model is None else directory.parent / f"{recipe.slug}-{slug_of(request.model)}")
    if isinstance(kind, WholeKind):
        return _remake_whole(kind, recipe, target, request, force, progress)
    bundled = [subject for subject in recipe.subjects if subject.is_bundled]
    if not request.model and not bundled:
        raise InputError(f"{recipe.slug} holds no bundled model; name one with --model: {_models(recipe)}.")
    names = [slug_of(request.model)] if request.model else [subject.name for subject in bundled]
    _refuse_results(target, names, force)
    for at, name in enumerate(names):
        device = request.load.device or (None if request.model else bundled[at].device or None)
        argument, options = request.model or bundled[at].model, replace(request.load, device=device)
        model = load(argument, options)
        subject = _changed(subject_for(recipe, model, request.model) if request.model else bundled[at], request)
        calls = make_calls(model, subject)
        _copy_recipe(recipe, target)
        with _making(target, name) as folder, progress(f"{recipe.slug} {name}") as on_step:
            task = Task(recipe, subject, model, argument, options, calls, folder, on_step or _silent)
            facts = _provenance(task, request.quick, kind.make(task))
            write_json(folder / MADE, {**facts, "files": [*_files_below(folder), MADE]})
    return target


def subject_for(recipe: Recipe, model: Model, argument: str) -> Subject:
    """The subject that describes a model: of its id, of its last name, else the first of its family, published ones first."""
    ordered = sorted(recipe.subjects, key=lambda subject: subject.is_bundled)
    for fits in (
        lambda s: s.model == argument,
        lambda s: slug_of(s.model) == slug_of(argument),
        lambda s: s.probe == model.probe.family,
    ):
        for subject in ordered:
            if fits(subject):
                return subject
    raise InputError(f"{recipe.slug} has nothing for {argument}, a {model.probe.family} model; it knows {_models(recipe)}.")


def _quick(subject: Subject) -> Subject:
    """The subject's small run: one prompt and seed unless its recipe says more."""
    call = {key: value for key, value in subject.quick.items() if key not in ("prompts", "seeds")}
    prompts, seeds = (subject.quick.get(key, 1) for key in ("prompts", "seeds"))
    return replace(subject, prompts=subject.prompts[:prompts], seeds=subject.seeds[:seeds], call={**subject.call, **call})


def _changed(subject: Subject, request: Request) -> Subject:
    subject = _quick(subject) if request.quick else subject
    return replace(
        subject,
        prompts=request.prompts or subject.prompts,
        seeds=request.seeds or subject.seeds,
        call={**subject.call, **request.call},
    )


def _models(recipe: Recipe) -> str:
    return ", ".join(f"{subject.model} ({subject.probe})" for subject in recipe.subjects)


def _refuse_results(target: Path, names: Sequence[str], force: bool) -> None:
    for name in names:
        place = target / name
        if place.exists() and not force:
            raise InputError(f"{place} holds results already; choose another folder with -o, or pass --force.")
        if place.is_dir() and (foreign := _foreign_files(place)):
            raise InputError(f"{place} holds {foreign[0]}, which no report --remake wrote; move it away, or choose another -o.")


def _foreign_files(folder: Path) -> list[str]:
    """Files that a subject's folder holds and its made.json does not list; --force would delete them.

    A made.json of 0.1.0 has no list: then nothing counts as foreign. A folder without made.json is foreign as a whole.
    """
    present = _files_below(folder)
    if MADE not in present:
        return present
    provenance = read_provenance(folder)
    return [name for name in present if name not in provenance["files"]] if "files" in provenance else []


def _files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _copy_recipe(recipe: Recipe, target: Path) -> None:
    """The recipe and the small text files beside it, where the results go elsewhere."""
    target.mkdir(parents=True, exist_ok=True)
    if target.resolve() == recipe.directory.resolve():
        return
    for file in sorted(recipe.directory.iterdir()):
        if file.suffix in (".toml", ".txt"):
            shutil.copyfile(file, target / file.name)


@contextmanager
def _making(target: Path, name: str) -> Iterator[Path]:
    """A hidden folder that takes its name, and the place of what had it, when all in it is whole."""
    target.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=target))
    try:
        yield making
        making.chmod(0o755)
        final = target / name
        if final.exists():
            shutil.rmtree(final)
        making.rename(final)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _provenance(task: Task, is_quick: bool, extra: Extra) -> Provenance:
    """made.json: how a subject's results came to be."""
    first = task.calls[0]
    return {
        "schema": SCHEMA,
        "subject": task.subject.name,
        "model": task.model.name,
        "revision": task.model.revision if task.model.revision != UNKNOWN else task.subject.revision or UNKNOWN,
        "family": task.model.probe.family,
        "device": device_name(device_of(task.model)),
        "quick": is_quick,
        "call": _plain_arguments(first),
        "prompts": list(dict.fromkeys(call.prompt for call in task.calls)),
        "seeds": list(dict.fromkeys(call.seed for call in task.calls)),
        "versions": installed_versions(),
        **extra,
    }


def _plain_arguments(call: PipelineCall) -> dict[str, str | int | float | bool | None]:
    """The pipeline's arguments that JSON can hold, but prompt and generator."""
    return {
        key: value
        for key, value in call.arguments.items()
        if key not in ("prompt", "generator", "class_labels") and isinstance(value, str | int | float | bool | None)
    }


def _silent(done: int, total: int) -> None:
    """Where nobody asked for progress."""


def _remake_whole(kind: WholeKind, recipe: Recipe, target: Path, request: Request, force: bool, progress: Progress) -> Path:
    """A report that runs no model of its own list."""
    if request.model or request.prompts or request.seeds or request.call or request.load != ModelOptions():
        raise InputError(f"{recipe.slug} runs no model: of the options only --quick has an effect on it. Leave the others out.")
    names = kind.files(recipe)
    _refuse_results(target, names, force)
    _copy_recipe(recipe, target)
    with tempfile.TemporaryDirectory(prefix=".making.", dir=target) as scratch, progress(recipe.slug) as on_step:
        kind.make(recipe, Path(scratch), request.quick, on_step or _silent)
        write_json(Path(scratch) / MADE, {"schema": SCHEMA, "quick": request.quick, "versions": installed_versions()})
        for file in sorted(Path(scratch).iterdir()):
            file.replace(target / file.name)
    return target
