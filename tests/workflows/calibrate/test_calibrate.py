"""Calibration of tiny pipelines from the first full run to the policy: the budget, the split, resuming, experts, few steps."""

import json
import math
import pickle
import sys
from dataclasses import asdict, replace
from functools import partial

import pytest
from click.testing import CliRunner
from tiny_models import POLICY as TABLE
from tiny_models import tiny_model

from janoscope.cli.app import janoscope as command
from janoscope.errors import ExecutionError, InputError
from janoscope.pipeline.call import CallOptions
from janoscope.pipeline.model_options import ModelOptions
from janoscope.plan import Policy
from janoscope.recording import open_recording
from janoscope.report.calibration import read_calibration, render_calibration
from janoscope.results.files import append_line, read_journal
from janoscope.workflows.calibrate import runs as calibrate_runs
from janoscope.workflows.calibrate.stages import Effort, calibrate, calibrate_recordings
from janoscope.workflows.calibrate.target import Target
from janoscope.workflows.record.session import record_model

PROMPTS = ("a cat", "a dog", "a cat on the grass", "a red dog")
HALF = Target("compute", 0.6)
EFFORT = Effort(max_runs=12, trials=100)
STEPS = 10


@pytest.fixture(scope="module")
def model():
    return tiny_model(num_inference_steps=STEPS)


@pytest.fixture
def offered(model, monkeypatch):
    """MODEL is the tiny one, whatever it is called."""
    monkeypatch.setattr(calibrate_runs, "load_model", lambda *_: model)


@pytest.fixture(scope="module")
def calibrated(model, tmp_path_factory):
    directory = tmp_path_factory.mktemp("calibrated") / "half"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrate_runs, "load_model", lambda *_: model)
        return directory, calibrate("tiny", PROMPTS, HALF, directory=directory, effort=EFFORT)


def lines(directory):
    return [json.loads(line) for line in (directory / "runs.jsonl").read_text().splitlines()]


def test_the_budget_is_kept_and_half_the_prompts_are_held_out(calibrated):
    directory, found = calibrated
    runs = lines(directory)
    assert found.runs == len(runs) <= EFFORT.max_runs
    full = {(run["prompt"], run["seed"]) for run in runs if run["psnr"] is None}
    assert full == {(prompt, seed) for seed, prompt in enumerate(PROMPTS)}
    recorded = {open_recording(path).provenance["run"]["prompt"] for path in (directory / "recordings").glob("*.h5")}
    validated = found.main.validated[0].candidate
    held_out = {run["prompt"] for run in runs if run["psnr"] in found.main.validated[0].psnr}
    assert recorded == {"a cat", "a cat on the grass"}
    assert held_out == {"a dog", "a red dog"}
    assert found.main.choice.taken in [seen.candidate for seen in found.main.validated]
    assert validated.compute == pytest.approx(0.6, abs=0.04)


def test_the_policy_says_what_it_was_measured_on_and_runs(calibrated, model):
    directory, found = calibrated
    policy = Policy.from_toml((directory / "policy.toml").read_text())
    on = policy.measured_on
    assert (on["model"], on["steps"], on["scheduler"]) == ("tiny", STEPS, type(model.pipe.scheduler).__name__)
    assert on["psnr"]["prompts"] == 2
    assert on["prompts"] == 4
    assert on["compute"] == pytest.approx(found.main.choice.validated.mean("compute"), abs=1e-4)
    assert replace(policy, name="", source="", measured_on={}) == replace(found.main.choice.taken.policy, name="", source="")
    low, high = on["psnr"]["interval_16_prompts"]
    assert low < on["psnr"]["expected"] < high


def test_compute_predicted_from_recordings_is_what_the_executor_counts(calibrated):
    for seen in calibrated[1].main.validated:
        assert seen.mean("compute") == pytest.approx(seen.candidate.compute, abs=0.01)


def test_files_tell_all_and_the_report_is_rendered_from_them_alone(calibrated):
    directory, found = calibrated
    facts = read_calibration(directory)
    assert facts["chosen"]["policy"] == found.main.choice.taken.policy.to_json()
    assert {"front", "chosen", "surrogate", "validation", "cliff"} <= set(facts)
    assert set(facts["surrogate"]["spearman"]["fit_runs"]) == {"across", "within"}
    assert facts["validation"]["prediction_interval"]["prompts"] == 2
    computes = [point["compute"] for point in facts["front"]]
    assert computes == sorted(computes)
    written = render_calibration(directory)
    page = written[-1].read_text()
    assert "A policy for compute 0.6" in page
    assert {path.name for path in written} == {"front.svg", "spread.svg", "agreement.svg", "cliff.svg", "report.html"}
    for notch in facts["cliff"]["notches"]:
        assert notch["compute"] <= facts["chosen"]["compute"] + 1e-9
    (directory / "elsewhere").mkdir()
    (directory / "elsewhere" / "calibration.json").write_text('{"schema": "other"}')
    with pytest.raises(InputError, match="no calibration of this version"):
        render_calibration(directory / "elsewhere")


def test_interrupted_runs_are_kept_and_a_rerun_ends_the_same(calibrated, model, monkeypatch, tmp_path):
    made = []

    def worker(*arguments):
        work = original(*arguments)

        def interrupted(task):
            made.append(task)
            if len(made) == 6:  # the second of the fit runs
                raise KeyboardInterrupt
            return work(task)

        return interrupted

    original = calibrate_runs.generation_worker
    monkeypatch.setattr(calibrate_runs, "load_model", lambda *_: model)
    monkeypatch.setattr(calibrate_runs, "generation_worker", worker)
    with pytest.raises(KeyboardInterrupt):
        calibrate("tiny", PROMPTS, HALF, directory=tmp_path / "c", effort=EFFORT)
    assert len(lines(tmp_path / "c")) == 5
    resumed = []
    again = calibrate("tiny", PROMPTS, HALF, directory=tmp_path / "c", effort=EFFORT, on_resume=lambda: resumed.append(True))
    assert resumed == [True]
    assert len(made) == 1 + len(lines(tmp_path / "c"))
    first = calibrated[1].main
    assert again.main.choice.taken == first.choice.taken
    assert [point.to_json() for point in again.main.front] == [point.to_json() for point in first.front]


def test_a_finished_or_foreign_directory_is_refused_until_forced(calibrated, offered, tmp_path):
    directory, _ = calibrated
    with pytest.raises(InputError, match="finished calibration"):
        calibrate("tiny", PROMPTS, HALF, directory=directory, effort=EFFORT)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        calibrate("tiny", PROMPTS, HALF, directory=tmp_path, effort=EFFORT)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    before = len(lines(directory))
    (directory / "calibration.json").rename(directory / "kept.json")
    with pytest.raises(InputError, match="other call"):
        calibrate("tiny", PROMPTS, HALF, directory=directory, effort=EFFORT, call=CallOptions("a cat", steps=9))
    (directory / "kept.json").rename(directory / "calibration.json")
    again = calibrate("tiny", PROMPTS, HALF, directory=directory, effort=EFFORT, force=True)
    assert again.runs == before, "the same recipe: its runs are taken up"


def test_one_run_that_fails_costs_its_own_prompt(offered, monkeypatch, tmp_path):
    original = calibrate_runs._full_run

    def failing(model, call, task, *rest):
        if task.prompt == "a red dog":
            raise RuntimeError("a lost worker")
        return original(model, call, task, *rest)

    monkeypatch.setattr(calibrate_runs, "_full_run", failing)
    found = calibrate("tiny", PROMPTS, HALF, directory=tmp_path / "c", effort=replace(EFFORT, max_runs=6))
    assert len(found.main.validated[0].psnr) == 1
    assert any("a lost worker" in reason for reason in found.left_out)


def test_a_family_that_cannot_be_executed_is_refused_before_any_run(model, monkeypatch, tmp_path):
    unable = replace(model, probe=replace(model.probe, execution=None))
    monkeypatch.setattr(calibrate_runs, "load_model", lambda *_: unable)
    with pytest.raises(ExecutionError, match="not executed, so no policy can be tried"):
        calibrate("tiny", PROMPTS, HALF, directory=tmp_path / "c", effort=EFFORT)
    assert not (tmp_path / "c" / "runs.jsonl").exists()


def test_few_steps_get_the_honest_answer(offered, tmp_path):
    call = CallOptions(PROMPTS[0], steps=4)
    found = calibrate("tiny", PROMPTS, HALF, directory=tmp_path / "c", effort=EFFORT, call=call)
    assert not found.reached
    assert "nothing can be skipped in 4 steps" in found.main.note
    assert not list((tmp_path / "c").glob("policy*"))
    assert read_calibration(tmp_path / "c")["chosen"] is None
    assert "nothing can be skipped" in render_calibration(tmp_path / "c")[-1].read_text()


def test_each_of_two_experts_has_its_own_fit_and_no_map_crosses_the_boundary(monkeypatch, tmp_path):
    model = tiny_model("wan2.2", num_inference_steps=14)
    monkeypatch.setattr(calibrate_runs, "load_model", lambda *_: model)
    target = Target("compute", 0.75)
    found = calibrate("tiny", PROMPTS[:2], target, directory=tmp_path / "c", effort=replace(EFFORT, max_runs=10))
    first, second = found.fits
    boundary = first.span.last
    assert (first.span.expert, second.span.expert) == ("transformer", "transformer_2")
    assert (first.span.first, second.span.first, second.span.last) == (0, boundary, 14)
    assert 0 < boundary < 14
    for point in first.front:
        assert point.policy.warmup + 2 <= boundary
        assert point.policy.cooldown >= 14 - boundary
    for point in second.front:
        assert point.policy.warmup >= boundary + 2
        assert point.policy.map in ("x0-gradient", "velocity-change", "ras", "random")
    assert {path.name for path in (tmp_path / "c").glob("policy*")} <= {"policy-transformer.toml", "policy-transformer_2.toml"}
    policy = Policy.from_toml((tmp_path / "c" / "policy-transformer_2.toml").read_text())
    assert policy.measured_on["expert"] == {"name": "transformer_2", "steps": [boundary, 14]}
    with pytest.raises(InputError, match="none of this model's networks; legal: transformer, transformer_2"):
        calibrate(
            "tiny",
            PROMPTS[:2],
            target,
            directory=tmp_path / "c",
            effort=replace(EFFORT, max_runs=10),
            expert="vae",
            force=True,
        )


@pytest.fixture(scope="module")
def recordings(model, tmp_path_factory):
    from janoscope.pipeline.call import make_call

    directory = tmp_path_factory.mktemp("recordings")
    for seed, prompt in enumerate(PROMPTS[:2]):
        record_model(model, make_call(model, CallOptions(prompt, seed)), directory / f"{seed}.h5", keep_output=False)
    return directory


def test_recordings_alone_are_enough_and_say_so(recordings, tmp_path):
    result = CliRunner().invoke(
        command, ["calibrate", str(recordings), "--target-compute", "0.6", "--trials", "100", "-q", "-o", str(tmp_path / "c")]
    )
    assert result.exit_code == 0, result.output
    assert "nothing was run, so no PSNR is known and nothing is validated" in result.output
    facts = read_calibration(tmp_path / "c")
    assert facts["offline"] is True
    assert facts["runs"] == 0
    assert facts["surrogate"]["offset_db"] is None
    policy = Policy.from_toml((tmp_path / "c" / "policy.toml").read_text())
    assert policy.measured_on["validated"] is False
    assert "psnr" not in policy.measured_on
    assert "nothing validated" in (tmp_path / "c" / "report.html").read_text()


def test_recordings_beside_a_model_are_searched_on_but_not_those_of_held_out_prompts(recordings, offered, tmp_path):
    """PROMPTS[0] lies recorded with seed 0 and PROMPTS[1] with seed 1; of the prompts given here one is PROMPTS[1]."""
    prompts = ("a red dog", PROMPTS[1])
    given = {"effort": replace(EFFORT, max_runs=5), "recordings": [recordings]}
    found = calibrate("tiny", prompts, HALF, directory=tmp_path / "c", **given)
    assert found.prompts == (("a red dog", 0), (PROMPTS[0], 0), (PROMPTS[1], 1))
    assert any("1 of the recordings are left out" in reason for reason in found.left_out)
    assert len(lines(tmp_path / "c")) == found.runs == 5, "no recorded run was made again"
    with pytest.raises(InputError, match=r"made otherwise than the model's runs are \(steps 10 there, 9 here"):
        calibrate("tiny", prompts, HALF, directory=tmp_path / "d", call=CallOptions(PROMPTS[0], steps=9), **given)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "-p", "a", "-p", "b"], "give one of --target-compute"),
        (["demo", "-p", "a", "-p", "b", "--target-compute", "0.5", "--pareto"], "give one of --target-compute"),
        (["demo", "-p", "a", "-p", "b", "--target-compute", "1.5"], "out of range"),
        (["demo", "-p", "a", "-p", "b", "--target-speedup", "0.5"], "out of range"),
        (["demo", "--target-compute", "0.5"], "give two prompts or more"),
        (["demo", "-p", "a", "--target-compute", "0.5"], "give two prompts or more"),
        (["demo", "-p", "a", "-p", "b", "--target-compute", "0.5", "--max-runs", "2"], "--max-runs 2 is too few"),
        (["demo", "RUNS", "--target-compute", "0.5"], "give two prompts or more"),
        (["demo", "demo:video", "-p", "a", "-p", "b", "--target-compute", "0.5"], "demo and demo:video: give one MODEL"),
        (["demo", "no-such-runs", "-p", "a", "-p", "b", "--target-compute", "0.5"], "demo and no-such-runs: give one MODEL"),
        (["RUNS", "--target-psnr", "40"], "needs real runs"),
        (["RUNS", "--target-compute", "0.5", "--steps", "9"], "--steps has no effect on recordings"),
        (["RUNS", "--target-compute", "0.5", "-p", "a"], "--prompt has no effect on recordings"),
        (["demo", "-p", "a", "-p", "b", "--target-compute", "0.5", "--boundary", "0.9"], "--boundary is for RUNS"),
    ],
)
def test_refusals_come_before_any_work(arguments, message, recordings, tmp_path, monkeypatch, capsys):
    from janoscope.cli import main

    given = [str(recordings) if argument == "RUNS" else argument for argument in arguments]
    monkeypatch.setattr("sys.argv", ["janoscope", "calibrate", *given, "-o", str(tmp_path / "c")])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("source", ["demo", ("RUNS",)])
def test_a_missing_optuna_is_told_before_anything_is_run(source, recordings, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.setattr(calibrate_runs, "load_model", lambda *_: pytest.fail("a model was loaded"))
    start = partial(calibrate, source, PROMPTS) if source == "demo" else partial(calibrate_recordings, [recordings])
    with pytest.raises(InputError, match="needs Optuna"):
        start(HALF, directory=tmp_path / "c", effort=EFFORT)
    assert not (tmp_path / "c").exists()


def test_a_target_out_of_reach_is_told_with_exit_code_1(recordings, tmp_path):
    result = CliRunner().invoke(
        command, ["calibrate", str(recordings), "--target-compute", "0.1", "--trials", "100", "-q", "-o", str(tmp_path / "c")]
    )
    assert result.exit_code == 1
    assert "no policy comes near compute 0.1" in result.output
    assert not list((tmp_path / "c").glob("policy*"))
    assert math.isfinite(read_calibration(tmp_path / "c")["front"][0]["predicted"])


def test_ctrl_c_says_where_the_work_lies_and_exits_with_130(offered, tmp_path, monkeypatch, capsys):
    from janoscope.cli import main

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(calibrate_runs, "_full_run", interrupted)
    given = ["demo", "-p", "a cat", "-p", "a dog", "--target-compute", "0.5", "-q", "-o", str(tmp_path / "c")]
    monkeypatch.setattr("sys.argv", ["janoscope", "calibrate", *given])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 130
    assert f"What was done lies in {tmp_path / 'c'}; the same command continues with it." in capsys.readouterr().err
    assert (tmp_path / "c" / "recipe.json").exists()
    assert not (tmp_path / "c" / "calibration.json").exists()


def test_what_a_cluster_is_sent_can_travel(tmp_path):
    """Ray pickles the worker, its tasks and their results."""
    runs = calibrate_runs.Runs(tmp_path, calibrate_runs.ModelSource("demo"), CallOptions("a cat"), ray="auto")
    task = calibrate_runs.Generation("a cat", 3, Policy.from_table(TABLE, "p"))
    ran = calibrate_runs.Ran(task.key, "a cat", 3, 1.0, 40.0, 0.5, (calibrate_runs.TimedStep("active", 0.5, 0.1),))
    worker, *rest = pickle.loads(pickle.dumps((runs._make_worker(), task, ran)))
    assert worker.func is calibrate_runs.generation_worker
    assert rest == [task, ran]
    append_line(tmp_path / "runs.jsonl", asdict(ran))
    assert read_journal(tmp_path / "runs.jsonl", calibrate_runs.Ran, "journal", "") == [ran]
    assert task.key != task.full.key
    assert task.key == replace(task, policy=replace(task.policy, name="another")).key, "a name changes no run"


def test_a_bare_pipeline_is_calibrated_and_left_as_it_was(tmp_path):
    """Nothing is loaded; a rerun with another pipeline of the same name is refused."""
    pipe = tiny_model(num_inference_steps=STEPS).pipe
    pipe("a cat", num_inference_steps=1, height=112, width=176, max_sequence_length=16)  # diffusers leaves a registry behind
    before = list(vars(pipe.transformer))
    size = CallOptions("", steps=STEPS, height=112, width=176, extra={"max_sequence_length": 16})
    given = {"directory": tmp_path / "c", "call": size, "effort": replace(EFFORT, max_runs=6)}
    calibration = calibrate(pipe, PROMPTS[:2], HALF, **given)
    assert calibration.main.validated
    assert (tmp_path / "c" / "policy.toml").is_file()
    assert list(vars(pipe.transformer)) == before
    (tmp_path / "c" / "calibration.json").unlink()  # as if it were unfinished
    with pytest.raises(InputError, match="calibration with other load"):
        calibrate(tiny_model("chroma").pipe, PROMPTS[:2], HALF, **given)
    with pytest.raises(InputError, match="workers load the model themselves"):
        calibrate(pipe, PROMPTS[:2], HALF, **given | {"effort": Effort(ray="auto"), "directory": tmp_path / "d"})
    with pytest.raises(InputError, match="loaded already"):
        calibrate(pipe, PROMPTS[:2], HALF, options=ModelOptions(dtype="float16"), **given)
