"""How a method is written on the command line, `NAME:key=value,...`, and how its options are read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from ...errors import InputError

Value = TypeVar("Value")
Default = TypeVar("Default")


@dataclass(frozen=True)
class Spec:
    """A method as written, `NAME:key=value,...`; text keeps the spelling, for labels."""

    text: str
    name: str
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """`preset=NAME` or `file=PATH` as written; empty without one."""
        return next((f"{key}={self.options[key]}" for key in ("preset", "file") if key in self.options), "")


def parse_spec(text: str) -> Spec:
    """`ras:end=N,ratio=0.3` -> a Spec; raises InputError for another form."""
    name, _, rest = text.partition(":")
    pairs = [part.partition("=") for part in rest.split(",") if part]
    if not name or any(not key or not equals for key, equals, _ in pairs):
        raise InputError(f"--method {text}: NAME or NAME:key=value,key=value is needed, for example uniform:k=2,output=forecast.")
    return Spec(text, name, {key.strip(): value.strip() for key, _, value in pairs})


class Options:
    """Reads a spec's options and refuses those that were not taken."""

    def __init__(self, spec: Spec):
        self._spec, self._left = spec, dict(spec.options)

    def take(self, key: str, kind: Callable[[str], Value], default: Default) -> Value | Default:
        """The option's value as `kind` reads it, else the default. Raises InputError where it cannot be read."""
        text = self._left.pop(key, None)
        if text is None:
            return default
        try:
            return kind(text)
        except ValueError as error:
            raise InputError(f"--method {self._spec.text}: {key} = {text!r} cannot be read ({error}).") from error

    def one_of(self, key: str, choices: tuple[str, ...], default: str) -> str:
        value = self.take(key, str, default)
        if value not in choices:
            raise InputError(f"--method {self._spec.text}: {key} = {value!r}; legal: {', '.join(choices)}.")
        return value

    def end(self, known: str) -> None:
        """Refuse what is left; known: the options that the method takes, in words."""
        if self._left:
            raise InputError(f"--method {self._spec.text}: no option {', '.join(self._left)}; {self._spec.name} takes {known}.")


def flag(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError("true or false is needed")
    return text.lower() == "true"


def numbers(count: int) -> Callable[[str], list[float]]:
    """A reader of exactly so many: `4/2/1` -> [4.0, 2.0, 1.0]."""

    def read(text: str) -> list[float]:
        return [float(part) for part in _parts(text, count)]

    return read


def integers(count: int) -> Callable[[str], list[int]]:
    """A reader of exactly so many whole numbers: `4/2/1` -> [4, 2, 1]."""

    def read(text: str) -> list[int]:
        return [int(part) for part in _parts(text, count)]

    return read


def positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise ValueError("a whole number from 1 is needed")
    return value


def fraction(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise ValueError("a number above 0 and at most 1 is needed")
    return value


def _parts(text: str, count: int) -> list[str]:
    parts = text.split("/")
    if len(parts) != count:
        raise ValueError(f"{count} numbers with slashes between them are needed")
    return parts
