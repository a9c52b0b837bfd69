"""Replace methods on instances, and leave nothing behind."""

import functools
import inspect
from collections.abc import Callable

Wrapper = Callable[[Callable[..., object]], Callable[..., object]]  # given a method, what takes its place


class _Replacement:
    """Stands in for a bound method. A deep copy of the owner, as pipelines with sound make of schedulers, gets the plain one."""

    def __init__(self, owner: object, name: str, original: Callable[..., object], wrapped: Callable[..., object], by: str):
        self._owner, self._name, self._original, self._wrapped = owner, name, original, wrapped
        self.active, self.by = True, by
        # pipelines read signatures: does set_timesteps take sigmas? And no attributes, which could be another replacement's
        functools.update_wrapper(self, original, updated=())

    def __call__(self, *args: object, **kwargs: object) -> object:
        return self._wrapped(*args, **kwargs) if self.active else self._original(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, object]) -> object:
        copied = memo.get(id(self._owner))
        return self._original if copied is None else getattr(type(copied), self._name).__get__(copied)


def is_patch(function: object) -> bool:
    """Whether it is a method of ours, in force or left behind under somebody else's wrapper."""
    return isinstance(function, _Replacement)


def patches_of(owner: object, name: str) -> list[_Replacement]:
    """The patches of ours that are in force on a method of an instance, outermost first; there may be others between."""
    layers: list[_Replacement] = []
    layer = getattr(owner, name)
    while layer is not None:
        if isinstance(layer, _Replacement) and layer.active:
            layers.append(layer)
        layer = getattr(layer, "__wrapped__", None)
    return layers


class InstancePatch:
    """Replace a method on one instance. Removal restores it, or, when someone else wrapped it since, turns it transparent.

    by: whose patch it is, for whoever asks `patches_of`; empty for one that changes nothing that is computed.
    """

    def __init__(self, owner: object, name: str, wrap: Wrapper, by: str = ""):
        self._owner, self._name, self._wrap, self._by = owner, name, wrap, by
        self._had_own, self._original, self._patched = self._replace()

    def _replace(self) -> tuple[bool, Callable[..., object], _Replacement]:
        """(whether the instance had a method of its own, what stood there, what stands there now)."""
        had_own, original = self._name in vars(self._owner), getattr(self._owner, self._name)
        patched = _Replacement(self._owner, self._name, original, self._wrap(original), self._by)
        setattr(self._owner, self._name, patched)
        return had_own, original, patched

    def renew(self) -> None:
        """Replace the method again where someone put back what stood before: accelerate does, between generations."""
        reached = inspect.unwrap(getattr(self._owner, self._name), stop=lambda wrapper: wrapper is self._patched)
        if reached is not self._patched:
            self._patched.active = False
            self._had_own, self._original, self._patched = self._replace()

    def remove(self) -> None:
        self._patched.active = False
        if vars(self._owner).get(self._name) is self._patched:
            if self._had_own:
                setattr(self._owner, self._name, self._original)
            else:
                delattr(self._owner, self._name)
