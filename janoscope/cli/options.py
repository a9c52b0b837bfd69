"""Options that mean the same everywhere, and the frozen objects in which they reach a command."""

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import click

from .command import Decorator, collected, option, stacked

if TYPE_CHECKING:
    from ..parallel.pair import Pair
    from ..pipeline.call import CallOptions
    from ..pipeline.model import Model
    from ..pipeline.model_options import ModelOptions

_LIBRARIES = r"(diffusers|transformers|torch|huggingface_hub|tokenizers|accelerate|safetensors)(\.|$)"
PATH = click.Path(path_type=Path)
COUNT = click.IntRange(min=1)


@dataclass(frozen=True)
class ModelFlags:
    """How MODEL is loaded; None leaves the default."""

    device: str | None
    dtype: str | None
    revision: str | None
    variant: str | None
    scheduler: str | None
    probe: Path | None

    def options(self) -> "ModelOptions":
        """As `load_model` takes them, and as recipes of a set or a comparison store them."""
        from ..pipeline.model_options import ModelOptions

        return ModelOptions(
            device=self.device,
            dtype=self.dtype,
            revision=self.revision,
            variant=self.variant,
            scheduler=self.scheduler,
            probe=self.probe,
        )

    def load(self, name: str, verbose: bool, pair: "Pair | None" = None) -> "Model":
        """Load MODEL, silently unless verbose."""
        from ..pipeline.model import load_model

        if not verbose:
            hush()
        return load_model(name, self.options(), pair=pair)


@dataclass(frozen=True)
class CallFlags:
    """What the user says of the pipeline's call, beside the prompt."""

    seed: int
    steps: int | None
    height: int | None
    width: int | None
    frames: int | None
    guidance: float | None
    negative_prompt: str | None
    extra: tuple[str, ...]

    def options(self, prompt: str) -> "CallOptions":
        """The options of a generation from this prompt."""
        from ..pipeline.call import CallOptions

        return CallOptions(
            prompt=prompt,
            seed=self.seed,
            steps=self.steps,
            height=self.height,
            width=self.width,
            frames=self.frames,
            guidance=self.guidance,
            negative_prompt=self.negative_prompt,
            extra=dict(_key_value(text) for text in self.extra),
        )


@dataclass(frozen=True)
class PromptFlags:
    """One prompt, several, or a file of them, and where they are worked through."""

    prompts: tuple[str, ...]
    prompts_file: Path | None
    prompt_column: str | None
    ray: str | None

    def texts(self, least: str) -> list[str]:
        """All prompts, each once. least: how many are needed, for the error where there is none."""
        from ..errors import InputError
        from ..pipeline.prompts import read_prompts

        if self.prompt_column is not None and self.prompts_file is None:
            raise InputError("--prompt-column has no effect without --prompts. Leave it out.")
        entries = read_prompts(self.prompts_file, self.prompt_column) if self.prompts_file else ()
        if not (texts := [*self.prompts, *(entry.text for entry in entries)]):
            raise click.UsageError(f"give {least}, or --prompts FILE.")
        return list(dict.fromkeys(texts))


@dataclass(frozen=True)
class Reporting:
    """What a command prints beside its result."""

    as_json: bool
    quiet: bool
    verbose: bool


def grouped(group: str, *names: str, **attributes: object) -> Decorator:
    """`option` with the group first, for lists of options."""
    return option(*names, group=group, **attributes)


model_flags = collected(
    "loading",
    ModelFlags,
    (
        grouped("Model", "--device", help="Torch device [default: the first GPU, else cpu]."),
        grouped("Model", "--dtype", help="float32, float16 or bfloat16 [default: float32 on the CPU, else as stored]."),
        grouped("Model", "--revision", help="Revision of a hub model."),
        grouped("Model", "--variant", help="Weight variant of a hub model, for example fp16."),
        grouped("Model", "--scheduler", help="Class name of another diffusers scheduler."),
        grouped("Model", "--probe", type=PATH, help="A probe of your own (docs/probes.md)."),
    ),
)
model_options = stacked(click.argument("model"), model_flags)
call_options = collected(
    "calling",
    CallFlags,
    (
        grouped("Generation", "--seed", type=int, default=0, show_default=True),
        grouped("Generation", "--steps", type=COUNT, help="Sampler steps [default: the model's]."),
        grouped("Generation", "--height", type=COUNT, help="Pixels."),
        grouped("Generation", "--width", type=COUNT, help="Pixels."),
        grouped("Generation", "--frames", type=COUNT, help="Frames of a video."),
        grouped("Generation", "--guidance", type=float, help="Guidance scale."),
        grouped("Generation", "--negative-prompt", help="What to steer away from."),
        grouped("Generation", "--call", "extra", multiple=True, metavar="KEY=JSON", help="Any other argument of the pipeline."),
    ),
)
prompt_option = grouped("Prompt", "-p", "--prompt", required=True, help="What to generate.")
# for commands that take several prompts or a file of them as well
prompt_options = collected(
    "prompting",
    PromptFlags,
    (
        grouped("Prompt", "-p", "--prompt", "prompts", multiple=True, help="What to generate."),
        grouped(
            "Prompt", "--prompts", "prompts_file", type=PATH, help="A file of prompts: text, CSV, TSV, JSON, JSONL or Parquet."
        ),
        grouped(
            "Prompt",
            "--prompt-column",
            metavar="NAME",
            help="Its column of prompts [default: prompt, prompt_en, caption or text].",
        ),
        grouped(
            "Parallel", "--ray", metavar="ADDRESS", help="Spread the work over a Ray cluster (`auto`: the one on this machine)."
        ),
    ),
)
partial_option = option("--partial", is_flag=True, group="Input", help="Accept a recording that was cut short.")
force_option = option("-f", "--force", is_flag=True, group="Output", help="Replace existing files.")
quiet_option = option("-q", "--quiet", is_flag=True, group="Output", help="No progress, no notices.")
verbose_option = option("-v", "--verbose", is_flag=True, group="Output", help="Show log output of diffusers and transformers.")
json_option = option("--json", "as_json", is_flag=True, group="Output", help="Print JSON instead of text.")
reporting_options = collected("reporting", Reporting, (json_option, quiet_option, verbose_option))


def output_option(default: str | None, help: str) -> Decorator:
    """-o, --output."""
    path = None if default is None else Path(default)
    return option("-o", "--output", type=PATH, default=path, show_default=default is not None, group="Output", help=help)


def announce(model: str, quiet: bool) -> None:
    """Say that MODEL is loaded, before the seconds that importing torch takes.

    Of two processes with a guidance branch each, the first one speaks.
    """
    if not quiet and os.environ.get("RANK", "0") == "0":
        click.echo(f"Loading {model} ...", err=True)


def as_argument(path: Path) -> str:
    """A path as it is pasted into a shell: quoted, and never taken for an option."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def _key_value(text: str) -> tuple[str, object]:
    from ..decode import decode_json
    from ..errors import InputError

    key, equals, value = text.partition("=")
    try:
        if not equals:
            raise InputError("no =")
        return key, decode_json(value, key, "", finite=False)
    except InputError as error:
        example = "max_sequence_length=256 or output_type='\"latent\"'"
        raise click.UsageError(f"--call {text}: KEY=JSON is needed, for example {example}.") from error


def hush() -> None:
    """Silence what libraries say to developers, until the command that is running ends."""
    click.get_current_context().with_resource(libraries_silent())


@contextmanager
def libraries_silent() -> Iterator[None]:
    """No warnings, log lines and bars of diffusers and transformers inside; afterwards all is as it was.

    Our own warnings are RuntimeWarnings, raised from inside hooks so that a library's module may be named as their origin:
    that category is let through wherever it comes from.
    """
    import warnings

    with warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning, PendingDeprecationWarning):
            warnings.simplefilter("ignore", category)
        warnings.filterwarnings("ignore", category=UserWarning, module=_LIBRARIES)
        import diffusers.utils.logging
        import transformers.utils.logging

        with _silent(diffusers.utils.logging), _silent(transformers.utils.logging):
            yield


@contextmanager
def _silent(library: ModuleType) -> Iterator[None]:
    """library: the logging module of diffusers or transformers."""
    level, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity_error()
    library.disable_progress_bar()
    try:
        yield
    finally:
        library.set_verbosity(level)
        if bars:
            library.enable_progress_bar()
