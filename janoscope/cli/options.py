"""Options that mean the same everywhere, and what the commands make of them."""

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..parallel.pair import Pair
    from ..pipeline.call import CallOptions
    from ..pipeline.model import Model, ModelOptions

Command = Callable[..., Any]
_LIBRARIES = r"(diffusers|transformers|torch|huggingface_hub|tokenizers|accelerate|safetensors)(\.|$)"


def as_argument(path: Path) -> str:
    """A path as it is pasted into a shell: quoted, and never taken for an option."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def _stacked(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


model_flags = _stacked(
    click.option("--device", help="Torch device [default: the first GPU, else cpu]."),
    click.option("--dtype", help="float32, float16 or bfloat16 [default: float32 on the CPU, else as stored]."),
    click.option("--revision", help="Revision of a hub model."),
    click.option("--variant", help="Weight variant of a hub model, for example fp16."),
    click.option("--scheduler", help="Class name of another diffusers scheduler."),
    click.option("--probe", type=click.Path(path_type=Path), help="A probe of your own (docs/probes.md)."),
)
model_options = _stacked(click.argument("model"), model_flags)
call_flags = _stacked(
    click.option("--seed", type=int, default=0, show_default=True),
    click.option("--steps", type=click.IntRange(min=1), help="Sampler steps [default: the model's]."),
    click.option("--height", type=click.IntRange(min=1), help="Pixels."),
    click.option("--width", type=click.IntRange(min=1), help="Pixels."),
    click.option("--frames", type=click.IntRange(min=1), help="Frames of a clip."),
    click.option("--guidance", type=float, help="Guidance scale."),
    click.option("--negative-prompt", help="What to steer away from."),
    click.option("--call", "extra", multiple=True, metavar="KEY=JSON", help="Any other argument of the pipeline."),
)
call_options = _stacked(click.option("-p", "--prompt", required=True, help="What to generate."), call_flags)
# for verbs that take a whole file of prompts as well
set_options = _stacked(
    click.option("-p", "--prompt", help="What to generate."),
    click.option("--prompts", type=click.Path(path_type=Path), help="A file of prompts: text, CSV, TSV, JSON, JSONL or Parquet."),
    click.option("--prompt-column", metavar="NAME", help="Its column of prompts [default: prompt, prompt_en, caption or text]."),
    click.option("--ray", metavar="ADDRESS", help="Spread the prompts over a Ray cluster (`auto`: the one on this machine)."),
    call_flags,
)
force_option = click.option("-f", "--force", is_flag=True, help="Replace existing files.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress, no notices.")
verbose_option = click.option("-v", "--verbose", is_flag=True, help="Let the libraries speak too.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


def load(options: dict[str, Any], verbose: bool, pair: "Pair | None" = None) -> "Model":
    """Take the model options out of a command's options and load the model."""
    from ..pipeline.model import load_model

    name, chosen = take_model(options)
    if not verbose:
        hush()
    return load_model(name, chosen, pair=pair)


def take_model(options: dict[str, Any]) -> "tuple[str, ModelOptions]":
    """Take MODEL and the model options out of a command's options."""
    from ..pipeline.model import ModelOptions

    names = ("device", "dtype", "revision", "variant", "scheduler", "probe")
    return options.pop("model"), ModelOptions(**{name: options.pop(name) for name in names})


def take_call(options: dict[str, Any]) -> "CallOptions":
    """Take the call options out of a command's options."""
    from ..pipeline.call import CallOptions

    names = ("prompt", "seed", "steps", "height", "width", "frames", "guidance", "negative_prompt")
    extra = dict(_key_value(text) for text in options.pop("extra"))
    return CallOptions(**{name: options.pop(name) for name in names}, extra=extra)


def all_prompts(given: tuple[str, ...], file: Path | None, column: str | None, least: str) -> list[str]:
    """The prompts of -p and --prompts together, each once. least: how many are needed, for the refusal where there is none."""
    from ..errors import InputError
    from ..pipeline.prompts import read_prompts

    if column is not None and file is None:
        raise InputError("--prompt-column has no effect without --prompts. Leave it out.")
    prompts = [*given, *(prompt.text for prompt in (read_prompts(file, column) if file else ()))]
    if not prompts:
        raise click.UsageError(f"give {least}, or --prompts FILE.")
    return list(dict.fromkeys(prompts))


def _key_value(text: str) -> tuple[str, Any]:
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
def _silent(library: Any) -> Iterator[None]:
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
