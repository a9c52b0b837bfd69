"""`janoscope analyze` and `janoscope plan show` as a user meets them: files, lines, exit codes."""

import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
from recorded_runs import CLIP, record_run

from janoscope.cli import main
from janoscope.errors import RecordingError
from janoscope.pipeline.provenance import apply_arguments
from janoscope.plan import Policy, preset
from janoscope.probe import load_probe, probe_paths
from janoscope.workflows.analyze.recording import analyze
from janoscope.workflows.record.sink import RecordingSink

TOLD = {"run": {"prompt": "it's a cat", "seed": 3, "guidance_scale": 2.5}, "model": {"id": "some/model"}}
TOLD |= {"scheduler": {"class": "FlowMatchEulerDiscreteScheduler"}}
POLICY = """
name = "mine"
warmup = 4
cooldown = 2
tile = [1, 4, 4]
quantiles = { static = 0.4, moderate = 0.7 }
intervals = { static = 4, moderate = 2 }
"""


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def janoscope(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., Done]:
    """The command with these words, run in the folder."""
    monkeypatch.chdir(folder)

    def run(*words: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["janoscope", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        return Done(ended.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    record_run(tmp_path / "run.h5", steps=15, provenance=TOLD)
    (tmp_path / "mine.toml").write_text(POLICY)
    return tmp_path


def test_one_recording_ends_with_a_plan_a_report_and_the_line_to_paste(folder: Path, janoscope: Callable[..., Done]) -> None:
    done = janoscope("analyze", "run.h5", "--policy", "mine.toml", "-q")
    assert (done.returncode, done.stderr) == (0, "")
    *_, wrote, following, verdict = done.stdout.splitlines()
    assert wrote == "Wrote run/report.html"
    told = json.loads((folder / "run" / "analysis.json").read_text())["verdict"]
    assert (verdict, told["level"]) == (told["sentence"], "separates")
    page = (folder / "run" / "report.html").read_text(encoding="utf-8")
    first_words = page.partition("<main>")[2]
    assert first_words.lstrip().startswith(f'<p class="verdict separates">{verdict}</p>')
    assert following == (
        "Next: janoscope apply some/model -p 'it'\"'\"'s a cat' --seed 3 --steps 15 --guidance 2.5 "
        "--plan run/plan.json -o run/apply.png --reference"
    )
    assert {path.name for path in (folder / "run").iterdir()} >= {"analysis.json", "analysis.npz", "plan.json", "report.html"}
    shown = janoscope("plan", "show", "run")
    assert shown.stdout.splitlines()[0] == done.stdout.splitlines()[0]
    assert "ladder    WWWW" in shown.stdout
    as_json = json.loads(janoscope("plan", "show", "run/plan.json", "--json").stdout)
    assert as_json == json.loads((folder / "run" / "plan.json").read_text())
    again = janoscope("analyze", "run.h5")
    assert (again.returncode, len(again.stderr.splitlines())) == (2, 1)
    assert "pass --force" in again.stderr


def test_a_family_that_is_not_executed_gets_no_line_that_apply_would_refuse(folder: Path, janoscope: Callable[..., Done]) -> None:
    """Control: the same run of a family that is executed gets the line."""
    for family, executed in (("latte", False), ("flux", True)):
        record_run(folder / f"{family}.h5", steps=15, provenance=TOLD | {"capture": {"probe": family}})
        done = janoscope("analyze", f"{family}.h5", "--policy", "mine.toml", "-q")
        assert done.returncode == 0, done.stderr
        assert ("\nNext: janoscope apply" in done.stdout) is executed
        refusal = "this plan cannot be applied: Latte can be recorded and analysed, not executed"
        assert (refusal in done.stdout) is not executed
        page = (folder / family / "report.html").read_text(encoding="utf-8")
        assert (refusal[1:] in page) is not executed
        assert "speedup" not in page.partition("<main>")[2].partition('id="definitions"')[0]  # none was measured


def test_a_tolerance_that_nothing_reaches_before_the_end_is_told(folder: Path, janoscope: Callable[..., Done]) -> None:
    """Control: with a tolerance that they reach there is no such word."""
    for tolerance, told in (("1e-9", True), ("1e9", False)):
        done = janoscope("analyze", "run.h5", "--policy", "mine.toml", "--tolerance", tolerance, "-f", "-q")
        assert ("convergence steps tell nothing apart here; analyze with a larger --tolerance" in done.stdout) is told


def test_several_recordings_get_a_directory_each_and_an_aggregate(folder: Path, janoscope: Callable[..., Done]) -> None:
    record_run(folder / "clip.h5", steps=15, kept=11, grid=CLIP, provenance=TOLD)
    done = janoscope("analyze", "run.h5", "clip.partial.h5", "-o", "all", "--policy", "mine.toml", "--partial", "-q")
    assert done.returncode == 0, done.stderr
    assert "note      the recording ends after 11 of 15 steps" in done.stdout
    assert sorted(path.name for path in (folder / "all").iterdir()) == ["aggregate.html", "aggregate.json", "clip.partial", "run"]
    facts = json.loads((folder / "all" / "aggregate.json").read_text())
    assert facts["schema"] == "janoscope-aggregate/2"
    assert [row["directory"] for row in facts["recordings"]] == ["run", "clip.partial"]
    ending = "mp4" if find_spec("imageio_ffmpeg") else "png"
    assert f"-o all/clip.partial/apply.{ending}" in done.stdout
    assert done.stdout.splitlines()[-2:] == ["Wrote all/aggregate.json", "Wrote all/aggregate.html"]
    again = janoscope("analyze", "run.h5", "clip.partial.h5", "-o", "all", "--partial")
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)


def test_a_recording_that_fails_among_several_costs_the_others_nothing(folder: Path, janoscope: Callable[..., Done]) -> None:
    """Control: where each fails nothing is written and the exit code is that of a refusal."""
    record_run(folder / "other.h5", steps=15, seed=9, provenance=TOLD)
    (folder / "broken.h5").write_bytes(b"no recording")
    told = ["-o", "all", "--policy", "mine.toml", "-q"]
    done = janoscope("analyze", "run.h5", "broken.h5", "other.h5", *told)
    assert done.returncode == 1
    assert [line.split(" ")[0] for line in done.stderr.splitlines()] == ["broken.h5", "1"]
    facts = json.loads((folder / "all" / "aggregate.json").read_text())
    assert [row["directory"] for row in facts["recordings"]] == ["run", "other"]
    kept = (folder / "all" / "run" / "analysis.json").stat().st_mtime_ns
    again = janoscope("analyze", "run.h5", "broken.h5", "other.h5", *told)
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert "--force" in again.stderr
    assert (folder / "all" / "run" / "analysis.json").stat().st_mtime_ns == kept
    none = janoscope("analyze", "broken.h5", "nowhere.h5", "-o", "none", "-q")
    assert (none.returncode, none.stdout, none.stderr.count("\n")) == (2, "", 3)
    assert not (folder / "none").exists()


def test_the_printed_line_repeats_a_run_with_options_of_its_own(
    folder: Path, janoscope: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: the line without them is another run, which the plan refuses."""
    own = {"scheduler": "UniPCMultistepScheduler", "call": {"max_sequence_length": 12, "output_type": "pil"}, "dtype": "float32"}
    told = {"run": {"options": own}, "model": {"argument": "demo"}}
    honest = RecordingSink._sections
    monkeypatch.setattr(
        RecordingSink, "_sections", lambda *given: {k: {**v, **told.get(k, {})} for k, v in honest(*given).items()}
    )
    words = ["record", "demo", "-p", "a large red apple on grass", "--steps", "8", "--scheduler", own["scheduler"], "-q"]
    made = janoscope(*words, "--call", "max_sequence_length=12", "-o", "own.h5")
    assert made.returncode == 0, made.stderr
    done = janoscope("analyze", "own.h5", "--policy", "mine.toml", "-q")
    words = shlex.split(next(line for line in done.stdout.splitlines() if line.startswith("Next: ")))[2:]
    at = words.index("--scheduler")
    assert words[at : at + 6] == ["--scheduler", own["scheduler"], "--dtype", "float32", "--call", "max_sequence_length=12"]
    applied = janoscope(*words, "-q")
    assert applied.returncode == 0, applied.stderr
    assert (folder / "own" / "apply.png").exists()
    without = janoscope(*words[:at], *words[at + 2 :], "-q", "-f")
    assert (without.returncode, without.stderr.count("\n")) == (2, 1)
    assert "scheduler" in without.stderr


def test_the_printed_line_names_the_model_as_it_was_typed() -> None:
    run = {
        "model": "tiny",
        "argument": "models/tiny",
        "scheduler": "Euler",
        "prompt": "p",
        "seed": 1,
        "planned_steps": 3,
        "steps": 3,
        "height": 8,
    }
    run |= dict.fromkeys(("width", "frames", "guidance", "negative_prompt"), "unknown")
    options = {"revision": "r1", "variant": "fp16", "probe": "my probe.toml", "call": {"a": "b"}}
    more = ["--seed", "1", "--steps", "3", "--height", "8"]
    assert apply_arguments(run) == ["models/tiny", "-p", "p", *more]
    told = ["--probe", "my probe.toml", "--revision", "r1", "--variant", "fp16", "--call", 'a="b"']
    assert apply_arguments(run | {"options": options}) == ["models/tiny", "-p", "p", *more, *told]
    assert apply_arguments(run | {"argument": "unknown"})[0] == "tiny"
    assert apply_arguments(run | {"scheduler": "unknown"}) == []  # a loop of one's own: no pipeline would repeat it


def test_a_probe_of_ones_own_is_read_from_the_recording(tmp_path: Path) -> None:
    """Control: without its text the recording has no presets, and says so."""
    text = next(path for path in probe_paths() if path.stem == "flux").read_text()
    kept, lost, damaged = (
        record_run(
            tmp_path / f"{name}.h5",
            steps=15,
            provenance={"capture": {"probe": "mine", **more}},
        ).path
        for name, more in (("kept", {"probe_text": text}), ("lost", {}), ("damaged", {"probe_text": "= ="}))
    )
    found, without = analyze(kept), analyze(lost)
    assert found.results["complexity"]["policy"] == "jano/flux-1/1"
    assert not any("probe" in note for note in found.notes)
    assert without.results["complexity"]["policy"] == "generic"
    assert any("names the probe 'mine'" in note for note in without.notes)
    with pytest.raises(RecordingError, match="is not TOML"):
        analyze(damaged)


def test_json_is_all_that_stands_on_stdout(folder: Path, janoscope: Callable[..., Done]) -> None:
    done = janoscope("analyze", "run.h5", "--policy", "mine.toml", "-q", "--json", "--hold-steps", "3", "--padding", "exclude")
    facts = json.loads(done.stdout)
    assert facts["convergence"]["hold_steps"] == 3
    assert facts["complexity"]["policy"] == "mine (padding exclude)"
    assert "Wrote run/report.html" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["run.h5", "--policy", "bad.toml"], "warmup = -1; legal: integers from 0; tile = [0]"),
        (["run.h5", "--point", "A=0,0"], "NAME=frame,row,col is needed"),
        (["run.h5", "run.h5"], "would both be analysed into"),
        (["nowhere.h5"], "nowhere.h5 does not exist"),
        (["run.h5", "--warmup", "16"], "fewer than the warm-up of 16"),
        (["run.h5", "--derivative", "up"], "'up' is not one of"),
    ],
)
def test_refusals_are_one_line_and_exit_2(folder: Path, janoscope: Callable[..., Done], arguments: list[str], fault: str) -> None:
    (folder / "bad.toml").write_text('name = "x"\nwarmup = -1\ntile = [0]\n')
    done = janoscope("analyze", *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert fault in done.stderr
    assert not (folder / "run").exists()


def test_every_preset_of_every_probe_is_a_policy() -> None:
    found = {}
    for path in probe_paths():
        sheet = load_probe(path)
        found |= {name: preset(sheet.policies, name) for name in sheet.policies}
    assert len(found) >= 13
    assert {name.split("/")[1] for name in found if name.startswith("jano/")} >= {"flux-1", "wan-1.3b", "wan-14b", "sd3"}
    for name, policy in found.items():
        assert policy.name == name
        assert policy.source, name
        assert Policy.from_toml(policy.to_toml()) == policy
    rows = {"jano/flux-1": 3, "jano/wan-1.3b": 3, "jano/wan-14b": 3}
    for model, count in rows.items():
        assert {f"{model}/{row}" for row in range(1, count + 1)} <= set(found)
