"""How far a run is from what a calibrated policy was measured on: figures do not carry over silently."""

from collections.abc import Mapping, Sequence

from ...capture.describe import describe_transformer
from ...pipeline.call import PipelineCall
from ...pipeline.model import Model
from ...plan import Fingerprint, Policy, transformer_identity
from ...shape import misfit
from .session import _prompts_words

_SHAPES: Mapping[str, object] = {
    "transformer": dict[str, object],
    "steps": int,
    "scheduler": object,
    "size": dict[str, object],
    "tokens": list[int],
    "guidance": object,
}
SIZES = ("height", "width", "num_frames", "video_length")


def departures_of_call(policy: Policy, model: Model, call: PipelineCall) -> list[str]:
    """As `departures`, from what a call says before it is run; what it leaves to the pipeline's defaults is not known."""
    if not policy.measured_on:
        return []
    network = describe_transformer(getattr(model.pipe, model.probe.tap.components[0]))
    known: dict[str, object] = {
        "transformer": transformer_identity(network["class"], network["config"]),
        "scheduler": type(model.pipe.scheduler).__name__,
        "steps": call.steps,
        "size": {key: call.arguments[key] for key in SIZES if call.arguments.get(key) is not None},
        "guidance": call.guidance,
    }
    return departures(policy, known)


def departures_of_run(policy: Policy, made: Fingerprint) -> list[str]:
    """As `departures`, from the fingerprint of a run that was made; only what no call tells before it."""
    return departures(policy, {"tokens": list(made.grid.tokens)})


def departures(policy: Policy, known: Mapping[str, object]) -> list[str]:
    """A sentence for every way in which a run differs from what `policy` was measured on; none for a hand-written policy.

    known: of transformer, scheduler, steps, size, tokens and guidance what is known of the run; None is not known.
    """
    measured = policy.measured_on
    said = []
    for name, tell in _TELLING.items():
        before, now = measured.get(name), known.get(name)
        if before is None or now is None:
            continue
        if fault := misfit(before, _SHAPES[name], name):  # the table is free, a person may have written it
            said.append(f"policy {policy.name}: in its measured_on {fault}, so this run cannot be compared with it.")
        elif sentence := tell(before, now, policy):
            said.append(f"policy {policy.name}: {sentence}")
    return said


def _transformer(before: object, now: object, policy: Policy) -> str:
    if before == now:
        return ""
    assert isinstance(before, Mapping)
    return f"measured on another network ({before.get('class')}, config {str(before.get('sha256'))[:8]}); calibrate for this one."


def _steps(before: object, now: object, policy: Policy) -> str:
    if before == now:
        return ""
    assert isinstance(before, int)
    assert isinstance(now, int)
    warmup = f"its warm-up of {policy.warmup} is {policy.warmup / now:.0%} of this run, not {policy.warmup / max(1, before):.0%}"
    return (
        f"measured at {before} steps, this run has {now}: {warmup}, and a skipped step spans {before / now:.2g}x the noise. "
        "Calibrate at this number, or take --reference."
    )


def _scheduler(before: object, now: object, policy: Policy) -> str:
    return "" if before == now else f"measured with {before}, this run samples with {now}; reused outputs age differently there."


def _size(before: object, now: object, policy: Policy) -> str:
    assert isinstance(before, Mapping)
    assert isinstance(now, Mapping)
    differs = [key for key in before if key in now and before[key] != now[key]]
    sizes = ", ".join(f"{key} {before[key]} (this run {now[key]})" for key in differs)
    return f"measured at {sizes}; its tile of {policy.tile} cells covers another share of the image." if sizes else ""


def _tokens(before: object, now: object, policy: Policy) -> str:
    assert isinstance(before, Sequence)
    assert isinstance(now, Sequence)
    if list(before) == list(now):
        return ""
    was, here = (" x ".join(map(str, sizes)) for sizes in (before, now))
    return f"measured on {was} tokens, this run has {here}; its tile of {policy.tile} cells covers another share of the image."


def _guidance(before: object, now: object, policy: Policy) -> str:
    return "" if before == now else f"measured with guidance {before}, this run has {now}; stronger guidance raises reuse errors."


_TELLING = {
    "transformer": _transformer,
    "steps": _steps,
    "scheduler": _scheduler,
    "size": _size,
    "tokens": _tokens,
    "guidance": _guidance,
}


def measured_words(policy: Policy, model: str) -> str | None:
    """What a measured policy's figures rest on, and that they say nothing of another model; None for a hand-written one."""
    on = policy.measured_on
    if not on:
        return None
    psnr = on.get("psnr")
    prompts = psnr.get("prompts", on.get("prompts")) if isinstance(psnr, Mapping) else on.get("prompts")
    quality, compute = psnr.get("mean") if isinstance(psnr, Mapping) else psnr, on.get("compute")
    known = not misfit([quality, compute], list[float])
    figures = f": {quality:.1f} dB at compute {compute:.2f} over {_prompts_words(prompts)}" if known else ""
    other = "" if on.get("model") == model else f" On {model} it was not measured."
    return f"policy {policy.name} was measured on {on.get('model', 'an unnamed model')}{_size_words(on)}{figures}.{other}"


def _size_words(on: Mapping[str, object]) -> str:
    return f" ({on['model_size']})" if "model_size" in on else ""
