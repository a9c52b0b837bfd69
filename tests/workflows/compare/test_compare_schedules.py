"""Step-level policies as rows of `compare`, as runs of `calibrate` and under `record`: whole steps are skipped on any family."""

import numpy as np
import pytest
from tiny_models import calls, tiny_model

from janoscope.execution import StepExecutor
from janoscope.pipeline.call import CallOptions
from janoscope.plan import Policy
from janoscope.recording import open_recording
from janoscope.workflows.calibrate import runs as calibrate_runs
from janoscope.workflows.compare.contest import compare
from janoscope.workflows.record.session import record, record_model

COMPUTED = (0, 1, 3, 5, 7)
SCHEDULE = {"name": "few", "output": "forecast", "schedule": {"steps": 8, "computed": list(COMPUTED)}}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "few.toml"
    path.write_text(Policy.from_table(SCHEDULE, "few").to_toml())
    return path


@pytest.mark.parametrize("family", ["flux", "latte", "unet"])
def test_a_schedule_is_a_row_on_every_family_and_computes_its_steps(family, file):
    """Latte and U-Net have no [execution]. Control: a policy of tokens fails there, and says why."""
    model = tiny_model(family)
    methods = (f"schedule:file={file}", f"policy:file={file}", "schedule:every=2,warmup=2,output=forecast", "jano")
    comparison = compare(model, calls(model), methods)
    by_file, as_policy, by_rule, tokens = (comparison.row(label) for label in methods)
    assert by_file.note == as_policy.note == by_rule.note == ""
    assert list(by_file.values("compute").values()) == [len(COMPUTED) / 8]
    assert as_policy.values("psnr") == by_file.values("psnr")
    assert list(by_rule.values("compute").values()) == [5 / 8]  # 0, 1, then 2, 4, 6
    np.testing.assert_array_equal(comparison.pictures[as_policy.label], comparison.pictures[by_file.label])
    if family == "flux":
        assert tokens.runs
    else:
        assert tokens.note.startswith("failed: ExecutionError")


def test_every_kth_step_as_a_rule_is_what_the_policy_of_tokens_made_of_it():
    """`uniform` says the same by a policy whose tokens are all active; both executors give one picture."""
    model = tiny_model()
    for output in ("hold", "corrected"):
        rule, tokens = (f"schedule:every=2,warmup=2,cooldown=1,output={output}", f"uniform:k=2,output={output}")
        comparison = compare(model, calls(model), (rule, tokens))
        assert comparison.row(rule).values("compute") == comparison.row(tokens).values("compute")
        difference = comparison.pictures[rule].astype(int) - comparison.pictures[tokens]
        assert abs(difference).max() <= 1


def test_an_output_of_its_own_changes_the_picture(file):
    model = tiny_model()
    methods = (f"schedule:file={file}", f"schedule:file={file},output=hold", f"policy:file={file},output=hold")
    forecast, hold, as_policy = (compare(model, calls(model), methods).pictures[label] for label in methods)
    assert not np.array_equal(forecast, hold)
    np.testing.assert_array_equal(hold, as_policy)


@pytest.mark.parametrize("method", ["random", "oracle"])
def test_levels_cannot_be_handed_out_where_whole_steps_are_skipped(method, file):
    model = tiny_model()
    note = compare(model, calls(model), (f"{method}:file={file}",)).row(f"{method}:file={file}").note
    assert "policy few skips whole steps and gives tokens no levels" in note


def test_a_policy_of_tokens_is_no_schedule(tmp_path):
    model = tiny_model()
    path = tmp_path / "tokens.toml"
    path.write_text(model.policy(None).to_toml())
    note = compare(model, calls(model), (f"schedule:file={path}",)).row(f"schedule:file={path}").note
    assert f"policy tiny has no [schedule]; run it with policy:file={path}." in note


@pytest.mark.parametrize("family", ["latte", "flux"])
def test_a_recording_under_a_schedule_marks_the_steps_that_were_skipped(family, tmp_path):
    model = tiny_model(family)
    recorded = record_model(
        model, calls(model)[0], tmp_path / "run.h5", policy=Policy.from_table(SCHEDULE, "few"), keep_output=False
    )
    assert recorded.compute == len(COMPUTED) / 8
    with open_recording(recorded.path) as recording:
        assert recording.skipped is not None
        skipped = [bool(np.asarray(recording.skipped[step]).any()) for step in range(8)]
    assert [step for step, is_skipped in enumerate(skipped) if not is_skipped] == list(COMPUTED)


def test_the_handle_of_a_recording_under_a_schedule_has_its_summary_and_plan(tmp_path):
    model = tiny_model("unet")
    with record(model.pipe, tmp_path / "run.h5", policy=Policy.from_table(SCHEDULE, "few")) as handle:
        model.pipe(**calls(model)[0].arguments)
    assert isinstance(handle.executor, StepExecutor)
    assert handle.summary.compute == len(COMPUTED) / 8
    assert [step for step, kind in enumerate(handle.plan.step_kind) if kind.is_full] == list(COMPUTED)


def test_calibration_runs_a_schedule(tmp_path):
    """The runs of `calibrate` make no difference between policies of tokens and of steps."""
    model = tiny_model()
    work = calibrate_runs.generation_worker(str(tmp_path), calibrate_runs.ModelSource("tiny", loaded=model), CallOptions("a cat"))
    full = calibrate_runs.Generation("a cat", 0)
    work(full)
    ran = work(calibrate_runs.Generation("a cat", 0, Policy.from_table(SCHEDULE, "few")))
    assert ran.compute == len(COMPUTED) / 8
    assert ran.psnr is not None
    assert [step.kind for step in ran.steps] == ["refresh", "reuse", "refresh", "reuse", "refresh", "reuse", "refresh"]
