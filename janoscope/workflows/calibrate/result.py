"""Calibration: the result of `calibrate`, its files, and the provenance that its policies carry."""

import html
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...pipeline.provenance import installed_versions
from ...plan import Fingerprint, Policy
from ...plan.policy import skips_steps_only
from ...results.calibration import RESULT, SCHEMA
from ...results.writing import write_json, write_text
from .choice import Choice, Validated
from .directory import claim
from .search import Candidate
from .sensitivity import Sensitivity
from .space import Span
from .surrogate import Agreement, StepTimes, Surrogate
from .target import Target


@dataclass(frozen=True)
class Fit:
    """One network's calibration. choice: None where nothing meets the target; note says why. tried: candidates scored."""

    span: Span
    surrogate: Surrogate | None = None
    times: StepTimes | None = None
    agreement: Mapping[str, Agreement] = field(default_factory=dict)
    front: tuple[Candidate, ...] = ()
    validated: tuple[Validated, ...] = ()
    choice: Choice | None = None
    sensitivity: Sensitivity | None = None
    tried: int = 0
    note: str = ""

    @property
    def held_out(self) -> int:
        """How many held-out prompts the candidates were measured on."""
        return len(self.validated[0].psnr) if self.validated else 0

    def to_json(self) -> dict[str, object]:
        expected = self.choice.expected if self.choice else None
        return {
            "expert": self.span.expert,
            "span": [self.span.first, self.span.last],
            "tried": self.tried,
            "front": [candidate.to_json() for candidate in self.front],
            "chosen": _chosen(self.choice),
            "surrogate": {**(self.surrogate.to_json() if self.surrogate else {}), "spearman": dict(self.agreement)},
            "times": self.times.to_json() if self.times else None,
            "validation": {
                "prompts": self.held_out,
                "prediction_interval": expected.to_json() if expected else None,
                "candidates": [validated.to_json() for validated in self.validated],
            },
            "cliff": self.sensitivity,
            "note": self.note,
        }


def _chosen(choice: Choice | None) -> dict[str, object] | None:
    if choice is None:
        return None
    taken = choice.validated.to_json() if choice.validated else choice.taken.to_json()
    lead = choice.lead.to_json() if choice.lead else None
    return taken | {"reached": choice.reached, "validated": choice.validated is not None, "lead": lead}


@dataclass(frozen=True)
class Calibration:
    """The result of `calibrate`.

    fits: one, or one for each expert. made_with: the recordings'. model: name, revision, device, size. prompts: (prompt, seed).
    runs: generations made, in all sittings. left_out: in words.
    """

    target: Target
    fits: tuple[Fit, ...]
    made_with: Fingerprint
    model: Mapping[str, object]
    prompts: tuple[tuple[str, int | None], ...]
    runs: int
    left_out: tuple[str, ...] = ()

    @property
    def main(self) -> Fit:
        """The fit whose policy is the first choice: the best that reaches the target."""

        def worth(fit: Fit) -> tuple[bool, float]:
            choice = fit.choice
            quality = choice.validated.mean("psnr") if choice and choice.validated else choice.taken.quality if choice else 0.0
            return bool(choice and choice.reached), quality

        return max(self.fits, key=worth)

    @property
    def reached(self) -> bool:
        return self.main.choice is not None and self.main.choice.reached

    def to_json(self) -> dict[str, object]:
        made = self.made_with
        return {
            "schema": SCHEMA,
            "target": {"kind": self.target.kind, "value": self.target.value, "words": str(self.target)},
            "reached": self.reached,
            "model": dict(self.model),
            "transformer": dict(made.transformer),
            "scheduler": made.scheduler,
            "steps": made.steps,
            "grid": made.grid.to_json(),
            "guidance": dict(made.guidance),
            "prompts": [{"prompt": prompt, "seed": seed} for prompt, seed in self.prompts],
            "runs": self.runs,
            "offline": self.runs == 0,
            "left_out": list(self.left_out),
            "versions": installed_versions(),
            **self.main.to_json(),
            "experts": [fit.to_json() for fit in self.fits] if len(self.fits) > 1 else [],
        }

    def __repr__(self) -> str:
        found = "reached" if self.reached else "not reached"
        return f"<Calibration of {self.made_with.model}: {self.target} {found}, {self.runs} runs, {len(self.prompts)} prompts>"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"

    def __str__(self) -> str:
        return "\n".join([*(_in_words(fit) for fit in self.fits), *(f"note: {reason}" for reason in self.left_out)])


def _in_words(fit: Fit) -> str:
    """A few lines for people."""
    head = f"{fit.span.expert}: " if fit.span.expert else ""
    if fit.choice is None:
        return head + fit.note
    taken, seen = fit.choice.taken, fit.choice.validated
    lines = [f"{head}{_rules(taken.policy)}"]
    if seen is None:
        lines.append(
            f"compute {taken.compute:.3f}, signal-to-error ratio {taken.quality:.1f} dB as predicted; nothing was run, so no "
            "PSNR is known and nothing is validated"
        )
    else:
        lines.append(
            f"compute {seen.mean('compute'):.3f}, speedup {seen.mean('speedup'):.2f}x, PSNR {seen.mean('psnr'):.2f} dB on "
            f"{len(seen.psnr)} held-out prompts ({min(seen.psnr):.1f} to {max(seen.psnr):.1f})"
        )
        if fit.choice.expected and (interval := fit.choice.expected.interval(16)):
            lines.append(f"mean PSNR over 16 new prompts: 95 % prediction interval {interval[0]:.1f} to {interval[1]:.1f} dB")
        if lead := fit.choice.lead:
            lines.append(
                f"{abs(lead.by):.1f} dB {'ahead of' if lead.by >= 0 else 'behind'} the next candidate ({lead.over}), "
                f"standard error {lead.standard_error:.1f}"
            )
    steepest = fit.sensitivity and fit.sensitivity["steepest"]
    if steepest:
        lines.append(
            f"one notch looser ({steepest['change']}) is predicted to cost {steepest['drop_db']:.1f} dB "
            f"at compute {steepest['compute']:.3f}"
        )
    if not fit.choice.reached:
        lines.append("the target was not reached; this is the nearest of those that were run")
    return "\n".join(lines)


def _rules(policy: Policy) -> str:
    every, cut = policy.intervals, policy.quantiles or policy.thresholds
    assert cut is not None
    kind = "quantiles" if policy.quantiles else "thresholds"
    keys = ", keys forecast" if policy.cache.forecast else ""
    if skips_steps_only(policy):
        return (
            f"whole steps, warm-up {policy.warmup}, cool-down {policy.cooldown}, "
            f"intervals {every.static}/{every.moderate}/{every.active}, output {policy.output}"
        )
    return (
        f"map {policy.map}, warm-up {policy.warmup}, cool-down {policy.cooldown}, tile {'x'.join(map(str, policy.tile))}, "
        f"{kind} {cut.static:g}/{cut.moderate:g}, intervals {every.static}/{every.moderate}/{every.active}, "
        f"output {policy.output}{keys}"
    )


def named_policy_of(calibration: Calibration) -> dict[str, Policy]:
    """File name -> policy with its provenance."""
    made: dict[str, Policy] = {}
    for fit in calibration.fits:
        suffix = f"-{fit.span.expert}" if len(calibration.fits) > 1 else ""
        if calibration.target.kind == "pareto":
            for point in fit.validated:
                name = f"policy{suffix}-{point.mean('compute'):.2f}.toml"
                made[name] = _with_provenance(calibration, fit, point.candidate, point)
            if not fit.validated:
                for candidate in fit.front:
                    made[f"policy{suffix}-{candidate.compute:.2f}.toml"] = _with_provenance(calibration, fit, candidate, None)
        if fit.choice is not None:
            made[f"policy{suffix}.toml"] = _with_provenance(calibration, fit, fit.choice.taken, fit.choice.validated)
    return made


def _with_provenance(calibration: Calibration, fit: Fit, candidate: Candidate, seen: Validated | None) -> Policy:
    name = f"calibrated/{calibration.made_with.model}/{calibration.target.kind}"
    name += f"-{calibration.target.value:g}" if calibration.target.kind != "pareto" else f"-{candidate.compute:.2f}"
    source = f"janoscope calibrate for {calibration.target}; {calibration.runs} generations, {fit.tried} candidates"
    return replace(candidate.policy, name=name, source=source, measured_on=_measured_on(calibration, fit, candidate, seen))


def _measured_on(calibration: Calibration, fit: Fit, candidate: Candidate, seen: Validated | None) -> dict[str, object]:
    run, model = calibration.made_with, calibration.model
    size = model.get("size")
    facts: dict[str, object] = {
        "model": run.model,
        "revision": str(model.get("revision", "unknown")),
        "transformer": dict(run.transformer),
        "scheduler": run.scheduler["class"] if isinstance(run.scheduler, Mapping) else str(run.scheduler),
        "steps": run.steps,
        "tokens": list(run.grid.tokens),
        "size": dict(size) if isinstance(size, Mapping) else {},
        "guidance": run.guidance["scale"],
        "device": str(model.get("device", "none")),
        "prompts": len(calibration.prompts),
        "versions": {k: v for k, v in installed_versions().items() if k in ("janoscope", "torch", "diffusers")},
        "predicted": {"compute": round(candidate.compute, 4), "db": round(candidate.quality, 2)},
    }
    if fit.span.expert is not None:
        facts["expert"] = {"name": fit.span.expert, "steps": [fit.span.first, fit.span.last]}
    if seen is None:
        return _without_none(facts | {"validated": False})
    facts |= {"compute": round(seen.mean("compute"), 4), "speedup": round(seen.mean("speedup"), 3)}
    psnr: dict[str, object] = {"mean": round(seen.mean("psnr"), 2), "prompts": len(seen.psnr)}
    expected = fit.choice.expected if fit.choice and fit.choice.validated is seen else None
    if expected is not None and (interval := expected.interval(16)):
        psnr |= {
            "expected": round(expected.mean, 2),
            "spread": round(expected.spread, 2),
            "interval_16_prompts": [round(end, 2) for end in interval],
        }
    return _without_none(facts | {"psnr": psnr, "validated": True})


def _without_none(facts: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in facts.items() if value is not None and value != {}}


def write_calibration(calibration: Calibration, directory: Path) -> list[Path]:
    """The policies, then calibration.json, each whole or not at all; gives their paths."""
    written, policies = [], named_policy_of(calibration)
    claim(directory, policies)
    for name, policy in policies.items():
        write_text(directory / name, policy.to_toml())
        written.append(directory / name)
    write_json(directory / RESULT, calibration.to_json())
    return [*written, directory / RESULT]
