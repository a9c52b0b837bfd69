"""The program in docs/own-sampler.md runs, and what it recorded can be analysed."""

import re
from pathlib import Path

import numpy as np

import janoscope

PAGE = Path(__file__).parents[3] / "docs" / "own-sampler.md"


def test_the_program_of_the_page_runs_and_its_file_is_analysed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    programs = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(programs) == 3  # the last one skips steps and is run by a test of its own
    names: dict = {}
    for program in programs[:2]:
        exec(compile(program, str(PAGE), "exec"), names)
    with janoscope.open_recording("own.h5") as recording:
        assert recording.complete
        assert recording.steps == names["STEPS"]
        assert recording.verify() == []
        latents = recording.latents("model_output")
        np.testing.assert_allclose(latents[0], names["network"](recording.latents("sample")[0, :, 0], 1.0)[:, None], atol=1e-5)
    # the striped half changes late, the smooth half hardly: the analysis must tell them apart
    change = np.asarray(names["analysis"].complexity.combined)
    halves = change.reshape(-1, change.shape[-1])
    left, right = np.array_split(halves, 2, axis=1)
    assert right.mean() > left.mean()
