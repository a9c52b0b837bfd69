"""No single flipped bit changes a result in silence: it is refused, named by verify, or changes nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from janoscope.errors import JanoscopeError
from janoscope.grid import TokenGrid
from janoscope.recording import Recorder, RecorderOptions, TapAxes, open_recording

FLIP = Path(__file__).with_name("flipped_bits.py")
OLD = Path(__file__).parents[1] / "golden" / "recording-1.0.h5"
GRID = TokenGrid(4, (1, 6, 5), (1, 1, 1))


def make(path: Path, *, steps: int = 6, closed: str = "complete", store_dtype: str | None = None) -> Path:
    """All that a file can hold: an absent branch, a tap with holes, skipped tokens, a changed dtype, a late field."""
    dice = np.random.default_rng(steps)
    taps = {"blocks.0.output": TapAxes(5, 3)}
    recorder = Recorder(
        path,
        grid=GRID,
        prediction_type="flow",
        branches=("guided", "cond", "uncond"),
        planned_steps=8 if closed != "complete" else steps,
        taps=taps,
        provenance={"run": {"prompt": "a cat", "seed": 7}, "model": {"id": "tiny"}},
        options=RecorderOptions(store_dtype=store_dtype, marks_skipped=True),
    )
    for step in range(steps):
        recorder.put("sample", dice.standard_normal((30, 4), np.float32))
        branches = ("guided", "cond") if step == 3 else recorder.branches
        for branch in branches:
            recorder.put("model_output", dice.standard_normal((30, 4), np.float32), branch=branch)
        if step % 2 == 0:
            recorder.put("blocks.0.output", dice.standard_normal((5, 3), np.float32), branch="cond")
        recorder.commit(
            timestep=900 - step,
            alpha=step / 10,
            sigma=1 - step / 10,
            time_s={"guided": 0.5},
            peak_bytes=1 << 20,
            absent=set(recorder.branches) - set(branches),
            skipped=dice.random(30) < 0.5,
        )
    recorder.update_provenance("run", {"actual": {"height": 6}})
    recorder.flush()
    recorder.close(closed)
    return path if path.exists() else recorder.partial_path


def flip(folder: Path, flips: int, *files: Path) -> tuple[dict[str, int], str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(FLIP), str(folder), str(flips), "20261128", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout), done.stderr


@pytest.mark.parametrize("flips", [300, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(7200)])])
def test_no_flipped_bit_changes_a_result_in_silence(tmp_path, flips):
    files = [
        make(tmp_path / "whole.h5"),
        make(tmp_path / "cast.h5", store_dtype="bfloat16"),
        make(tmp_path / "stopped.h5", closed="failed: [Errno 28] No space left on device"),
    ]
    counts, silent = flip(tmp_path, flips, *files)
    assert counts.get("silent", 0) == 0, silent
    assert sum(counts.values()) == flips
    assert counts["verify"] > 0
    assert counts["refused"] > 0


def change_dataset(path, name, place, value):
    with h5py.File(path, "r+") as file:
        file[name][place] = value


def change_attribute(path, owner, name, value):
    with h5py.File(path, "r+") as file:
        file[owner].attrs.modify(name, value) if not isinstance(value, str) else file[owner].attrs.__setitem__(name, value)


def change_section(path, section, old, new):
    with h5py.File(path, "r+") as file:
        file[f"provenance/{section}"][()] = np.bytes_(file[f"provenance/{section}"][()].replace(old, new))


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize(
    ("change", "arguments", "fault"),
    [
        (change_dataset, ("alpha", 1, 0.3), "step 1: timestep, alpha, sigma"),
        (change_dataset, ("sigma", 1, 0.3), "step 1: timestep, alpha, sigma"),
        (change_dataset, ("timestep", 0, 3.0), "step 0: timestep, alpha, sigma"),
        (change_dataset, ("time_s", (1, 0), 3.0), "step 1: timestep, alpha, sigma"),
        (change_dataset, ("peak_bytes", 1, 3), "step 1: timestep, alpha, sigma"),
        (change_dataset, ("sample_nonfinite_created", (1, 0), 3), "step 1: timestep, alpha, sigma"),
        (change_attribute, ("/", "prediction_type", "sample"), "header_crc32 does not fit"),
        (change_attribute, ("/", "created", "2020-01-01"), "header_crc32 does not fit"),
        (change_attribute, ("sample", "source_dtype", "float64"), "header_crc32 does not fit"),
        (change_attribute, ("sample", "storage_loss", np.float64(3)), "sample: storage_loss is 3.0, the steps say"),
        (change_attribute, ("/", "end_reason", np.bytes_("Complete")), "end_reason has changed"),
        (change_section, ("run", b"a cat", b"a dog"), "provenance/run has changed"),
        (change_section, ("run", b'"seed": 7', b'"seed": 8'), "provenance/run has changed"),
        (change_dataset, ("branch", 1, b"Cond"), "header_crc32 does not fit"),
    ],
)
def test_each_kind_of_small_value_is_covered(tmp_path, write_recording, version, change, arguments, fault):
    """Of format 1.0, the control, verify notices none of it."""
    path = tmp_path / "run.h5"
    if version == "1.0":
        path.write_bytes(OLD.read_bytes())
    else:
        provenance = {"run": {"prompt": "a cat", "seed": 7}}
        options = {"items": 1, "branches": ("guided", "cond"), "options": RecorderOptions(store_dtype="float16")}
        write_recording(path, steps=2, provenance=provenance, **options)
    with open_recording(path) as recording:
        assert recording.verify() == []
        assert recording.format_version == tuple(map(int, version.split(".")))
    change(path, *arguments)
    with open_recording(path) as recording:
        faults = recording.verify()
    if version == "1.0" and arguments[0] == "sample_nonfinite_created":
        assert faults == ["sample step 1 item 0: 0 non-finite values, the writer counted 3"]
    elif version == "1.0":
        assert faults == []
    else:
        assert any(fault in line for line in faults), faults


@pytest.mark.parametrize("count", [-(2**63), -2, -1])
@pytest.mark.parametrize("old", [False, True])
def test_a_negative_count_is_no_licence_for_nan(tmp_path, sample_file, count, old):
    path = sample_file
    if old:
        path = tmp_path / "old.h5"
        path.write_bytes(OLD.read_bytes())
    change_dataset(path, "sample_nonfinite", (1, 0), count)
    with open_recording(path) as recording:
        faults = recording.verify()
        assert np.isfinite(recording.map("sample", 1)).all() == (count != -1)
    fault = "the count says that nothing was recorded" if count == -1 else f"the count of non-finite values is {count}"
    assert any(line.startswith(f"sample step 1 item 0: {fault}") for line in faults), faults


def test_a_file_of_format_1_0_is_read_and_said_to_be_covered_in_part(tmp_path):
    from click.testing import CliRunner

    from janoscope.cli.show import verify

    with open_recording(OLD) as recording:
        assert (recording.is_summed, recording.steps, recording.provenance["run"]["prompt"]) == (False, 2, "a cat")
        assert recording.storage_loss("sample") > 0
    result = CliRunner().invoke(verify, [str(OLD)])
    assert result.exit_code == 0
    assert "Format 1.0: its maps have checksums; timestep, alpha, sigma" in result.stderr
    new = make(tmp_path / "run.h5")
    assert "Format" not in CliRunner().invoke(verify, [str(new)]).output
    kinds = [json.loads(CliRunner().invoke(verify, [str(path), "--json"]).stdout)["covered"] for path in (OLD, new)]
    assert kinds == ["maps", "all"]


def test_a_file_that_says_1_0_and_has_sums_has_been_changed(sample_file):
    content = sample_file.read_bytes()
    with h5py.File(sample_file, "r+") as file:
        file.attrs["format_version"] = "1.0"
    with open_recording(sample_file) as recording:
        assert recording.verify() == ["format_version has changed: it says 1.0, and checksums of 1.1 are there"]
    sample_file.write_bytes(content)


@pytest.mark.parametrize(
    ("complete", "steps", "fault"),
    [
        (0, 5, "it says that it was completed and is not marked so"),
        (3, 5, "it says that it was completed and is not marked so"),
        (1, 4, "it is marked complete, steps_done says 4, and it holds 5"),
    ],
)
def test_mark_counter_and_reason_must_agree(sample_file, complete, steps, fault):
    with h5py.File(sample_file, "r+") as file:
        file.attrs.modify("complete", np.int8(complete))
        file["steps_done"][()] = steps
    with open_recording(sample_file, partial=True) as recording:
        assert fault in recording.verify()


@pytest.mark.parametrize(
    "reason", ["complete", "interrupted", "failed: [Errno 28] No space left on device", "x" * 500, "ä (crc32 0)", ""]
)
def test_a_reason_comes_back_without_its_sum(tmp_path, grid, put_whole_step, reason):
    with Recorder(tmp_path / "run.h5", grid=grid, prediction_type="flow") as recorder:
        put_whole_step(recorder, 0)
        recorder.commit(timestep=1, alpha=0.5, sigma=0.5)
        recorder.close(reason)
    path = tmp_path / "run.h5" if reason == "complete" else recorder.partial_path
    with open_recording(path, partial=True) as recording:
        assert recording.end_reason == reason.replace("ä", "?")[:223]
        assert recording.verify() == []


def test_a_torn_section_of_an_unfinished_file_is_reported(tmp_path):
    path = make(tmp_path / "run.h5", closed="interrupted")
    with h5py.File(path, "r+") as file:
        file["provenance/run"][()] = b'{"prompt": "a c'
    with open_recording(path, partial=True) as recording:
        assert recording.verify() == ["provenance/run has changed, or a stop tore it: section_crc32 does not fit"]


def test_the_plan_of_a_file_decides_nothing(tmp_path, sample_file):
    from janoscope.recording import export
    from janoscope.recording.layout import MAX_STEPS

    with h5py.File(sample_file, "r+") as file:
        file.attrs["planned_steps"] = np.int64(MAX_STEPS)
    export(sample_file, tmp_path / "copy.h5")
    with open_recording(tmp_path / "copy.h5") as copy:
        assert (copy.steps, copy.planned_steps, copy.complete, copy.verify()) == (5, 5, True, [])
    with h5py.File(sample_file, "r+") as file:
        file.attrs["planned_steps"] = np.int64(MAX_STEPS + 1)
    with pytest.raises(JanoscopeError, match="100001 steps were planned"):
        export(sample_file, tmp_path / "copy2.h5")


@pytest.mark.parametrize("name", ["long_name", "source_dtype"])
def test_a_text_whose_type_is_no_text_any_more_does_not_end_the_process(tmp_path, name):
    """One bit of the attribute's type makes HDF5 2.0.0 read through a null pointer, so it must not be read."""
    path = make(tmp_path / "run.h5")
    content = bytearray(path.read_bytes())
    at = content.index(name.encode() + b"\0")
    kind = content.index(b"\x19\x01", at)  # version 1, class 9: variable length; kind 1: text
    assert kind - at < 40
    content[kind + 1] ^= 8
    path.write_bytes(content)
    program = "import sys; from janoscope.recording import open_recording; print(open_recording(sys.argv[1]).verify())"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, env=environment)
    assert ended.returncode in (0, 1), "it crashed"
    assert f"attribute {name} is object" in ended.stdout + ended.stderr
