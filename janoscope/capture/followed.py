"""Follow a pipeline's attributes: an object that takes the place of `pipe.scheduler` or `pipe.transformer` is attached to."""

from collections.abc import Callable, Iterable
from typing import Any

from .patch import InstancePatch
from .protocols import Pipeline

Attach = Callable[[str, Any], Iterable[Callable[[], None]]]


class Followed:
    """Something attached to the objects that a pipeline's attributes hold, from construction until `remove`.

    Nothing tells of an assignment like `pipe.scheduler = ...`, so `follow` looks again wherever a generation shows itself: here
    at the progress bar, which opens the loop of a diffusers pipeline; the owner calls it at every other method that it replaces.

    Args:
        names: attributes; one that is missing or None is left out.
        attach: given name and object, gives what takes it off again; must not keep the object of another name.
        on_replaced: told the names of which another object was attached to, when all are.
    """

    def __init__(self, pipe: Pipeline, names: tuple[str, ...], attach: Attach, on_replaced: Callable[[set[str]], None]):
        self._pipe, self._names, self._attach, self._on_replaced = pipe, names, attach, on_replaced
        self._held: dict[str, tuple[Any, list[Callable[[], None]]]] = {}
        self._progress_bar: InstancePatch | None = None
        try:
            for name in names:
                self._take(name)
            if hasattr(pipe, "progress_bar"):
                self._progress_bar = InstancePatch(pipe, "progress_bar", self._wrap_progress_bar)
        except BaseException:
            self.remove()
            raise

    def holds(self, name: str, part: object) -> bool:
        """Whether this object is the one attached to under that name."""
        return name in self._held and self._held[name][0] is part

    def follow(self) -> None:
        """Attach to whatever was put in the place of an object since; takes the old one's hooks off."""
        replaced = {name for name in self._names if not self._is_held(name)}
        for name in replaced:
            self._release(name)
            self._take(name)
        if replaced:
            self._on_replaced(replaced)

    def remove(self) -> None:
        if self._progress_bar is not None:
            self._progress_bar.remove()
        for name in reversed(list(self._held)):
            self._release(name)

    def _is_held(self, name: str) -> bool:
        part = getattr(self._pipe, name, None)
        return name not in self._held if part is None else self.holds(name, part)

    def _take(self, name: str) -> None:
        part = getattr(self._pipe, name, None)
        if part is not None:
            undo: list[Callable[[], None]] = []
            self._held[name] = part, undo
            for take_off in self._attach(name, part):  # one by one: what was attached before a failure is taken off again
                undo.append(take_off)

    def _release(self, name: str) -> None:
        _, undo = self._held.pop(name, (None, []))
        while undo:
            undo.pop()()

    def _wrap_progress_bar(self, original: Callable[..., object]) -> Callable[..., object]:
        def progress_bar(*args: object, **kwargs: object) -> object:
            result = original(*args, **kwargs)  # first, so that what was attached first follows first
            self.follow()
            return result

        return progress_bar
