"""The slice through the command line, as a user types it."""

import json
import re
import subprocess
import sys

import pytest

from janoscope.cli import app, main

PROMPT = "a large red apple on grass, blue sky"
STEPS = "16"


def run(monkeypatch, *words):
    """main() with these words; gives the exit code."""
    monkeypatch.setattr(sys, "argv", ["janoscope", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """run.h5 of a short generation, and its analysis in run/."""
    where = tmp_path_factory.mktemp("slice")
    patch = pytest.MonkeyPatch()
    assert run(patch, "record", "demo", "-p", PROMPT, "--seed", "3", "--steps", STEPS, "-o", str(where / "run.h5"), "-q") == 0
    assert run(patch, "analyze", str(where / "run.h5"), "-q") == 0
    (where / "broken").mkdir()
    (where / "broken" / "model_index.json").write_text("{}")
    (where / "empty.txt").write_text("# nothing yet\n")
    patch.undo()
    return where


def test_record_leaves_a_complete_recording_and_the_picture(folder):
    assert {"run.h5", "run.png", "run"} <= {path.name for path in folder.iterdir()}
    assert not list(folder.glob("*.partial*"))


def test_analyze_leaves_result_files_and_one_report(folder):
    names = {path.name for path in (folder / "run").iterdir()}
    assert {"analysis.json", "analysis.npz", "plan.json", "report.html"} <= names
    assert json.loads((folder / "run" / "analysis.json").read_text())["schema"] == "janoscope-analysis/2"


def test_inspect_and_verify_speak_of_the_recording(folder, monkeypatch, capsys):
    assert run(monkeypatch, "inspect", str(folder / "run.h5")) == 0
    assert PROMPT in capsys.readouterr().out
    assert run(monkeypatch, "verify", str(folder / "run.h5")) == 0
    assert "0 faults" in capsys.readouterr().out


def test_verify_exits_1_for_a_flipped_bit(folder, monkeypatch, capsys, tmp_path):
    data = bytearray((folder / "run.h5").read_bytes())
    data[len(data) // 2] ^= 4
    (tmp_path / "bad.h5").write_bytes(data)
    assert run(monkeypatch, "verify", str(tmp_path / "bad.h5")) == 1
    assert "0 faults" not in capsys.readouterr().out


def test_apply_prints_an_account_and_quality_against_the_full_run(folder, monkeypatch, capsys):
    words = ["apply", "demo", "-p", PROMPT, "--seed", "3", "--steps", STEPS, "--plan", str(folder / "run" / "plan.json")]
    assert run(monkeypatch, *words, "-o", str(folder / "out.png"), "--reference", "-q") == 0
    told = capsys.readouterr().out
    assert re.search(r"compute 0\.\d+ of the full run's FLOPs", told)
    assert re.search(r"PSNR \d+\.\d+ dB, SSIM 0\.\d+", told)
    assert (folder / "out.png").exists()
    assert (folder / "out-full.png").exists()


def test_plan_show_prints_the_ladder(folder, monkeypatch, capsys):
    assert run(monkeypatch, "plan", "show", str(folder / "run" / "plan.json")) == 0
    assert re.search(r"ladder +W{7}R[RamC.]+C", capsys.readouterr().out)


def test_an_unknown_word_is_named_in_a_warning(folder, monkeypatch, capsys):
    words = ["record", "demo", "-p", "a small red dragon, blue sky", "--steps", "2", "-o", str(folder / "word.h5"), "-q"]
    assert run(monkeypatch, *words) == 0
    assert "dragon" in capsys.readouterr().err


REFUSED = [
    (["record", "demo", "-p", "x", "-o", "{folder}/run.h5"], "--force"),
    (["record", "nowhere/nothing", "-p", "x", "-o", "{folder}/new.h5"], "cannot be loaded"),
    (["record", "demo", "-p", "x", "--frames", "9", "-o", "{folder}/new.h5"], "--frames has no effect"),
    (["record", "demo", "-p", "x", "--call", "height", "-o", "{folder}/new.h5"], "KEY=JSON"),
    (["record", "demo", "-p", "x", "--dtype", "int3", "-o", "{folder}/new.h5"], "legal"),
    (["record", "demo", "-o", "{folder}/new.h5"], "--prompt"),
    (["record", "{folder}/run.h5", "-p", "x", "-o", "{folder}/new.h5"], "run.h5 is a file; MODEL is a pipeline's directory"),
    (
        ["record", "{folder}/broken", "-p", "x", "-o", "{folder}/new.h5"],
        "broken cannot be loaded as a diffusers pipeline: KeyError",
    ),
    (["record", "demo", "-p", "x", "--seed", "-1", "-o", "{folder}/new.h5"], "--seed -1: a whole number from 0"),
    (["record", "demo", "-p", "x", "--seed", "9" * 20, "-o", "{folder}/new.h5"], "a whole number from 0 to 2**63 - 1"),
    (["record", "demo", "-p", "x", "--guidance", "nan", "-o", "{folder}/new.h5"], "--guidance nan: a finite number"),
    (["record", "demo", "-p", "x", "more"], "extra argument (more). Try"),
    (["analyze", "{folder}/missing.h5"], "missing.h5"),
    (["analyze", "{folder}/run.png", "-o", "{folder}/a"], "run.png"),
    (["analyze", "{folder}/run.h5"], "--force"),
    (["analyze", "{folder}/run.h5", "-o", "{folder}/a", "--policy", "no/such"], "no/such"),
    (["analyze", "{folder}/run.h5", "-o", "{folder}/a", "--point", "A=9,9"], "NAME=frame,row,col"),
    (["apply", "demo", "-p", "x", "-o", "{folder}/new.png"], "--policy"),
    (["apply", "demo", "-p", "x", "--plan", "{folder}/run/analysis.json", "-o", "{folder}/new.png"], "is no plan"),
    (
        ["apply", "demo", "-p", "apple", "--policy", "jano/flux-1/1", "--any-prompt", "-o", "{folder}/o.png"],
        "--any-prompt has no",
    ),
    (["compare", "demo", "-p", "apple", "--method", "jno", "-o", "{folder}/c"], "did you mean jano?"),
    (["compare", "demo", "-p", "apple", "--method", "jano:preset=nosuch", "-o", "{folder}/c"], "no preset policy 'nosuch'"),
    (["compare", "demo", "-p", "apple", "--method", "jano:file=no.toml", "-o", "{folder}/c"], "no.toml cannot be read"),
    (["compare", "demo", "-p", "apple", "--methods", "{folder}/empty.txt", "-o", "{folder}/c"], "empty.txt holds none"),
    (["bench", "execute", "--size", "tiny", "--device", "nosuch"], "--device nosuch cannot be used"),
    (["bench", "record", "--small", "-o", "{folder}/run.h5"], "is a file"),
    (["probes", "no-such-family"], "no-such-family"),
    (["frobnicate"], "frobnicate"),
]


@pytest.mark.parametrize(("words", "told"), REFUSED, ids=[" ".join(words[:2]) + " " + told for words, told in REFUSED])
def test_bad_input_gets_one_line_and_exit_code_2(folder, monkeypatch, capsys, words, told):
    before = sorted(path.name for path in folder.iterdir())
    assert run(monkeypatch, *[word.format(folder=folder) for word in words]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    lines = lines[1:] if lines[0].startswith("Loading ") else lines
    assert len(lines) == 1
    assert lines[0].startswith("Error: ")
    assert told in lines[0]
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize("words", [[], ["plan"], ["bench"]])
def test_a_group_without_a_command_shows_its_help_in_lines(monkeypatch, capsys, words):
    assert run(monkeypatch, *words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Usage: ")
    assert "Commands:" in lines


def test_a_size_that_the_pipeline_rounds_is_told(monkeypatch, capsys, tmp_path):
    words = ["record", "demo", "-p", "a small red apple, blue sky", "--steps", "1", "--width", "64", "-q"]
    assert run(monkeypatch, *words, "--height", "64", "-o", str(tmp_path / "even.h5")) == 0
    assert capsys.readouterr().err == "", "control: nothing is rounded"
    assert run(monkeypatch, *words, "--height", "63", "-o", str(tmp_path / "odd.h5")) == 0
    assert capsys.readouterr().err == "FluxPipeline makes other sizes than were asked for: height 63 became 60.\n"


def test_a_comparison_whose_every_method_failed_exits_with_1(monkeypatch, capsys, tmp_path):
    words = ["compare", "demo", "-p", "a small red apple, blue sky", "--steps", "2", "-q"]
    # a policy of a video model's frames fits no picture
    assert run(monkeypatch, *words, "--method", "jano:tile=7/4/4,map=oracle", "-o", str(tmp_path / "c")) == 1
    assert "failed: " in capsys.readouterr().out
    assert (tmp_path / "c" / "report.html").exists()


def test_an_error_of_ours_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(app.janoscope, "main", lambda **_: 1 / 0)
    monkeypatch.setattr(sys, "argv", ["janoscope"])
    with pytest.raises(ZeroDivisionError):
        main()


def test_interrupt_exits_130(monkeypatch, capsys):
    def interrupted(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(app.janoscope, "main", interrupted)
    assert run(monkeypatch) == 130


def test_version_and_help_answer_in_a_fresh_process():
    for flag in ("--version", "--help"):
        told = subprocess.run([sys.executable, "-m", "janoscope", flag], capture_output=True, text=True, check=True)
        assert "janoscope" in told.stdout
