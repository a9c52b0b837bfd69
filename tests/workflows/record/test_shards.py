"""Shards: recordings from files, directories and manifests, once each, in an order of their own."""

import itertools
import shutil
from dataclasses import replace

import pytest
from recorded_runs import PICTURE, record_run

from janoscope.errors import InputError
from janoscope.grid import TokenGrid
from janoscope.workflows.record.gather import gather_shards
from janoscope.workflows.record.manifest import COMPLETE, FAILED, Entry, Manifest, sha256_of

SMALLER = TokenGrid(channels=3, cells=(1, 6, 10), patch=(1, 2, 2))
PROMPTS = ("a cat", "a dog", "a hen", "a cow")


def recorded(path, prompt, seed=0, grid=SMALLER, steps=3, **recipe):
    path.parent.mkdir(exist_ok=True)
    provenance = {"run": {"prompt": prompt, "seed": seed, "guidance_scale": 3.5}, "model": {"id": "tiny"}}
    return record_run(path, grid=grid, steps=steps, provenance=provenance, **recipe).path


def entry(path, index, prompt, **changes):
    told = {"sha256": sha256_of(path), "bytes": path.stat().st_size, "steps": 3}
    return replace(Entry(path.name, index, prompt, 0, COMPLETE, "recipe", **told), **changes)


@pytest.fixture
def two_shards(tmp_path):
    """gpu0 with prompts 0 and 2, gpu1 with 1 and 3, each with its manifest."""
    for index, prompt in enumerate(PROMPTS):
        path = recorded(tmp_path / f"gpu{index % 2}" / f"{index:04d}.h5", prompt)
        Manifest(path.parent).append(entry(path, index, prompt))
    return tmp_path


def test_any_mix_of_places_gives_the_same_list(two_shards):
    expected = [two_shards / f"gpu{index % 2}" / f"{index:04d}.h5" for index in range(4)]
    mixes = [
        [two_shards],
        [two_shards / "gpu1", two_shards / "gpu0"],
        [two_shards / "gpu1" / "manifest.jsonl", two_shards / "gpu0"],
        [two_shards / "gpu0" / "0002.h5", two_shards, two_shards / "gpu1" / "manifest.jsonl"],
        sorted(two_shards.glob("*/*.h5")),  # what a shell makes of gpu*/*.h5
    ]
    for mix in mixes:
        gathered = gather_shards(mix)
        assert [path.resolve() for path in gathered.paths] == expected
        assert gathered.prompts == PROMPTS
        assert gathered.left_out == ()


def test_files_without_a_manifest_are_ordered_by_what_they_hold(tmp_path):
    paths = [recorded(tmp_path / f"{name}.h5", prompt) for name, prompt in zip("zyxw", PROMPTS, strict=True)]
    orders = {gather_shards(order).paths for order in itertools.permutations(paths)}
    assert orders == {tuple(paths[at] for at in (0, 3, 1, 2))}  # a cat, a cow, a dog, a hen


def test_one_recording_of_a_recipe_is_opened(two_shards, monkeypatch):
    from janoscope.workflows.record import gather as shards

    opened = []
    monkeypatch.setattr(shards, "open_recording", lambda path, real=shards.open_recording: opened.append(path) or real(path))
    gather_shards([two_shards])
    assert len(opened) == 1
    (two_shards / "gpu0" / "manifest.jsonl").unlink()
    gather_shards([two_shards])
    assert len(opened) == 1 + 1 + 2  # one of the other manifest's recipe, and both files that no manifest tells of


def test_recordings_of_another_kind_are_left_out_with_what_differs(two_shards):
    odd = recorded(two_shards / "odd" / "run.h5", "a fox", grid=PICTURE)
    short = [recorded(two_shards / "short" / f"{at}.h5", f"a fox {at}", steps=2) for at in range(3)]
    gathered = gather_shards([two_shards])
    assert gathered.prompts == PROMPTS
    assert len(gathered.left_out) == 2
    told = " ".join(gathered.left_out)
    assert f"{odd} is left out: grid" in told
    assert f"{short[0]}, {short[1]}, {short[2]} are left out: steps 2 where the others have 3." in told
    with pytest.raises(InputError, match="left out"):
        gather_shards([two_shards], strict=True)


def test_what_cannot_be_taken_is_told(two_shards):
    gpu0 = two_shards / "gpu0"
    with (gpu0 / "0000.h5").open("ab") as file:
        file.write(b"more")
    (gpu0 / "0002.h5").unlink()
    Manifest(gpu0).append(Entry("0004.h5", 4, "a fox", 0, FAILED, "recipe", error="no memory"))
    cut = recorded(two_shards / "gpu1" / "0005.h5", "a hare", kept=2)
    gathered = gather_shards([two_shards])
    assert gathered.prompts == ("a dog", "a cow")
    told = dict(line.split(" is left out: ") for line in gathered.left_out)
    assert told[str(gpu0 / "0000.h5")].endswith("copy it again.")
    assert told[str(gpu0 / "0002.h5")] == "its manifest names it, but it is not there."
    assert told[str(gpu0 / "0004.h5")] == "its manifest says failed (no memory)."
    assert "stopped at step 2 of 3" in told[str(cut)]


def test_a_prompt_recorded_twice_counts_once(two_shards):
    again = two_shards / "again"
    again.mkdir()
    shutil.copy(two_shards / "gpu0" / "0000.h5", again / "0000.h5")
    Manifest(again).append(entry(again / "0000.h5", 0, "a cat"))
    other_seed = recorded(two_shards / "seeds" / "0000.h5", "a cat", seed=7)
    gathered = gather_shards([two_shards])
    assert len(gathered.recordings) == 5
    assert other_seed in gathered.paths
    assert gathered.prompts == PROMPTS
    assert gathered.left_out == (
        f"{two_shards / 'gpu0' / '0000.h5'} is left out: {again / '0000.h5'} is of the same prompt and seed.",
    )


def test_recordings_of_accelerated_runs_are_left_out_unless_wanted(tmp_path, saved):
    from janoscope.pipeline.call import CallOptions, make_call
    from janoscope.pipeline.model import load_model
    from janoscope.workflows.record.session import record_model

    model = load_model(str(saved("flux")))
    options = CallOptions("a cat", steps=6, height=112, width=176, extra={"max_sequence_length": 16})
    for name, policy in (("full", None), ("fast", model.policy("jano/flux-1/1"))):
        record_model(model, make_call(model, options), tmp_path / f"{name}.h5", policy=policy, keep_output=False)
    gathered = gather_shards([tmp_path])
    assert gathered.paths == (tmp_path / "full.h5",)
    assert "accelerated" in gathered.left_out[0]
    assert len(gather_shards([tmp_path / "fast.h5"], accelerated=True).paths) == 1


def test_nothing_to_gather_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        gather_shards([tmp_path / "none.h5"])
    with pytest.raises(InputError, match="nothing there"):
        gather_shards([tmp_path])
    (tmp_path / "empty.h5").touch()
    with pytest.raises(InputError, match="is empty"):
        gather_shards([tmp_path])
