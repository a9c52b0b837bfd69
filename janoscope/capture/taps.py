"""Taps: outputs and inputs of inner modules, named by their dotted path, thinned out before they leave the device."""

import difflib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import InputError

_OPTION = re.compile(r":(?=steps=|tokens=|channels=)")
_SYNTAX = "PATH[.output|.input][:steps=A:B:C][:tokens=K][:channels=K], for example transformer_blocks.0:steps=::5:tokens=64"


@dataclass(frozen=True)
class Tap:
    """One inner module to record. `port`: `output`, `output.1` (an entry of a tuple), `input`, `input.NAME` (an argument).

    tokens, channels: at most so many, evenly spread; None means all. steps: (start, stop, stride), as in a slice.
    """

    path: str
    port: str = "output"
    steps: tuple[int | None, int | None, int | None] = (None, None, None)
    tokens: int | None = None
    channels: int | None = None

    @property
    def name(self) -> str:
        """The signal's name: module path and port."""
        return f"{self.path}.{self.port}"

    def wants(self, step: int, steps: int) -> bool:
        return step in range(*slice(*self.steps).indices(steps))

    def count(self, steps: int) -> int:
        """How many of `steps` steps are recorded."""
        return len(range(*slice(*self.steps).indices(steps)))


def parse_tap(text: str) -> Tap:
    """A tap from its command-line form.

    >>> parse_tap("transformer_blocks.0:steps=::5:tokens=256").name
    'transformer_blocks.0.output'
    """
    place, *options = _OPTION.split(text)
    path, port = _split_port(place)
    values: dict[str, Any] = {}
    try:
        for option in options:
            key, _, value = option.partition("=")
            values[key] = _slice(value) if key == "steps" else _at_least_one(value)
        if not path or ":" in place or "=" in place:
            raise ValueError(place)
    except ValueError as error:
        raise InputError(f"tap {text!r} cannot be understood; write {_SYNTAX}.") from error
    return Tap(path, port, **values)


def _split_port(place: str) -> tuple[str, str]:
    match = re.fullmatch(r"(.+?)\.((?:output|input)(?:\.\w+)?)", place)
    return (match[1], match[2]) if match else (place, "output")


def _slice(text: str) -> tuple[int | None, ...]:
    parts = [int(part) if part else None for part in text.split(":")]
    if not 2 <= len(parts) <= 3 or (len(parts) == 3 and (parts[2] or 1) < 1):
        raise ValueError(text)
    return (*parts, None)[:3]


def _at_least_one(text: str) -> int:
    if (value := int(text)) < 1:
        raise ValueError(text)
    return value


class TapHooks:
    """Hooks on the tapped modules from construction until `remove`. `take` gives what the last network call brought.

    Values are (batch and branch, token, channel), thinned out and copied.
    """

    def __init__(self, networks: Mapping[str, torch.nn.Module], taps: tuple[Tap, ...]):
        self.taps = {tap.name: tap for tap in taps}
        self._step, self._steps = 0, None  # type: tuple[int, int | None]
        self._values: dict[str, torch.Tensor] = {}
        self.strides: dict[str, tuple[int, int]] = {}  # of tokens and channels
        self._undo: list[Callable[[], None]] = []
        try:
            for tap in self.taps.values():
                self._attach(tap, networks)
        except BaseException:
            self.remove()
            raise

    def at_step(self, step: int, steps: int | None) -> None:
        """Where the generation is. The first step is always looked at: it shows the sizes."""
        self._step, self._steps = step, steps

    def take(self) -> dict[str, torch.Tensor]:
        values, self._values = self._values, {}
        return values

    def remove(self) -> None:
        while self._undo:
            self._undo.pop()()

    def _attach(self, tap: Tap, networks: Mapping[str, torch.nn.Module]) -> None:
        found = [modules[tap.path] for network in networks.values() if tap.path in (modules := dict(network.named_modules()))]
        if not found:
            names = [name for network in networks.values() for name, _ in network.named_modules() if name]
            near = difflib.get_close_matches(tap.path, names, 3, 0.3)
            raise InputError(f"no module {tap.path!r} to tap in {', '.join(networks)}; near it: {', '.join(near) or 'nothing'}.")
        for module in found:
            self._undo.append(module.register_forward_hook(self._hook(tap, module), with_kwargs=True).remove)

    def _hook(self, tap: Tap, tapped: torch.nn.Module) -> Callable[..., None]:
        signature = inspect.signature(type(tapped).forward)

        def see(module: torch.nn.Module, args: tuple[object, ...], kwargs: dict[str, object], output: object) -> None:
            if self._step and self._steps is not None and not tap.wants(self._step, self._steps):
                return
            if tap.name in self._values:
                raise InputError(f"{tap.path} is called more than once in one network call; tap a module inside or around it.")
            arguments = signature.bind(module, *args, **kwargs).arguments
            value = as_map(tap, value_at(tap, arguments, output))
            token, channel = self.strides[tap.name] = stride(value.shape[1], tap.tokens), stride(value.shape[2], tap.channels)
            self._values[tap.name] = value.detach()[:, ::token, ::channel].clone()  # later blocks may work in place

        return see


def value_at(tap: Tap, arguments: Mapping[str, object], output: object) -> object:
    """What goes through a port. Of a tuple without a number, the entry shaped like the block's `hidden_states`."""
    kind, _, which = tap.port.partition(".")
    if kind == "input":
        named = {name: value for name, value in arguments.items() if isinstance(value, torch.Tensor)}
        name = which or ("hidden_states" if "hidden_states" in named else next(iter(named), ""))
        if name not in named:
            raise InputError(f"{tap.path} has no tensor argument {name!r}; it got {', '.join(named) or 'none'}.")
        return named[name]
    entries = list(output) if isinstance(output, tuple | list) else [getattr(output, "sample", output)]
    if which:
        if not which.isdigit() or int(which) >= len(entries):
            raise InputError(f"{tap.name}: the module gives {len(entries)} outputs, output.0 to output.{len(entries) - 1}.")
        return entries[int(which)]
    if len(entries) == 1:
        return entries[0]
    like = getattr(arguments.get("hidden_states"), "shape", None)
    fitting = [entry for entry in entries if getattr(entry, "shape", None) == like]
    if len(fitting) != 1:
        choices = ", ".join(f"{tap.path}.output.{i}" for i in range(len(entries)))
        raise InputError(f"{tap.path} gives {len(entries)} outputs and none stands out; name one: {choices}.")
    return fitting[0]


def as_map(tap: Tap, value: object) -> torch.Tensor:
    """(batch, token, channel): vectors are one token, cells of pictures and clips are tokens in their own order."""
    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or not 2 <= value.ndim <= 5:
        what = f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
        raise InputError(f"{tap.name} is {what}; a tap needs floating-point values with batch, token and channel axes.")
    if value.ndim == 2:
        return value[:, None]
    return value if value.ndim == 3 else value.flatten(2).transpose(1, 2)


def stride(size: int, at_most: int | None) -> int:
    """The smallest stride from the first that keeps at most as many as asked for."""
    return 1 if at_most is None else -(-size // at_most)
