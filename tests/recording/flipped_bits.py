"""Run as a process by test_recording_flips: flips one bit at a time and looks for a change that nothing tells. No torch.

Usage: flipped_bits.py FOLDER FLIPS SEED [FILE...]; prints JSON counts. Half of the flips fall where the file's structure lies.
"""

import faulthandler
import json
import random
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from janoscope.errors import JanoscopeError
from janoscope.recording import Recording, open_recording

NOT_VALUES = ("path", "file_bytes")  # of the summary


def everything(recording: Recording) -> dict[str, Any]:
    """All that a reader can ask of a recording, in bytes and text."""
    found: dict[str, Any] = {key: value for key, value in recording.summary().items() if key not in NOT_VALUES}
    for name in ("timestep", "alpha", "sigma", "time_s", "peak_bytes"):
        found[name] = getattr(recording, name).tobytes()
    if recording.skipped is not None:
        found["skipped"] = recording.skipped.tobytes()
    for name in recording.signals:
        branches = recording.branches if recording.spec(name).branched else ("guided",)
        for item in range(recording.items):
            for branch in branches:
                found[f"{name} {item} {branch}"] = np.nan_to_num(recording.read(name, item, branch), nan=12345).tobytes()
        found[f"present {name}"] = recording.present(name).tobytes()
    return json.loads(json.dumps(found, default=lambda value: value.hex() if isinstance(value, bytes) else str(value)))


def verdict(path: Path, good: dict[str, Any]) -> str:
    try:
        with open_recording(path, partial=True) as recording:
            faults = recording.verify()
            if faults:
                assert all("\n" not in fault for fault in faults)
                return "verify"
            found = everything(recording)
    except JanoscopeError as error:
        return "refused" if "\n" not in str(error) else "two lines"
    changed = sorted(key for key in {*good, *found} if good.get(key) != found.get(key))
    return f"silent {changed}" if changed else "unchanged"


def main(folder: Path, flips: int, seed: int, files: list[Path]) -> None:
    warnings.simplefilter("ignore")
    dice, counts, target = random.Random(seed), Counter(), folder / "flipped.h5"
    originals = []
    for file in files:
        with open_recording(file, partial=True) as recording:
            assert recording.verify() == []
            originals.append((bytearray(file.read_bytes()), everything(recording)))
    faulthandler.enable()
    for turn in range(flips):
        content, good = originals[turn % len(originals)]
        at, bit = dice.randrange(len(content) if turn % 2 else min(len(content), 40_000)), 1 << dice.randrange(8)
        content[at] ^= bit
        target.write_bytes(content)
        content[at] ^= bit
        found = verdict(target, good)
        counts[found.split()[0]] += 1
        if found.startswith("silent"):
            print(files[turn % len(files)].name, at, bit, found, file=sys.stderr)
    print(json.dumps(counts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), [Path(name) for name in sys.argv[4:]])
