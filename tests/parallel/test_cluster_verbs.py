"""Analyze and compare over a cluster that is played: two workers in turn; what they are given and give goes through pickle."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
from recorded_runs import record_run
from tiny_models import tiny_model

from janoscope.cli import analyze as analyze_command
from janoscope.errors import ExecutionError, InputError, RecordingError, TaskFailed
from janoscope.parallel.tasks import Outcome, as_failure
from janoscope.pipeline.call import CallOptions
from janoscope.pipeline.model_options import ModelOptions
from janoscope.workflows.analyze import cluster as analyze_cluster
from janoscope.workflows.compare import cluster as compare_cluster
from janoscope.workflows.compare.cluster import CompareRecipe, compare_over_ray
from janoscope.workflows.compare.contest import calls_of, compare

METHODS = ("jano", "uniform:k=2")
POLICY = """
name = "mine"
warmup = 4
cooldown = 2
tile = [1, 4, 4]
quantiles = { static = 0.4, moderate = 0.7 }
intervals = { static = 4, moderate = 2 }
"""


def travelled(thing):
    return pickle.loads(pickle.dumps(thing))


def played(lost=()):
    """A `fan_out` of two workers; the outcomes come in an order of their own, the tasks in `lost` come back without a result."""

    def fan_out(tasks, make_worker, *, ray):
        assert ray == "played"
        workers = [travelled(make_worker)(), travelled(make_worker)()]
        outcomes = []
        for index, task in enumerate(tasks):
            if task in lost:
                outcomes.append(Outcome(task, failure=TaskFailed("its worker was lost")))
                continue
            try:
                outcomes.append(Outcome(task, travelled(workers[index % 2](travelled(task)))))
            except Exception as error:
                outcomes.append(Outcome(task, failure=travelled(as_failure(error))))
        yield from reversed(outcomes)

    return fan_out


def test_a_refusal_keeps_its_kind_over_a_cluster(tmp_path, monkeypatch):
    (tmp_path / "broken.h5").write_bytes(b"no recording")
    tasks = [(tmp_path / "broken.h5", tmp_path / "a"), (tmp_path / "lost.h5", tmp_path / "b")]
    monkeypatch.setattr(analyze_cluster, "fan_out", played(lost=tasks[1:]))
    measures = analyze_command.MeasureFlags(7, "backward", 0.1, (), None, None, None, 0, (), "rms")
    job = analyze_command.Job(measures, policy=None, probe=None, partial=False, force=False, quiet=True)
    kinds = {task: type(result) for task, result in analyze_command._over_ray(tasks, "played", job)}
    assert kinds == {tasks[0]: RecordingError, tasks[1]: TaskFailed}


def test_a_fault_of_a_library_travels_in_words_and_ours_as_it_is():
    ours, theirs = as_failure(InputError("choose another.")), as_failure(ValueError("odd"))
    assert (type(travelled(ours)), str(travelled(ours))) == (InputError, "choose another.")
    assert (type(travelled(theirs)), str(travelled(theirs))) == (TaskFailed, "ValueError: odd")


def test_analyze_over_a_cluster_gives_the_files_and_the_order_of_one_machine(tmp_path, janoscope, monkeypatch):
    for name, seed in (("a", 1), ("b", 2)):
        record_run(tmp_path / f"{name}.h5", steps=15, seed=seed)
    (tmp_path / "broken.h5").write_bytes(b"no recording")
    (tmp_path / "mine.toml").write_text(POLICY)
    monkeypatch.setattr(analyze_cluster, "fan_out", played())
    runs = [tmp_path / f"{name}.h5" for name in ("a", "broken", "b")]
    told = ("--policy", tmp_path / "mine.toml", "-q")
    spread = janoscope("analyze", *runs, "-o", tmp_path / "spread", "--ray", "played", *told)
    here = janoscope("analyze", *runs, "-o", tmp_path / "here", *told)
    assert spread.code == here.code == 1
    assert spread.err == here.err.replace("here", "spread")
    assert "broken.h5 left out: " in spread.err
    facts = [json.loads((tmp_path / name / "aggregate.json").read_text()) for name in ("spread", "here")]
    assert facts[0] == facts[1]
    assert [row["directory"] for row in facts[0]["recordings"]] == ["a", "b"]
    for name in ("analysis.json", "plan.json", "report.html"):
        assert (tmp_path / "spread" / "b" / name).read_bytes() == (tmp_path / "here" / "b" / name).read_bytes()


def test_one_recording_needs_no_cluster(tmp_path, janoscope):
    record_run(tmp_path / "a.h5", steps=15)
    said = janoscope("analyze", tmp_path / "a.h5", "--ray", "auto")
    assert said.code == 2
    assert "--ray spreads recordings over a cluster; with one recording it has no effect" in said.err


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture
def recipe(model, monkeypatch):
    monkeypatch.setattr(compare_cluster, "load_model", lambda name, options: model)
    return CompareRecipe("demo", ModelOptions(), CallOptions(prompt=""), ("a cat", "a dog"), (0, 1), METHODS)


def quality_of(comparison):
    """What does not depend on the machine."""
    return {row.label: [(run.key, run.compute, run.psnr, run.ssim) for run in row.runs] for row in comparison.rows}


def test_compare_over_a_cluster_finds_what_one_machine_finds_and_says_where(model, recipe, monkeypatch):
    monkeypatch.setattr(compare_cluster, "fan_out", played())
    names = iter(("alpha", "beta"))
    monkeypatch.setattr(compare_cluster.socket, "gethostname", lambda: next(names))
    seen = []
    spread = compare_over_ray(recipe, "played", on_part=lambda *part: seen.append((part[0], part[1], part[3].complete)))
    one = compare(model, calls_of(model, recipe.call, recipe.prompts, recipe.seeds), METHODS)
    assert quality_of(spread) == quality_of(one)
    assert spread.complete
    assert seen == [(1, 4, False), (2, 4, False), (3, 4, False), (4, 4, True)]
    for row in spread.rows:
        assert [run.machine.partition(",")[0] for run in row.runs] == ["alpha", "beta", "alpha", "beta"]
    assert spread.device.count("cpu (") == 2
    assert str(spread).splitlines()[-1].startswith("times are of alpha, cpu (")
    assert "times are of" not in str(one), "control: one machine needs no such line"
    full = {run.key: run.wall_s for run in spread.row("full").runs}
    for run in spread.row("jano").runs:
        assert run.speedup == pytest.approx(full[run.key] / run.wall_s)
    assert list(spread.pictures) == list(one.pictures)
    np.testing.assert_array_equal(spread.pictures["jano"], one.pictures["jano"])


def test_a_lost_call_costs_itself_and_can_be_made_up_for(recipe, monkeypatch):
    monkeypatch.setattr(compare_cluster, "fan_out", played(lost=[("a dog", 0)]))
    told = []
    found = compare_over_ray(recipe, "played", on_part=lambda done, total, outcome, so_far: told.append(outcome.error))
    assert [error for error in told if error] == ["its worker was lost"]
    assert not found.complete
    assert [run.key for run in found.row("jano").runs] == [("a cat", 0), ("a cat", 1), ("a dog", 1)]
    made = []
    monkeypatch.setattr(compare_cluster, "fan_out", played())
    whole = compare_over_ray(recipe, "played", known=found, on_part=lambda done, total, outcome, _: made.append(outcome.task))
    assert made == [("a dog", 0)]
    assert whole.complete
    assert [run.key for run in whole.row("jano").runs] == [("a cat", 0), ("a cat", 1), ("a dog", 0), ("a dog", 1)]
    kept = {run.key: run for run in found.row("jano").runs}
    assert all(run == kept.get(run.key, run) for run in whole.row("jano").runs)
    with pytest.raises(InputError, match="the calls differ in steps"):
        compare_over_ray(recipe, "played", known=replace(found, steps=3))


def test_no_call_left_is_an_error(recipe, monkeypatch):
    everything = [(prompt, seed) for prompt in recipe.prompts for seed in recipe.seeds]
    monkeypatch.setattr(compare_cluster, "fan_out", played(lost=everything))
    with pytest.raises(ExecutionError, match="no call could be compared: its worker was lost"):
        compare_over_ray(recipe, "played")
