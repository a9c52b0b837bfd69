"""How values become stored bytes and back: bfloat16 bits, casts with their losses counted, checksums."""

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError

BFLOAT16 = "bfloat16"
DTYPES = ("float16", BFLOAT16, "float32", "float64")
_BFLOAT16_NAN = 0x7FC0
# the bits of infinity, the least unsigned number that is not finite
_EXPONENTS: dict[str, tuple[type[np.unsignedinteger], int]] = {
    "float16": (np.uint16, 0x7C00),
    BFLOAT16: (np.uint16, 0x7F80),
    "float32": (np.uint32, 0x7F80_0000),
    "float64": (np.uint64, 0x7FF0_0000_0000_0000),
}
_BLOCK_BYTES = 1 << 18


@dataclass(frozen=True)
class MapSummary:
    """What the file says of one stored map.

    crc32: of the stored bytes. nonfinite: values of the source. nonfinite_created: by the cast. storage_loss: largest absolute
    difference between a finite source value and its finite stored value.
    """

    crc32: int
    nonfinite: int
    nonfinite_created: int
    storage_loss: float


def storage_dtype(name: str) -> np.dtype:
    """NumPy dtype that holds `name` on file; bfloat16 is its 16 bits, since HDF5 converts it in software, 40-100x slower."""
    return np.dtype(np.uint16) if name == BFLOAT16 else np.dtype(name)


def fill_value(name: str) -> np.generic:
    """NaN in the stored dtype: what stands where nothing was written."""
    return np.uint16(_BFLOAT16_NAN) if name == BFLOAT16 else np.dtype(name).type(np.nan)


def check_dtype_name(name: str) -> str:
    if name not in DTYPES:
        raise InputError(f"dtype {name!r} cannot be stored; legal: {', '.join(DTYPES)}.")
    return name


def as_source(values: ArrayLike, dtype: str | None, what: str) -> tuple[np.ndarray, str]:
    """The values as a NumPy array and the name of their dtype; no copy if none is needed.

    dtype: "bfloat16" when `values` are the uint16 bits of bfloat16 numbers.
    Raises InputError for anything that is not floating point.
    """
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{what} cannot become a NumPy array: {error}. Pass detached CPU values; bfloat16 as its uint16 bits."
        ) from error
    if dtype == BFLOAT16 or array.dtype.name == BFLOAT16:
        if array.dtype.itemsize != 2 or array.dtype.kind not in "uV":
            raise InputError(f"{what} is {array.dtype}; dtype='bfloat16' needs the numbers' 16 bits as uint16.")
        return array.view(np.uint16), BFLOAT16
    if dtype is not None and dtype != array.dtype.name:
        raise InputError(f"{what} is {array.dtype}, not the {dtype} it was said to be; leave dtype out.")
    if array.dtype.name not in DTYPES:
        raise InputError(f"{what} is {array.dtype}; legal: {', '.join(DTYPES)}. Convert it first.")
    return array, array.dtype.name


def decode(stored: np.ndarray, name: str) -> np.ndarray:
    """Stored values as float32 (float64 keeps its width)."""
    if name == BFLOAT16:
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored if name == "float64" else stored.astype(np.float32, copy=False)


def float32_to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Bits of the nearest bfloat16, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), (bits >> 16) | 0x0040, rounded).astype(np.uint16)


def count_nonfinite(stored: np.ndarray, name: str) -> int:
    """Infinities and NaNs: every number whose exponent bits are all set.

    By bits and in blocks that stay in the cache: `isfinite` of a float16 map took four times as long as writing its checksum.
    """
    kind, exponent = _EXPONENTS[name]
    bits = np.ascontiguousarray(stored).view(kind).reshape(-1)
    unsigned = kind(~(1 << (8 * bits.itemsize - 1)) & (1 << 8 * bits.itemsize) - 1)
    count, length = 0, _BLOCK_BYTES // bits.itemsize
    for start in range(0, bits.size, length):
        block = bits[start : start + length] & unsigned
        if block.max() >= exponent:
            count += int(np.count_nonzero(block >= exponent))
    return count


def cast(values: np.ndarray, source: str, stored: str) -> np.ndarray:
    """The values as they are to lie on file; no copy where nothing changes."""
    if source == stored:
        return np.ascontiguousarray(values)
    wide = decode(values, source)
    with np.errstate(over="ignore"):
        data = float32_to_bfloat16(wide.astype(np.float32, copy=False)) if stored == BFLOAT16 else wide.astype(stored)
    return np.ascontiguousarray(data)


def summarize(values: np.ndarray, source: str, data: np.ndarray, stored: str) -> MapSummary:
    """Checksum and counts of a map: `data` is what `cast` made of `values`."""
    nonfinite, crc32 = count_nonfinite(values, source), checksum(data)
    if source == stored:
        return MapSummary(crc32, nonfinite, 0, 0.0)
    created = count_nonfinite(data, stored) - nonfinite
    with np.errstate(invalid="ignore"):
        difference = np.abs(decode(values, source) - decode(data, stored))
    loss = float(np.max(difference, where=np.isfinite(difference), initial=0.0))
    return MapSummary(crc32, nonfinite, created, loss)


def checksum(data: np.ndarray) -> int:
    """zlib.crc32 of the bytes as they lie on file."""
    return zlib.crc32(np.ascontiguousarray(data).data.cast("B")) if data.size else 0
