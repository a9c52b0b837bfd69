"""A look at HDF5's global heap, where text attributes lie, before HDF5 looks: its reader does not return from some broken heaps.

A heap object of index 0 and size 0 keeps HDF5 2.0.0 in a loop (tests/recording/reading; delete this when it is refused upstream).
Format: HDF5 File Format Specification 3.0, III.E "Disk Format: Level 1E - Global Heap".
"""

import struct
from pathlib import Path

SCANNED = 8 << 20  # bytes from the start; the writer writes its text first, so that it lies there
_COLLECTION = struct.Struct("<4sB3sQ")  # signature, version, reserved, size of the collection
_OBJECT = struct.Struct("<HH4sQ")  # index (0: free space, to the end), references, reserved, size


def heaps_are_sound(path: Path) -> bool:
    """Whether every heap collection in the file's head can be walked from its first object to its end."""
    with path.open("rb") as file:
        head = file.read(SCANNED)
    at = head.find(b"GCOL")
    while at >= 0:
        if not _collection_is_sound(head, at):
            return False
        at = head.find(b"GCOL", at + 4)
    return True


def _collection_is_sound(head: bytes, start: int) -> bool:
    if start + _COLLECTION.size > len(head):
        return True
    _, version, _, size = _COLLECTION.unpack_from(head, start)
    if version != 1 or start + size > len(head):
        return True  # no heap that HDF5 would read, or one that runs out of what was scanned
    at, end = start + _COLLECTION.size, start + size
    while at + _OBJECT.size <= end:
        index, _, _, length = _OBJECT.unpack_from(head, at)
        step = length if index == 0 else _OBJECT.size + (length + 7) // 8 * 8
        if step < _OBJECT.size or at + step > end:
            return False
        at += step
    return True
