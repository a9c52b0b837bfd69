"""Run as a process by test_recording_mutants: changes what HDF5 says about a recording, then reads all of it. No torch.

Usage: mutated_structure.py FOLDER MUTANTS SEED FILE; prints JSON counts, the largest memory (MiB) and CPU time of one (s).
"""

import json
import random
import re
import resource
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from janoscope.errors import JanoscopeError
from janoscope.recording import diff, export, open_recording

CPU_LIMIT_S = 60  # processor time of one mutant, which others cannot take: what takes longer does not return
NUMBERS = (-(2**63), -1, 0, 1, 3, 64, 4097, 10**5, 10**6, 10**8, 10**9, 2**31, 2**53, 2**63 - 1)
TEXTS = (
    "",
    "1.0",
    "1.9",
    "{}",
    "[]",
    "null",
    "\u00e4",
    "[" * 3000,
    '{"channels": 1e999}',
    "x" * 70_000,
    "complete",
    "failed: \n",
)


class Mutator:
    """One change of an open file; most fit the format's types, as the others are refused at once."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice

    def change(self, file: h5py.File) -> None:
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        for _ in range(self.dice.choice((1, 1, 1, 2, 3))):
            change = self.dice.choice(
                (self.attribute, self.attribute, self.values, self.values, self.resize, self.replace, self.rename)
            )
            try:
                change(file, self.dice.choice([name for name in names if name in file]))
            except (OSError, ValueError, TypeError, RuntimeError, KeyError, OverflowError):
                continue  # HDF5 itself does not make such a file

    def value(self) -> Any:
        kinds = (
            lambda: np.int64(self.dice.choice(NUMBERS)),
            lambda: np.float64(self.dice.choice((np.nan, np.inf, -0.0, 1e308))),
            lambda: self.dice.choice(TEXTS),
            lambda: np.bytes_(self.dice.randbytes(8).hex()),
            lambda: np.arange(self.dice.choice((0, 1, 5, 1000))),
            lambda: h5py.Empty("f"),
        )
        return self.dice.choice(kinds)()

    def attribute(self, file: h5py.File, name: str) -> None:
        owner = file if self.dice.random() < 0.6 else file[name]
        if not len(owner.attrs):
            return
        key = self.dice.choice(sorted(owner.attrs))
        if self.dice.random() < 0.1:
            del owner.attrs[key]
        else:
            owner.attrs[key] = self.value()

    def values(self, file: h5py.File, name: str) -> None:
        dataset = file[name]
        if dataset.nbytes > 1 << 20:
            return  # HDF5 would make all of the room that `replace` only claims
        if dataset.dtype.kind in "iu":
            info = np.iinfo(dataset.dtype)
            new = min(max(self.dice.choice(NUMBERS), int(info.min)), int(info.max))
        elif dataset.dtype.kind == "f":
            new = self.dice.choice((np.nan, np.inf, -1.0, 1e30))
        else:
            new = np.bytes_(self.dice.choice(TEXTS).encode("ascii", "replace"))
        if not dataset.shape:
            dataset[()] = new
        elif dataset.size:
            dataset[tuple(self.dice.randrange(size) for size in dataset.shape)] = new

    def resize(self, file: h5py.File, name: str) -> None:
        names = (
            [name]
            if self.dice.random() < 0.5
            else [n for n in list(file) if isinstance(file[n], h5py.Dataset) and file[n].chunks]
        )
        rows = self.dice.choice((0, 1, 3, 7, 65, 1000))  # each gets its entry in the index at once; `replace` claims more
        for one in names:
            if file[one].maxshape and file[one].maxshape[0] is None:
                file[one].resize(rows, axis=0)
        if len(names) > 1 and self.dice.random() < 0.7:
            file["steps_done"][()] = rows

    def replace(self, file: h5py.File, name: str) -> None:
        dataset = file[name]
        kept, shape = dict(dataset.attrs), list(dataset.shape)
        if shape and self.dice.random() < 0.5:
            shape[self.dice.randrange(len(shape))] = self.dice.choice((0, 1, 2, 1000, 10**6, 2**31))
        kind = self.dice.choice(
            (dataset.dtype, dataset.dtype, "f2", "f4", "f8", "i1", "u2", "i8", "S40", ">f4", "complex64", "bool")
        )
        options: dict[str, Any] = {}
        if shape and all(shape) and self.dice.random() < 0.4:
            options = {"chunks": tuple(min(size, self.dice.choice((1, 64, 10**6))) for size in shape), "compression": "gzip"}
        del file[name]
        file.create_dataset(name, shape, kind, **options)
        for key, value in kept.items():
            if key not in ("DIMENSION_LIST", "REFERENCE_LIST", "CLASS", "NAME"):
                file[name].attrs[key] = value

    def rename(self, file: h5py.File, name: str) -> None:
        to = self.dice.choice(
            ("sample", "alpha", "taps/a.output", "taps/a.output_crc32", "stranger", "provenance/extra", "skipped")
        )
        if to not in file:
            file.move(name, to)


def read_all(path: Path, more: bool) -> int:
    """How many faults verify names. more: what takes another file or another library too."""
    with open_recording(path, partial=True) as recording:
        faults = recording.verify()
        json.dumps(recording.summary())
        repr(recording)
        for name in recording.signals:
            branches = recording.branches if recording.spec(name).branched else ("guided",)
            for branch in branches:
                recording.read(name, recording.items - 1, branch)
            recording.curve(name, recording.spec(name).tokens - 1)
        for step in recording.iter_steps():
            assert step.maps
    if more:
        export(path, path.with_name("copy.h5"), force=True, partial=True)
        diff(path, path, partial=True)
        with open_recording(path, partial=True) as recording:
            recording.to_xarray().load()
    return len(faults)


def out_of_time(*_: object) -> None:
    raise TimeoutError("hang")


def main(folder: Path, mutants: int, seed: int, original: Path) -> None:
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGVTALRM, out_of_time)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))  # no mutant may fill the disk of those who run this
    good, counts, longest = original.read_bytes(), Counter(), 0.0
    target = folder / "mutant.h5"
    for turn in range(mutants):
        target.unlink(missing_ok=True)
        target.write_bytes(good)
        mutator = Mutator(random.Random(seed * 1_000_003 + turn))
        with h5py.File(target, "r+") as file:
            mutator.change(file)
        began = time.process_time()
        signal.setitimer(signal.ITIMER_VIRTUAL, CPU_LIMIT_S)
        try:
            counts["verify" if read_all(target, more=turn % 3 == 0) else "sound"] += 1
        except JanoscopeError as error:
            counts["refused" if "\n" not in str(error) else "two lines"] += 1
        except TimeoutError:
            counts["hang"] += 1
            print("hang", turn, file=sys.stderr)
        except Exception:
            counts["crash"] += 1
            print("crash", turn, traceback.format_exc(limit=-3), file=sys.stderr)
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        longest = max(longest, time.process_time() - began)
    # not ru_maxrss, which a process inherits from the larger one that started it
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024
    print(json.dumps({**counts, "peak_mib": peak, "longest_cpu_s": round(longest, 2)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
