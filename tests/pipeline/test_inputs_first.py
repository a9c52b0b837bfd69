"""Of a wrong input and an output in the way the input is told: the file would not have been the reason."""

import sys

import pytest
from recorded_runs import record_run

from janoscope.cli import main

COMPARE = ("compare", "demmo", "-p", "x", "-o", "old")
CALIBRATE = ("calibrate", "demmo", "-p", "x", "-p", "y", "--target-compute", "0.5", "-o", "old")


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """A command in a folder where every output is in the way; its exit code and the lines of stderr. The hub knows no model."""

    def unknown(name, *_, **__):
        raise OSError(f"{name} is not on the hub")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", unknown)
    monkeypatch.setattr("janoscope.pipeline.model.load_model", lambda *_, **__: pytest.fail("loaded"))
    record_run(tmp_path / "run.h5", steps=12)
    for name in ("out.png", "run.png", "broken.json"):
        (tmp_path / name).write_text("in the way")
    for name in ("run", "old", "runs"):
        (tmp_path / name).mkdir()
    for name in ("run/analysis.json", "run/report.html", "old/calibration.json", "old/run.h5"):
        (tmp_path / name).write_text("in the way")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["janoscope", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
        lines = [line for line in capsys.readouterr().err.splitlines() if line]
        return ended.value.code, lines[1:] if lines and lines[0].startswith("Loading ") else lines

    return run


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("record", "demmo", "-p", "x"), "demmo cannot be loaded"),
        (("record", "old", "-p", "x"), "old cannot be loaded as a diffusers pipeline: it holds no model_index.json"),
        (("record", "demo", "-p", "x", "--policy", "jano/flux-1/11"), "no preset policy 'jano/flux-1/11'"),
        (("record", "demo", "-p", "x", "--policy", "nowhere.toml"), "policy file nowhere.toml cannot be read"),
        (("record", "demo", "-p", "x", "--probe", "nowhere.toml"), "nowhere.toml"),
        (("apply", "demmo", "-p", "x", "--policy", "demo", "-o", "out.png"), "demmo cannot be loaded"),
        (("apply", "demo", "-p", "x", "--policy", "nope", "-o", "out.png"), "no preset policy 'nope'"),
        (("apply", "demo", "-p", "x", "--plan", "nowhere.json", "-o", "out.png"), "plan nowhere.json cannot be read"),
        (COMPARE, "demmo cannot be loaded"),
        ((*COMPARE, "--method", "nope"), "no method 'nope'"),
        (("compare", "demo", "--prompts", "nowhere.txt", "-o", "old"), "nowhere.txt"),
        (CALIBRATE, "demmo cannot be loaded"),
        (("demo", "--model", "demmo", "-o", "old"), "demmo cannot be loaded"),
        (("analyze", "run.png"), "run.png"),
        (("analyze", "run.h5", "--policy", "nope"), "policy nope"),
        (("export", "run.png", "-o", "run.h5"), "run.png"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_wrong_input_is_told_before_an_output_in_the_way(run, words, told):
    code, lines = run(*words)
    assert (code, len(lines)) == (2, 1), lines
    assert told in lines[0]
    assert "exist" not in lines[0].replace("does not exist", "")


@pytest.mark.parametrize(
    "words",
    [
        ("record", "demo", "-p", "x"),
        ("apply", "demo", "-p", "x", "--policy", "demo", "-o", "out.png"),
        ("compare", "demo", "-p", "x", "-o", "old"),
        ("demo", "-o", "old"),
        ("analyze", "run.h5"),
    ],
    ids=lambda value: value[0],
)
def test_with_right_inputs_it_is_the_output_that_is_told(run, words):
    code, lines = run(*words)
    assert (code, len(lines)) == (2, 1), lines
    assert "exists" in lines[0] or "holds an analysis already" in lines[0]
