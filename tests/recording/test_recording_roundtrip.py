"""Write, then read: identical; and what a user may get wrong is said in one line."""

import json

import h5py
import numpy as np
import pytest

from janoscope.errors import InputError, RecordingError
from janoscope.grid import TokenGrid
from janoscope.recording import Recorder, RecorderOptions, TapAxes, generation_path, open_recording
from janoscope.recording.encoding import decode, float32_to_bfloat16

BRANCHES = ("guided", "cond", "uncond")


def test_what_is_read_is_what_was_written(sample_file, recording_values, grid):
    with open_recording(sample_file) as recording:
        assert (recording.steps, recording.items, recording.branches) == (5, 2, BRANCHES)
        assert (recording.tokens, recording.channels, recording.token_channels, recording.grid) == (10, 3, 12, grid)
        assert recording.signals == ("model_output", "sample")
        assert (recording.prediction_type, recording.complete, recording.end_reason) == ("epsilon", True, "complete")
        assert recording.planned_steps is None
        np.testing.assert_array_equal(recording.timestep, [1000, 999, 998, 997, 996])
        np.testing.assert_array_equal(recording.sigma, 1 - recording.alpha)
        np.testing.assert_array_equal(recording.time_s[0], [0.25, np.nan, np.nan])
        np.testing.assert_array_equal(recording.peak_bytes, [1 << 20] * 5)
        for step in range(5):
            for item in range(2):
                np.testing.assert_array_equal(recording.map("sample", step, item), recording_values("sample", step, item))
                for branch in BRANCHES:
                    expected = recording_values("model_output", step, item, branch)
                    np.testing.assert_array_equal(recording.map("model_output", step, item, branch), expected)
        assert recording.verify() == []


def test_curve_read_and_latents_are_views_of_the_same_maps(sample_file, recording_values, grid):
    with open_recording(sample_file) as recording:
        stack = np.stack([recording_values("model_output", step, 1, "cond") for step in range(5)])  # (step, token, channel)
        np.testing.assert_array_equal(recording.read("model_output", 1, "cond"), stack)
        np.testing.assert_array_equal(recording.read("model_output", 1, "cond", slice(1, None, 2)), stack[1::2])
        np.testing.assert_array_equal(recording.curve("model_output", 7, 1, "cond"), stack[:, 7])
        latents = recording.latents("model_output", 1, "cond")
        assert latents.shape == (5, 3, 1, 4, 10)
        np.testing.assert_array_equal(grid.pack(latents), stack)
        seen = list(recording.iter_steps(item=1, branch="cond"))
        assert [step.index for step in seen] == [0, 1, 2, 3, 4]
        np.testing.assert_array_equal(seen[3].maps["model_output"], stack[3])
        np.testing.assert_array_equal(seen[3].maps["sample"], recording_values("sample", 3, 1))
        np.testing.assert_array_equal(recording.map("sample", -1), recording.map("sample", 4))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_source_dtype_is_kept(tmp_path, write_recording, recording_values, dtype):
    recorder = write_recording(tmp_path / "run.h5", dtype=dtype)
    assert recorder.storage_loss == {"model_output": 0.0, "sample": 0.0}
    with open_recording(tmp_path / "run.h5") as recording:
        raw = recording.map("sample", 2, raw=True)
        assert raw.dtype == dtype
        assert recording.map("sample", 2).dtype == np.float32
        np.testing.assert_array_equal(raw, recording_values("sample", 2, dtype=dtype))


def test_bfloat16_bits_come_back_bit_for_bit(tmp_path, recording_values, grid):
    bits = float32_to_bfloat16(recording_values("sample", 0))
    with Recorder(tmp_path / "run.h5", grid=grid, prediction_type="flow") as recorder:
        recorder.put("sample", bits, dtype="bfloat16")
        recorder.put("model_output", bits, dtype="bfloat16")
        recorder.commit(timestep=1.0, alpha=0.5, sigma=0.5)
    with open_recording(tmp_path / "run.h5") as recording:
        np.testing.assert_array_equal(recording.map("sample", 0, raw=True), bits)
        np.testing.assert_array_equal(recording.map("sample", 0), decode(bits, "bfloat16"))
        assert recording.spec("sample").stored == "bfloat16"
    with h5py.File(tmp_path / "run.h5") as file:
        assert file["sample"].dtype == np.uint16
        assert file["sample"].attrs["janoscope_dtype"] == "bfloat16"


def test_bfloat16_rounding_is_to_nearest_even():
    values = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-7), np.inf, np.nan, 3.4e38], np.float32)
    back = decode(float32_to_bfloat16(values), "bfloat16")
    np.testing.assert_array_equal(back, np.array([1.0, 1.0, 1 + 2**-6, -(1 + 2**-7), np.inf, np.nan, np.inf], np.float32))


def test_a_narrower_store_dtype_is_accounted_for(tmp_path, grid, recording_values):
    sample = recording_values("sample", 0)
    sample[0, :3] = [np.nan, 1e6, -1e6]  # one was there, two are made by float16
    with Recorder(
        tmp_path / "run.h5", grid=grid, prediction_type="flow", options=RecorderOptions(store_dtype="float16")
    ) as recorder:
        recorder.put("sample", sample)
        recorder.put("model_output", np.full_like(sample, 1 + 2**-12))
        recorder.commit(timestep=1.0, alpha=0.5, sigma=0.5)
    assert (recorder.nonfinite, recorder.nonfinite_created) == (
        {"sample": 1, "model_output": 0},
        {"sample": 2, "model_output": 0},
    )
    assert recorder.storage_loss["model_output"] == 2**-12
    assert recorder.bytes_written == 2 * sample.size * 2
    with open_recording(tmp_path / "run.h5") as recording:
        assert (recording.nonfinite("sample"), recording.nonfinite_created("sample")) == (1, 2)
        assert recording.storage_loss("model_output") == 2**-12
        assert recording.spec("sample").source == "float32"
        assert recording.verify() == []


def test_users_own_loop_may_give_latents_and_reuse_its_buffer(tmp_path, grid):
    latent = np.random.default_rng(0).standard_normal((3, 4, 10)).astype(np.float32)
    first = latent.copy()
    with Recorder(tmp_path / "run.h5", grid=grid, prediction_type="epsilon", alpha=[1.0, 0.5], sigma=[0.0, 0.5]) as recorder:
        for step in range(2):
            recorder.put("sample", latent)
            recorder.put("model_output", latent[:, None])
            recorder.commit(timestep=step)
            latent += 1
    with open_recording(tmp_path / "run.h5") as recording:
        np.testing.assert_array_equal(recording.latents("sample")[:, :, 0], np.stack([first, first + 1]))
        np.testing.assert_array_equal(recording.read("sample"), recording.read("model_output"))


def test_taps_have_axes_of_their_own(tmp_path, grid, recording_values):
    early, late = "transformer_blocks.0.output", "transformer_blocks.11.output"
    hidden = np.arange(7 * 11, dtype=np.float32).reshape(7, 11)
    with Recorder(
        tmp_path / "run.h5", grid=grid, prediction_type="flow", branches=("guided", "cond"), taps={late: TapAxes(13, 2)}
    ) as recorder:
        for step in range(2):
            recorder.put("sample", recording_values("sample", step))
            for branch in ("guided", "cond"):
                recorder.put("model_output", recording_values("model_output", step, 0, branch), branch=branch)
            recorder.put(early, hidden + step, branch="cond")
            if step == 1:
                recorder.put(late, np.ones((13, 2), np.float32), branch="cond")
            recorder.commit(timestep=1.0, alpha=0.5, sigma=0.5)
    with open_recording(tmp_path / "run.h5") as recording:
        assert recording.signals == ("model_output", "sample", early, late)
        np.testing.assert_array_equal(recording.map(early, 1, branch="cond"), hidden + 1)
        np.testing.assert_array_equal(recording.curve(early, 6, branch="cond"), np.stack([hidden[6], hidden[6] + 1]))
        assert np.isnan(recording.map(early, 1)).all()  # inner modules make no guided call
        np.testing.assert_array_equal(recording.present(late)[:, 0], [[False, False], [False, True]])
        assert recording.verify() == []
        with pytest.raises(InputError, match="is a tap with axes of its own"):
            recording.latents(early)


def test_a_branch_that_ends_early_is_nan_and_flagged(tmp_path, grid, recording_values):
    with Recorder(
        tmp_path / "run.h5",
        grid=grid,
        prediction_type="flow",
        branches=("guided", "cond"),
        options=RecorderOptions(store_dtype="bfloat16"),
    ) as recorder:
        for step in range(3):
            recorder.put("sample", recording_values("sample", step))
            recorder.put("model_output", recording_values("model_output", step))
            if step < 2:
                recorder.put("model_output", recording_values("model_output", step, 0, "cond"), branch="cond")
            recorder.commit(timestep=step, alpha=0.5, sigma=0.5, absent=("cond",) if step == 2 else ())
    with open_recording(tmp_path / "run.h5") as recording:
        np.testing.assert_array_equal(recording.present("model_output")[:, 0], [[True, True], [True, True], [True, False]])
        assert np.isnan(recording.map("model_output", 2, branch="cond")).all()
        assert np.isfinite(recording.map("model_output", 1, branch="cond")).all()
        assert recording.nonfinite("model_output") == 0
        assert recording.verify() == []


def test_provenance_survives_any_prompt_and_late_news(tmp_path, grid, put_whole_step):
    prompt = 'cat \ud800 \x00 "日本" ' + "x" * 3000
    with Recorder(tmp_path / "run.h5", grid=grid, prediction_type="flow", provenance={"run": {"prompt": prompt}}) as recorder:
        for step in range(2):
            put_whole_step(recorder, step)
            recorder.commit(timestep=step, alpha=0.5, sigma=0.5)
            recorder.update_provenance("capture", {f"late{step}": "y" * 5000, "scale": float("nan")})
    with open_recording(tmp_path / "run.h5") as recording:
        assert recording.provenance["run"]["prompt"] == prompt
        assert recording.provenance["run"]["seed"] == "unknown"
        assert recording.provenance["model"]["something nobody wrote"] == "unknown"
        assert recording.provenance["capture"]["late1"] == "y" * 5000
        assert recording.provenance["capture"]["scale"] == "nan"
        assert recording.provenance["packages"]["h5py"] == h5py.__version__
    with h5py.File(tmp_path / "run.h5") as file:
        assert file["provenance/run"][()].isascii()
        assert json.loads(file["provenance/run"][()])["prompt"] == prompt


def test_more_steps_than_foreseen_are_kept(tmp_path, write_recording, recording_values):
    write_recording(tmp_path / "run.h5", steps=150, alpha=np.linspace(0, 1, 150), sigma=np.linspace(1, 0, 150), planned_steps=2)
    with open_recording(tmp_path / "run.h5") as recording:
        assert (recording.steps, recording.planned_steps) == (150, 2)
        np.testing.assert_array_equal(recording.map("sample", 149, 1), recording_values("sample", 149, 1))
        assert recording.verify() == []


def test_repr_names_dims_sizes_and_provenance(sample_file):
    with open_recording(sample_file) as recording:
        text = repr(recording)
    assert "(step: 5, item: 2, branch: 3, token: 10, channel: 12)  float32" in text
    assert "10 = 1 x 2 x 5 (frame, row, col)" in text
    assert "prompt='a cat', seed=7" in text
    assert "complete" in text.splitlines()[0]


def test_lifecycle_of_the_names(tmp_path, grid, put_whole_step):
    recorder = Recorder(tmp_path / "run.h5", grid=grid, prediction_type="flow")
    put_whole_step(recorder, 0)
    assert [path.name for path in tmp_path.iterdir()] == [".run.lock"]
    recorder.commit(timestep=1.0, alpha=0.5, sigma=0.5)
    recorder.flush()
    assert recorder.steps_done == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run.partial.h5"]
    with pytest.raises(InputError, match="is being written by another recorder"):
        Recorder(tmp_path / "run.h5", grid=grid, prediction_type="flow")
    recorder.close()
    recorder.close()
    assert [path.name for path in tmp_path.iterdir()] == ["run.h5"]
    with pytest.raises(InputError, match="put after close"):
        recorder.put("sample", np.zeros((10, 12), np.float32))


def test_existing_files_are_kept_unless_forced(tmp_path, write_recording):
    write_recording(tmp_path / "run.h5", steps=2)
    before = (tmp_path / "run.h5").read_bytes()
    with pytest.raises(InputError, match=r"run\.h5 exists and is kept; choose another name or pass --force"):
        write_recording(tmp_path / "run.h5", steps=3)
    assert (tmp_path / "run.h5").read_bytes() == before
    write_recording(tmp_path / "run.h5", steps=3, force=True)
    with open_recording(tmp_path / "run.h5") as recording:
        assert recording.steps == 3
    assert [str(generation_path("a/run.h5", n)) for n in (1, 2, 3)] == ["a/run.h5", "a/run-2.h5", "a/run-3.h5"]


def test_a_stale_partial_is_replaced_with_a_notice(tmp_path, write_recording):
    (tmp_path / "run.partial.h5").write_bytes(b"old")
    assert write_recording(tmp_path / "run.h5").notice.startswith("run.partial.h5 is left from a recording that did not finish")
    assert [path.name for path in tmp_path.iterdir()] == ["run.h5"]
    assert write_recording(tmp_path / "other.h5").notice is None


@pytest.mark.parametrize(
    ("error", "reason"),
    [(KeyboardInterrupt(), "interrupted"), (ValueError("boom\nä"), "failed: ValueError: boom ?")],
)
def test_an_exception_leaves_a_partial_that_says_why(tmp_path, grid, put_whole_step, error, reason):
    def generation():
        with Recorder(tmp_path / "run.h5", grid=grid, prediction_type="flow", planned_steps=4) as recorder:
            put_whole_step(recorder, 0)
            recorder.commit(timestep=1.0, alpha=0.5, sigma=0.5)
            put_whole_step(recorder, 1)
            raise error

    with pytest.raises(type(error)):
        generation()
    assert [path.name for path in tmp_path.iterdir()] == ["run.partial.h5"]
    with pytest.raises(RecordingError, match=r"run\.h5 does not exist, but run\.partial\.h5 does"):
        open_recording(tmp_path / "run.h5", partial=True)
    with pytest.raises(RecordingError, match=r"^run\.partial\.h5 stopped at step 1 of 4; .* pass --partial"):
        open_recording(tmp_path / "run.partial.h5")
    with open_recording(tmp_path / "run.partial.h5", partial=True) as recording:
        assert (recording.steps, recording.complete, recording.end_reason) == (1, False, reason)
        assert recording.verify() == []
        assert "NOT complete" in repr(recording)


def test_a_recording_short_of_its_plan_is_not_complete(tmp_path, write_recording):
    with pytest.warns(RuntimeWarning, match="ended after 5 of 9 planned steps; it stays run.partial.h5"):
        write_recording(tmp_path / "run.h5", planned_steps=9)
    with open_recording(tmp_path / "run.partial.h5", partial=True) as recording:
        assert (recording.steps, recording.end_reason) == (5, "stopped early")
        assert recording.read("sample").shape == (5, 10, 12)


def test_nothing_committed_writes_nothing_and_says_so(tmp_path, grid):
    with (
        pytest.warns(RuntimeWarning, match="no step was committed"),
        Recorder(tmp_path / "run.h5", grid=grid, prediction_type="flow"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_incomplete_steps_are_refused_by_name(tmp_path, grid, put_whole_step, recording_values):
    with Recorder(tmp_path / "run.h5", grid=grid, prediction_type="flow", branches=("guided", "cond"), items=2) as recorder:
        recorder.put("model_output", recording_values("model_output", 0))
        recorder.put("sample", recording_values("sample", 0))
        with pytest.raises(InputError) as caught:
            recorder.commit(timestep=1.0, alpha=0.5, sigma=0.5)
        for part in ("model_output of item 0, branch cond", "model_output of item 1, branch guided", "sample of item 1"):
            assert part in str(caught.value)
        assert "model_output of item 0, branch guided" not in str(caught.value)
        recorder.put("sample", recording_values("sample", 0, 1), item=1)
        recorder.put("model_output", recording_values("model_output", 0, 1), item=1)
        recorder.commit(timestep=1.0, alpha=0.5, sigma=0.5, absent=["cond"])
    with open_recording(tmp_path / "run.h5") as recording:
        assert recording.steps == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda r: r.put("sample", np.zeros((12, 10), np.float32)),
            r"sample has shape \(12, 10\); expected \(token, channel\) = \(10, 12\)",
        ),
        (lambda r: r.put("sample", np.zeros((10, 12), int)), "sample is int64; legal: float16"),
        (lambda r: r.put("sample", np.zeros((10, 12), np.float32), dtype="bfloat16"), "needs the numbers' 16 bits"),
        (lambda r: r.put("sampel", np.zeros((10, 12), np.float32)), "'sampel' is neither model_output"),
        (lambda r: r.put("../x.output", np.zeros((10, 12), np.float32)), "is neither model_output"),
        (lambda r: r.put("model_output", np.zeros((10, 12), np.float32), branch="neg"), "branch 'neg'; legal: guided"),
        (lambda r: r.put("sample", np.zeros((10, 12), np.float32), item=1), "item 1; this recording has items 0 to 0"),
        (lambda r: [r.put("sample", np.zeros((10, 12), np.float32)) for _ in range(2)], "put twice in step 0"),
        (lambda r: r.commit(timestep=1.0, sigma=0.5), "alpha of step 0 is not given"),
        (lambda r: r.commit(timestep=1.0, alpha=0.5, sigma=float("inf")), "sigma of step 0 is inf"),
        (lambda r: r.commit(timestep=1.0, alpha=1, sigma=0, absent=["guided"]), "absent names guided"),
        (lambda r: r.commit(timestep=1.0, alpha=1, sigma=0, time_s={"x": 1}), "time_s names x"),
        (lambda r: r.update_provenance("modle", {}), "no section 'modle'"),
    ],
)
def test_wrong_use_of_the_writer_is_refused(tmp_path, grid, call, message):
    recorder = Recorder(tmp_path / "run.h5", grid=grid, prediction_type="flow")
    with pytest.raises(InputError, match=message) as caught:
        call(recorder)
    assert "\n" not in str(caught.value)
    recorder.close("abandoned")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("run.hdf5", {}, "must end in .h5"),
        ("run.partial.h5", {}, "must end in .h5, and not in .partial.h5"),
        ("nowhere/run.h5", {}, "folder .* does not exist"),
        ("run.h5", {"branches": ("cond",)}, "hold 'guided'"),
        ("run.h5", {"items": 0}, "items is 0"),
        ("run.h5", {"options": RecorderOptions(store_dtype="int8")}, "dtype 'int8' cannot be stored; legal: float16"),
        ("run.h5", {"alpha": [[1.0]]}, "pass one value a step"),
        ("run.h5", {"provenance": {"modle": {}}}, "no section modle"),
        ("run.h5", {"grid": TokenGrid(1 << 20, (1, 1 << 10, 1 << 10), (1, 1, 1))}, "above HDF5's 4 GiB"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(tmp_path, grid, name, options, message):
    with pytest.raises(InputError, match=message):
        Recorder(tmp_path / name, **({"grid": grid, "prediction_type": "flow"} | options))
    assert list(tmp_path.iterdir()) == []


def test_signals_may_not_change_between_steps(tmp_path, grid, put_whole_step):
    with Recorder(tmp_path / "run.h5", grid=grid, prediction_type="flow", alpha=[1, 1], sigma=[0, 0]) as recorder:
        put_whole_step(recorder, 0)
        recorder.commit(timestep=1.0)
        with pytest.raises(InputError, match="predicted_variance first came in step 1"):
            recorder.put("predicted_variance", np.zeros((10, 12), np.float32))
        with pytest.raises(InputError, match=r"sample is float16 \(10, 12\) and was float32"):
            recorder.put("sample", np.zeros((10, 12), np.float16))
        put_whole_step(recorder, 1)
        recorder.commit(timestep=1.0)
        put_whole_step(recorder, 2)
        with pytest.raises(InputError, match="alpha of step 2 is given for 2 steps"):
            recorder.commit(timestep=1.0)
        recorder.close("enough")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r.map("modle_output", 0), "no signal 'modle_output'; it has model_output, sample"),
        (lambda r: r.map("sample", 5), "step 5 does not exist; legal: 0 to 4"),
        (lambda r: r.map("sample", 1.5), "step 1.5 is no whole number"),
        (lambda r: r.map("sample", 0, item=2), "item 2 does not exist"),
        (lambda r: r.map("model_output", 0, branch="x"), "no branch 'x'; it has guided, cond, uncond"),
        (lambda r: r.map("sample", 0, branch="cond"), "sample has no branch axis"),
        (lambda r: r.curve("sample", 10), "token 10 does not exist"),
        (lambda r: r.read("sample", steps=slice(None, None, -1)), "run backwards"),
        (lambda r: (r.close(), r.map("sample", 0)), "was closed"),
    ],
)
def test_places_that_do_not_exist_are_refused(sample_file, call, message):
    with open_recording(sample_file) as recording, pytest.raises(InputError, match=message):
        call(recording)


def test_a_curve_reads_only_its_token(sample_file, monkeypatch):
    asked = []
    original = h5py.Dataset.__getitem__
    monkeypatch.setattr(
        h5py.Dataset, "__getitem__", lambda self, key, **k: (asked.append((self.name, key)), original(self, key, **k))[1]
    )
    with open_recording(sample_file) as recording:
        asked.clear()
        recording.curve("sample", 3, item=1)
    assert [key for name, key in asked if name == "/sample"] == [(slice(0, 5), 1, 3)]
