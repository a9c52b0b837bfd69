"""`probe=` of record, apply, analyze and Executor: a path as text or Path, or the probe itself; `sheet=` is its older name."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from plain_hooks import probe_named
from recorded_runs import record_run
from tiny_pipelines import build
from torch import nn

import janoscope
from janoscope.errors import InputError
from janoscope.pipeline.provenance import missing_probe_note
from janoscope.plan.policy import Intervals, Policy, Split
from janoscope.probe import CHECKOUT, PACKAGED, Probe, load_probe, probe_paths

POLICY = Policy("t", 2, 1, (1, 2, 2), Intervals(4, 3, 1), quantiles=Split(0.3, 0.6))


def flux_file(folder: Path) -> Path:
    """The bundled probe under another name, with another title, so that it can be told from the one that matches."""
    text = next(path for path in probe_paths() if path.stem == "flux").read_text(encoding="utf-8")
    path = folder / "mine.toml"
    path.write_text(text.replace('title = "Flux.1"', 'title = "Mine"'), encoding="utf-8")
    return path


FORMS: dict[str, Callable[[Path], Any]] = {"text": str, "path": Path, "probe": load_probe}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["probe", "sheet"])
def test_record_and_apply_take_a_probe_as_path_or_object(tmp_path: Path, form: str, name: str) -> None:
    pipeline, call = build("flux")
    given = {name: FORMS[form](flux_file(tmp_path))}
    generator = torch.Generator().manual_seed(0)
    with janoscope.record(pipeline, tmp_path / "run.h5", **given):
        pipeline(**call | {"num_inference_steps": 2}, generator=generator)
    kept = janoscope.open_recording(tmp_path / "run.h5").provenance["capture"]["probe_text"]
    assert 'title = "Mine"' in kept
    with janoscope.apply(pipeline, policy=POLICY, **given) as run:
        pipeline(**call, generator=generator)
    assert len(run.account.steps) == call["num_inference_steps"]


@pytest.mark.parametrize("form", FORMS)
def test_analyze_and_executor_take_the_same(tmp_path: Path, form: str) -> None:
    probe = FORMS[form](flux_file(tmp_path))
    run = record_run(tmp_path / "run.h5")
    assert set(janoscope.analyze(run.path, probe=probe).plan.token_level)
    pipeline, _ = build("flux")
    with janoscope.Executor(pipeline, probe, policy=POLICY) as executor:
        assert executor.policy == POLICY


def test_the_type_that_probe_takes_can_be_imported() -> None:
    assert isinstance(probe_named("flux"), Probe)
    assert janoscope.Probe is Probe


def test_two_names_for_one_argument_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    pipeline, _ = build("flux")
    path = flux_file(tmp_path)
    with (
        pytest.raises(InputError, match="probe and sheet are two names of one argument"),
        janoscope.record(pipeline, tmp_path / "run.h5", probe=path, sheet=path),
    ):
        pass
    with (
        pytest.raises(InputError, match=r"probe .*none\.toml cannot be read"),
        janoscope.record(pipeline, tmp_path / "run.h5", probe=str(tmp_path / "none.toml")),
    ):
        pass


def test_no_error_of_python_advises_an_option_of_the_command_line(tmp_path: Path) -> None:
    class FooTransformer2DModel(nn.Module):
        pass

    pipe = SimpleNamespace(transformer=FooTransformer2DModel(), scheduler=None)
    with pytest.raises(InputError) as caught, janoscope.record(pipe, tmp_path / "run.h5"):
        pass
    assert str(caught.value) == (
        f"no probe matches FooTransformer2DModel; looked in {PACKAGED} and {CHECKOUT}. Write one (docs/probes.md) and give "
        "its path as probe."
    )
    recording = SimpleNamespace(provenance={"capture": {"probe": "theirs"}})
    note = missing_probe_note(recording, None)
    assert note is not None
    assert "give its path as probe" in note


def test_no_text_of_the_library_names_the_option_outside_the_command_line() -> None:
    package = Path(janoscope.__file__).parent
    library = [path for path in package.rglob("*.py") if "cli" not in path.relative_to(package).parts]
    assert len(library) > 100
    assert [path.name for path in library if "--probe" in path.read_text(encoding="utf-8")] == []
