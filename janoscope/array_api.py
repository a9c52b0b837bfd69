"""What code written against the Python array API takes: NumPy arrays and torch tensors, said without importing torch."""

from collections.abc import Iterator
from typing import Any, Protocol, TypeVar

Operand = Any  # a number, an index, or another array of the same library: no type of Python's says that


class AnyArray(Protocol):
    """A NumPy array or a torch tensor, as far as arithmetic that serves both needs it."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def ndim(self) -> int: ...

    @property
    def dtype(self) -> Operand: ...

    @property
    def device(self) -> Operand: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Operand]: ...

    def __getitem__(self, key: Operand, /) -> Operand: ...

    def __neg__(self) -> Operand: ...

    def __add__(self, other: Operand, /) -> Operand: ...

    def __sub__(self, other: Operand, /) -> Operand: ...

    def __mul__(self, other: Operand, /) -> Operand: ...

    def __truediv__(self, other: Operand, /) -> Operand: ...


Array = TypeVar("Array", bound=AnyArray)  # what goes in comes out: the library, and the device that it lies on
