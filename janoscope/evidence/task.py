"""Task: one subject of a recipe with its model loaded and its calls made, and where its results go."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..pipeline.call import CallOptions, PipelineCall
from ..pipeline.model import Model
from ..pipeline.model_options import ModelOptions
from ..plan import Policy
from ..workflows.compare.contest import calls_of
from .recipe import Recipe, Subject

OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class Task:
    """What makes a subject's results. argument, load: of the model. folder: empty, becomes its own. on_step: (done, total)."""

    recipe: Recipe
    subject: Subject
    model: Model
    argument: str
    load: ModelOptions
    calls: Sequence[PipelineCall]
    folder: Path
    on_step: OnStep

    def policy(self) -> Policy:
        """The subject's policy: a preset, a TOML file of the report's folder, else the model's own."""
        named = self.subject.policy
        if named.endswith(".toml"):
            return self.model.policy(str(self.recipe.directory / named))
        return self.model.policy(named or None)


def make_calls(model: Model, subject: Subject) -> list[PipelineCall]:
    """A call for every prompt and seed of the subject."""
    options = CallOptions(prompt=subject.prompts[0], **subject.call)
    return calls_of(model, options, subject.prompts, subject.seeds)
