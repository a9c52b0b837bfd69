"""`record demo` onto a disk that fills up at any moment: the picture is kept, what is told is true, a partial file is valid."""

import re
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from janoscope.recording import open_recording

DEMO = ("record", "demo", "-q", "-p", "a red apple", "--steps", 6)
LEVELS = 20
FEW = (0, 1, 7, 13, 19)
OTHERS = tuple(level for level in range(LEVELS) if level not in FEW)
some_levels = pytest.mark.parametrize("levels", [FEW, pytest.param(OTHERS, marks=pytest.mark.slow)], ids=["few", "others"])


def command(*arguments: Any) -> None:
    from janoscope.cli import main

    tempfile.tempdir = tempfile.mkdtemp(dir=arguments[-1].parent.parent)
    sys.argv = ["janoscope", *map(str, arguments)]
    main()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The control: an undisturbed run, its picture and the bytes that it takes."""
    folder = tmp_path_factory.mktemp("whole") / "disk"
    folder.mkdir()
    place, arguments = tempfile.tempdir, sys.argv
    with pytest.raises(SystemExit) as ended:  # in this process, so that those that are forked have loaded the libraries
        command(*DEMO, "-o", folder / "run.h5")
    tempfile.tempdir, sys.argv = place, arguments
    assert ended.value.code == 0
    sizes = {name: (folder / name).stat().st_size for name in ("run.h5", "run.png")}
    return np.asarray(Image.open(folder / "run.png")), sizes


@pytest.fixture
def small_disk(tmp_path):
    """small_disk(bytes): a folder with so much room. Mounting takes root."""
    mounted = []

    def mount(size: int) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
        made = subprocess.run(words, capture_output=True, text=True) if shutil.which("mount") else None
        if made is None or made.returncode:
            pytest.skip(f"a small tmpfs cannot be mounted here: {made.stderr.strip() if made else 'no mount'}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", folder], check=True)


def check_told(said: str, folder: Path, picture: np.ndarray) -> int:
    """The one line that was printed against what is there; the steps that were kept, -1 where only the picture had no room."""
    assert len(said.splitlines()) == 1, said
    kept = re.search(r"; the picture is (\S+)\. |picture run\.png could not be written: .*\. It is (\S+); move it", said)
    assert kept, said
    np.testing.assert_array_equal(np.asarray(Image.open(kept[1] or kept[2])), picture)
    if (folder / "run.h5").exists():
        assert f"{folder / 'run.h5'} is complete" in said
        with open_recording(folder / "run.h5") as recording:
            assert recording.verify() == []
        return -1
    done = re.search(r"run\.h5 stopped after (\d+) steps: \[Errno (28|27)\]", said)
    assert done, said
    claimed = "what was recorded is run.partial.h5" in said
    assert claimed == bool(int(done[1]))
    assert claimed or "no step is on file" in said
    partial = folder / "run.partial.h5"
    if partial.exists():
        with open_recording(partial, partial=True) as recording:
            assert (recording.steps, recording.verify()) == (int(done[1]), [])
            assert recording.end_reason.startswith("failed: [Errno ")
    else:
        assert not claimed
    assert not [entry.name for entry in folder.iterdir() if entry.name.startswith(".")]
    return int(done[1])


@some_levels
def test_a_disk_that_fills_up_costs_the_rest_of_the_recording_and_not_the_picture(fork, small_disk, whole, levels):
    picture, sizes = whole
    kept = []
    for level in levels:
        folder = small_disk(4096 * (1 + level * sizes["run.h5"] // 4096 // LEVELS))
        process = fork(lambda folder=folder: command(*DEMO, "-o", folder / "run.h5"))
        assert process.wait() == 2, process.said.read_text()
        kept.append(check_told(process.said.read_text(), folder, picture))
    assert kept[0] == 0
    assert max(kept) > 0


@some_levels
def test_a_file_size_limit_does_the_same(fork, tmp_path, whole, levels):
    picture, sizes = whole
    kept = []
    for level in levels:
        limit = sizes["run.png"] + level * (sizes["run.h5"] - sizes["run.png"]) // LEVELS
        (folder := tmp_path / f"limit{level}").mkdir()

        def limited(folder=folder, limit=limit) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            command(*DEMO, "-o", folder / "run.h5")

        process = fork(limited)
        assert process.wait() == 2, process.said.read_text()
        kept.append(check_told(process.said.read_text(), folder, picture))
    assert max(kept) > 0
