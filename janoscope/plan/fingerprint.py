"""Fingerprint: what a plan was made for. The executor compares it with its own run and names the field that differs."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from ..errors import InputError
from ..grid import TokenGrid
from ..shape import misfit

PROMPT_FIELDS = ("prompt", "seed")
# of a stored fingerprint; a loop of one's own may have recorded a prompt for every item of a batch
_SHAPES: Mapping[str, object] = {
    "model": str,
    "transformer": dict[str, str],
    "guidance": dict[str, Any],
    "prompt": str | list[str],
    "seed": int | None,
}


class Difference(NamedTuple):
    """A field with two values: the plan's or recording's own, and the other side's."""

    field: str
    mine: object
    theirs: object


@dataclass(frozen=True)
class Fingerprint:
    """What must be the same for a plan to hold. Values are JSON data, so that a fingerprint equals itself read back.

    model: hub id or name, never a machine path. transformer: class and sha256 of its config (`transformer_identity`).
    scheduler: class name, or a table. guidance: scale and negative prompt.
    """

    model: str
    transformer: Mapping[str, str]
    grid: TokenGrid
    steps: int
    scheduler: object
    guidance: Mapping[str, object]
    prompt: str
    seed: int | None

    def difference(self, other: "Fingerprint", any_prompt: bool = False) -> list[Difference]:
        """Every field that differs, in order; empty when the two match. `any_prompt` forgives prompt and seed, and only them."""
        mine, theirs = self.to_json(), other.to_json()
        forgiven = PROMPT_FIELDS if any_prompt else ()
        return [Difference(key, mine[key], theirs[key]) for key in mine if key not in forgiven and mine[key] != theirs[key]]

    def to_json(self) -> dict[str, Any]:
        data = {f.name: getattr(self, f.name) for f in fields(self)}
        # through text once: a tuple and the list it becomes in the file are the same value
        result: dict[str, Any] = json.loads(json.dumps(data | {"grid": self.grid.to_json()}))
        return result

    @classmethod
    def from_json(cls, data: object, origin: str = "fingerprint") -> "Fingerprint":
        """The inverse of `to_json`; raises InputError naming missing, unknown and malformed fields."""
        if not isinstance(data, Mapping):
            raise InputError(f"{origin} has no fingerprint table but {data!r}; make the plan again with `janoscope analyze`.")
        known = {f.name for f in fields(cls)}
        faults = [f"lacks {key!r}" for key in sorted(known - set(data))] + [
            f"has unknown {key!r}" for key in data if key not in known
        ]
        steps = data.get("steps", 1)
        if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
            faults.append(f"steps = {steps!r}, not a count from 1")
        faults += [fault for key, shape in _SHAPES.items() if key in data and (fault := misfit(data[key], shape, key))]
        if faults:
            raise InputError(f"{origin}: the fingerprint {', '.join(faults)}; make the plan again with `janoscope analyze`.")
        try:
            grid = TokenGrid.from_json(data["grid"])
        except InputError as error:
            raise InputError(f"{origin}: {str(error).rstrip('.')}; make the plan again with `janoscope analyze`.") from error
        return cls(**{**data, "grid": grid})


def transformer_identity(class_name: str, config: Mapping[str, object]) -> dict[str, str]:
    """Class and sha256 of the config, for `Fingerprint.transformer`.

    Keys that start with an underscore (library version, path it was loaded from) are left out: they change without the model.
    """
    kept = {key: value for key, value in config.items() if not key.startswith("_")}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"), default=str)
    return {"class": class_name, "sha256": hashlib.sha256(text.encode()).hexdigest()}


@dataclass(frozen=True)
class Identity:
    """What a run is, beyond what its pipeline shows; `unknown` where nobody said."""

    model: str = "unknown"
    prompt: str = "unknown"
    seed: int | None = None
    guidance: Mapping[str, object] = field(default_factory=lambda: {"scale": "unknown", "negative_prompt": "unknown"})


def fingerprint_of(
    transformer: Mapping[str, Any], scheduler: Mapping[str, object], grid: TokenGrid, steps: int, identity: Identity
) -> Fingerprint:
    """The fingerprint of a run, from `describe_transformer`, `describe_scheduler` and what the user said."""
    return Fingerprint(
        model=identity.model,
        transformer=transformer_identity(transformer["class"], transformer["config"]),
        grid=grid,
        steps=steps,
        scheduler={"class": scheduler["class"], "config": scheduler["config"]},
        guidance=dict(identity.guidance),
        prompt=identity.prompt,
        seed=identity.seed,
    )
