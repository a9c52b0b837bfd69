"""Compare: many methods on the same prompts and seeds, measured with one code, side by side."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from itertools import product
from typing import Any

import numpy as np

from ...capture.describe import dtype_name
from ...capture.protocols import Pipeline
from ...errors import ExecutionError, InputError, PeerLost
from ...metrics import Lpips, quality
from ...pipeline.call import CallOptions, PipelineCall, make_call
from ...pipeline.generate import Generated
from ...pipeline.model import Model, as_model
from ...pipeline.model_options import ProbeSource
from ...results.comparison import FULL, Comparison, Row, Run
from ...results.statistics import Key
from .library_caches import BASELINES
from .measure import Cost, device_name, device_of
from .methods import OUR_METHODS, Method
from .spec import parse_spec

FAILED = "failed"
WHICH_RUN = "docs/comparing.md says which cache runs on which family"
METHODS = {**OUR_METHODS, **BASELINES}
DEFAULT_METHODS = ("jano", "random", "uniform:k=2", "uniform:k=2,output=forecast", "fewer-steps:compute=0.6", "ras:end=N")
OnRun = Callable[[int, int, str], None]
OnCall = Callable[[Comparison], object]


def calls_of(model: Model, options: CallOptions, prompts: Sequence[str], seeds: Sequence[int]) -> list[PipelineCall]:
    """A call for every prompt and seed, alike in everything else."""
    return [make_call(model, replace(options, prompt=prompt, seed=seed)) for prompt, seed in product(prompts, seeds)]


def make_method(text: str) -> Method:
    """The method a user wrote; raises InputError for an unknown name or option."""
    spec = parse_spec(text)
    if spec.name not in METHODS:
        near = get_close_matches(spec.name, METHODS, n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise InputError(f"--method {text}: no method {spec.name!r}; {meant}legal: {', '.join(METHODS)}.")
    return METHODS[spec.name](spec)


def compare(
    model_or_pipe: Model | Pipeline,
    prompts_or_calls: str | Sequence[str] | Sequence[PipelineCall],
    methods: Sequence[str] = DEFAULT_METHODS,
    *,
    seeds: Sequence[int] | None = None,
    call: CallOptions | None = None,
    probe: ProbeSource | None = None,
    lpips: Lpips | str | None = None,
    on_run: OnRun | None = None,
    on_call: OnCall | None = None,
    known: Comparison | None = None,
) -> Comparison:
    """Run every method on every call and measure it against the full run of that call.

    The full run is always the first row. Every method is warmed up once on the first call, uncounted in any time; then, call by
    call, the full run and each method take turns, so that a machine that slows down slows all of them. One metric code measures
    all. A method that fails becomes a row whose note says why.

    Args:
        model_or_pipe: a Model, or any diffusers pipeline, which is left as it was.
        prompts_or_calls: a prompt, prompts, or calls made before (`make_call`), which hold their own seeds and options.
        methods: as on the command line, `NAME:key=value,...`; docs/comparing.md lists them.
        seeds: every prompt is generated with each of them [default: 0].
        call: steps, size, guidance and the like of every generation; its prompt and seed are replaced.
        probe: of a pipeline, a probe other than the one that matches its network.
        lpips: the measure (`metrics.load_lpips()`), or why there is none.
        on_run: called with (generations done, in all, the method).
        on_call: called after each call with the comparison so far; `complete` only after the last.
        known: an earlier comparison to go on with; its runs stay and only what it lacks is made, each against a full run of its
            own time.

    Returns:
        The comparison: `print` it, or `save` it to a directory, of which `janoscope report` makes a page.

    Raises:
        InputError: no call, a method that is not one, a pipeline that returns latents, or an earlier comparison of another thing.
        ExecutionError: a method left the pipeline changed, so that the full run no longer repeats itself.

    Example:
        >>> found = janoscope.compare(pipe, ["a cat", "a dog"], ("jano", "uniform:k=2"), seeds=(0, 1))  # doctest: +SKIP
        >>> found.row("jano").estimates()["psnr"].value  # doctest: +SKIP
    """
    model = as_model(model_or_pipe, probe)
    calls = _calls(model, prompts_or_calls, seeds, call)
    if model.pair is not None:
        facts = methods, [(one.prompt, one.seed) for one in calls], known and known.to_json()
        model.pair.agree("the methods, the prompts or what is known already", facts)
    chosen = [make_method(text) for text in dict.fromkeys((FULL, *methods))]
    for method in chosen:
        if named := method.spec.options.get("preset") or method.spec.options.get("file"):
            model.policy(named)  # one that does not exist is refused before anything is run
    return Contest(model, calls, chosen, lpips, on_run, on_call, known).run()


def _calls(
    model: Model,
    prompts_or_calls: str | Sequence[str] | Sequence[PipelineCall],
    seeds: Sequence[int] | None,
    call: CallOptions | None,
) -> list[PipelineCall]:
    subjects = [prompts_or_calls] if isinstance(prompts_or_calls, str) else prompts_or_calls
    calls = [subject for subject in subjects if isinstance(subject, PipelineCall)]
    prompts = [subject for subject in subjects if isinstance(subject, str)]
    if calls and (prompts or seeds is not None or call is not None):
        raise InputError("calls hold their prompts, seeds and options already; give prompts with seeds and call, or calls alone.")
    if prompts:
        calls = calls_of(model, call or CallOptions(""), prompts, (0,) if seeds is None else seeds)
    if not calls:
        raise InputError("nothing to compare on; give at least one prompt and one seed.")
    return calls


class Contest:
    """The state of one comparison: `run` meets all calls, `meet` one."""

    def __init__(
        self,
        model: Model,
        calls: Sequence[PipelineCall],
        methods: Sequence[Method],
        lpips: Lpips | str | None,
        on_run: OnRun | None = None,
        on_call: OnCall | None = None,
        known: Comparison | None = None,
    ):
        self._model, self._calls = model, calls
        self._lpips, self._no_lpips = (None, {"lpips": lpips}) if isinstance(lpips, str) else (lpips, {})
        self._full, *self._methods = methods
        earlier = {row.label: row for row in known.rows if not row.note.startswith(FAILED)} if known else {}
        self._rows = earlier | {
            m.spec.text: Row(m.spec.text, m.spec.name, m.spec.options) for m in methods if m.spec.text not in earlier
        }
        self._counted: dict[str, dict[Key, Cost]] = {m.spec.text: {} for m in methods}
        self._missing: dict[str, str] = dict(known.missing) if known else {}
        self._pictures: dict[str, np.ndarray] = dict(known.pictures) if known else {}
        self._on_run, self._done = on_run or (lambda done, total, label: None), 0
        self._on_call = on_call or (lambda comparison: None)
        network = getattr(model.pipe, model.probe.tap.components[0])
        shared = "" if model.pair is None else ", a guidance branch each on two of them"
        self._about = model.name, device_name(device_of(model)) + shared, dtype_name(network), calls[0].steps
        self._call = _call_facts(calls[0])
        if known is not None:
            _refuse_another((*self._about, self._call), (known.model, known.device, known.dtype, known.steps, known.call))
        shown = self._rows[FULL].runs  # images are of the first prompt and seed
        self._shown: Key = shown[0].key if shown else (calls[0].prompt, calls[0].seed)
        self._waiting = [call for call in calls if self._lacking(call) or self._lacks(self._full, call)]
        self._total = self._count_generations()
        self._warm = False

    def _lacking(self, call: PipelineCall) -> list[Method]:
        """The methods that have not run on the call yet."""
        return [method for method in self._methods if self._lacks(method, call)]

    def _lacks(self, method: Method, call: PipelineCall) -> bool:
        """Whether the method's run on the call is not known, or its image is: an earlier one that could not be read."""
        return not self._has_run(method, call) or self._lacks_image(method, call)

    def _has_run(self, method: Method, call: PipelineCall) -> bool:
        return any(run.key == (call.prompt, call.seed) for run in self._rows[method.spec.text].runs)

    def _lacks_image(self, method: Method, call: PipelineCall) -> bool:
        row = self._rows[method.spec.text]
        is_shown = (call.prompt, call.seed) == self._shown and not row.note.startswith(FAILED)
        return is_shown and method.spec.text not in self._pictures

    def run(self) -> Comparison:
        for call in self._waiting:
            self.meet(call)
            self._on_call(self.found(done=call is self._waiting[-1]))
        return self.found(done=True)

    def meet(self, call: PipelineCall) -> None:
        """Make what the call lacks, the full run first; before the first call every method is warmed up on it."""
        lacking = self._lacking(call)
        before = None if self._warm else self._warm_up(call)
        reference, cost = self._generate(self._full, call, count=False)
        cost = self._with_counts(self._full, call, cost)
        if before is not None and not np.array_equal(_frames(reference), before):
            raise ExecutionError("the full run does not repeat its first picture: a method left the pipeline changed.")
        if self._lacks(self._full, call):
            self._take(self._full, call, reference, cost, None, cost)
        for method in lacking:
            self._guarded(method, self._measure, call, reference, cost)

    def _warm_up(self, first: PipelineCall) -> np.ndarray:
        """The full run's frames, to be held against those after all methods have run."""
        self._warm = True
        made, self._counted[self._full.spec.text][first.prompt, first.seed] = self._generate(self._full, first, count=True)
        before = _frames(made)
        for method in self._methods:
            if any(method in self._lacking(call) for call in self._waiting):
                self._guarded(method, self._count, first)
        return before

    def found(self, done: bool) -> Comparison:
        calls = len(self._rows[self._full.spec.text].runs)
        return Comparison(
            *self._about,
            tuple(self._rows.values()),
            self._missing,
            self._pictures,
            complete=done and all(len(row.runs) == calls or row.note.startswith(FAILED) for row in self._rows.values()),
            call=self._call,
        )

    def _guarded(self, method: Method, work: Callable[..., None], *arguments: Any) -> None:
        """Do the work; a method that fails is out of the contest, and its row says why."""
        row = self._rows[method.spec.text]
        if row.note.startswith(FAILED):
            return
        try:
            work(method, *arguments)
        except PeerLost:
            raise
        except Exception as error:  # whatever another library raises is a result of this comparison
            reason = " ".join(str(error).split())[:300]
            where = "" if method.spec.name in OUR_METHODS else f" ({WHICH_RUN})"
            row.note = f"{FAILED}: {type(error).__name__}: {reason}{where}"

    def _generate(self, method: Method, call: PipelineCall, count: bool) -> tuple[Generated, Cost]:
        made = method.generate(self._model, call, count)
        self._done += 1
        self._on_run(self._done, self._total, method.spec.text)
        return made

    def _count_generations(self) -> int:
        runs = [method for call in self._waiting for method in self._lacking(call)]
        warming = {method.spec.text for method in runs}
        again = sum(method.counts_apart for method in runs) - sum(m.counts_apart for m in self._methods if m.spec.text in warming)
        return len(runs) + len(self._waiting) + len(warming) + 1 + again

    def _count(self, method: Method, call: PipelineCall) -> None:
        _, self._counted[method.spec.text][call.prompt, call.seed] = self._generate(method, call, count=True)

    def _measure(self, method: Method, call: PipelineCall, reference: Generated, full: Cost) -> None:
        if method.counts_apart and (call.prompt, call.seed) not in self._counted[method.spec.text]:
            self._count(method, call)
        generated, cost = self._generate(method, call, count=False)
        self._take(method, call, generated, cost, reference, full)

    def _take(
        self, method: Method, call: PipelineCall, made: Generated, cost: Cost, reference: Generated | None, full: Cost
    ) -> None:
        """Add a run to the method's row; without a reference it is the reference."""
        text = method.spec.text
        cost = self._with_counts(method, call, cost)
        frames = _frames(made)
        self._pictures.setdefault(text, frames)
        if self._has_run(method, call):  # only its image was missing
            return
        row = self._rows[text]
        row.note = row.note or cost.note or ("the reference" if reference is None else "")
        compute = None if cost.flops is None or not full.flops else cost.flops / full.flops
        figures: dict[str, Any] = {"compute": compute, "speedup": full.wall_s / cost.wall_s}
        figures |= {"wall_s": cost.wall_s, "cpu_s": cost.cpu_s, "cache_bytes": cost.cache_bytes, "peak_bytes": cost.peak_bytes}
        row.runs.append(Run(prompt=call.prompt, seed=call.seed, **figures, **self._quality(reference, frames)))

    def _with_counts(self, method: Method, call: PipelineCall, cost: Cost) -> Cost:
        """With what a counted generation showed: of the same call, else of the first."""
        counted = self._counted[method.spec.text]
        return _completed(cost, counted.get((call.prompt, call.seed)) or next(iter(counted.values()), cost))

    def _quality(self, reference: Generated | None, frames: np.ndarray) -> dict[str, Any]:
        if reference is None:
            return dict.fromkeys(("psnr", "ssim", "ms_ssim", "lpips"))
        measured = quality(_frames(reference), frames, self._lpips)
        self._missing |= {**measured.missing, **self._no_lpips}
        figures = {"ssim": measured.ssim, "ms_ssim": measured.ms_ssim, "lpips": measured.lpips}
        return figures | {"psnr": measured.psnr if math.isfinite(measured.psnr) else None, "identical": math.isinf(measured.psnr)}


def _call_facts(call: PipelineCall) -> dict[str, Any]:
    """The pipeline's arguments that all calls share, as far as JSON can hold them."""
    plain = (str, int, float, bool, type(None))
    return {
        key: value for key, value in call.arguments.items() if isinstance(value, plain) and key not in ("prompt", "generator")
    }


def _refuse_another(mine: tuple[Any, ...], theirs: tuple[Any, ...]) -> None:
    names = ("model", "device", "dtype", "steps", "call")
    differences = [f"{name} {b!r} there, {a!r} now" for name, a, b in zip(names, mine, theirs, strict=True) if a != b]
    if differences:
        raise InputError(
            f"the earlier comparison is of something else ({'; '.join(differences)}); begin anew in another --output."
        )


def _completed(cost: Cost, counted: Cost) -> Cost:
    """What a timed generation did not count, from one that did."""
    flops = counted.flops if cost.flops is None else cost.flops
    return replace(cost, flops=flops, cache_bytes=counted.cache_bytes if cost.cache_bytes is None else cost.cache_bytes)


def _frames(generated: Generated) -> np.ndarray:
    if generated.frames is None:
        raise InputError("the pipeline returned latents, which no picture metric can measure; leave output_type out.")
    return generated.frames
