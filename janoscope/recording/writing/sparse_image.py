"""A file laid down in memory, holes left out: HDF5 never meets a full disk while it makes objects.

When HDF5 fails to write its own metadata, the process ends in a segmentation fault, at once or when it exits (seen with
HDF5 2.0.0 on a full disk and under a file size limit). So metadata is written to this object, which cannot fail, and
reaches the disk as plain writes, which fail as plain OSError.
"""

import io
from pathlib import Path


class SparseImage(io.RawIOBase):
    """What h5py's file-object driver needs; keeps the writes in order. `size` is the length of the file, holes included."""

    def __init__(self) -> None:
        self.size = 0
        self._at = 0
        self._writes: list[tuple[int, bytes]] = []

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def write(self, data) -> int:  # type: ignore[no-untyped-def, override]
        self._writes.append((self._at, bytes(data)))
        self._at += len(data)
        self.size = max(self.size, self._at)
        return len(data)

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def, override]
        length = max(0, min(len(buffer), self.size - self._at))
        view = memoryview(buffer).cast("B")
        view[:length] = bytes(length)
        for offset, data in self._writes:
            start, stop = max(offset, self._at), min(offset + len(data), self._at + length)
            if start < stop:
                view[start - self._at : stop - self._at] = data[start - offset : stop - offset]
        self._at += length
        return length

    def truncate(self, size: int | None = None) -> int:
        self.size = self._at if size is None else size
        self._writes = [(offset, data[: self.size - offset]) for offset, data in self._writes if offset < self.size]
        return self.size

    def save(self, path: Path) -> None:
        """Write the file; raises OSError where the disk is full or the file is beyond a size limit."""
        with path.open("xb", buffering=0) as file:
            for offset, data in self._writes:
                file.seek(offset)
                if file.write(data) != len(data):
                    file.write(data[-1:])  # a short write: ask again for the reason
                    raise OSError(f"{path.name} could only be written in part")
            file.truncate(self.size)
