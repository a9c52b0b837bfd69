"""What `record` and `apply` give: attached to a pipeline from the moment it is made until it is closed."""

import atexit
import warnings
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Self

from ..errors import InputError, JanoscopeError


class Handle:
    """Attached since it was made. `close()` gives the pipeline back as it was; `with` does so at its end.

    A handle that is dropped, or open when Python ends, is closed then, with a RuntimeWarning: unlike a ResourceWarning it is
    shown by default, and whoever meets it has lost a recording or waited for a plain run. One that is closed before any
    generation warns too.

    Args:
        layers: what is on the pipeline; its end takes it off.
        call: what was called, for people.
        result: what a generation was to be: recorded, accelerated.
        is_unused: whether no network call was seen.
    """

    def __init__(self, layers: ExitStack, call: str, result: str, is_unused: Callable[[], bool]):
        self._call, self._result, self._is_unused, self._layers = call, result, is_unused, layers
        self._left_open = weakref.finalize(self, _close_left_open, layers, call, result, is_unused)
        self._left_open.atexit = False
        self.close_first_at_exit = partial(_first_at_exit, self._left_open)  # knows the handle only weakly
        self.close_first_at_exit()

    def __repr__(self) -> str:
        """What was called, and whether it is still attached."""
        return f"<{type(self).__name__} of {self._call}, {'closed' if self.is_closed else 'attached'}>"

    @property
    def is_closed(self) -> bool:
        return not self._left_open.alive

    def close(self) -> None:
        """Take everything off the pipeline and finish what was made; may be called twice.

        Raises InputError or ExecutionError where network calls and no scheduler step were seen, after all is taken off.
        """
        self.__exit__(None, None, None)

    def __enter__(self) -> Self:
        if self.is_closed:
            raise InputError(f"the handle of {self._call} is closed already; call it again for another one.")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._left_open.detach() is None:
            return
        atexit.unregister(self._left_open)
        self._layers.__exit__(kind, error, trace)
        if error is None and self._is_unused():
            warnings.warn(
                f"no generation was made while {self._call} was attached: nothing was {self._result}.",
                RuntimeWarning,
                stacklevel=2,
            )


def _first_at_exit(finalizer: weakref.finalize) -> None:
    """What is registered last runs first: before what is under the handle closes itself as interrupted."""
    atexit.unregister(finalizer)
    atexit.register(finalizer)


def _close_left_open(layers: ExitStack, call: str, result: str, is_unused: Callable[[], bool]) -> None:
    unused = is_unused()
    try:
        layers.close()
    except JanoscopeError as error:
        warnings.warn(str(error), RuntimeWarning, stacklevel=2)
    said = (
        f"the handle of {call} was dropped before any generation, so nothing was {result}: keep it while the pipeline runs, then "
        "close() it, or use `with`."
        if unused
        else f"the handle of {call} was never closed and is closed now; close() it when you are done, or use `with`."
    )
    warnings.warn(said, RuntimeWarning, stacklevel=2)
