"""What a recording says of its making is checked before it is used: another type is one line, half a character harmless."""

import pytest
from recorded_runs import record_run

from janoscope.errors import InputError, RecordingError
from janoscope.pipeline.call import CallOptions
from janoscope.pipeline.model_options import ModelOptions
from janoscope.pipeline.prompts import Prompt
from janoscope.recording import Recording
from janoscope.workflows.analyze.recording import analyze_to_directory
from janoscope.workflows.record.many import SetRecipe, plan_set

WRONG = [
    ("model", {"id": {"a": 1}}, "provenance/model.id"),
    ("model", {"transformer": []}, "provenance/model.transformer"),
    ("model", {"transformer": {"class": "T"}}, "lacks 'config'"),
    ("run", {"prompt": 3}, "provenance/run.prompt"),
    ("run", {"options": []}, "provenance/run.options"),
    ("scheduler", {"final": [1.0]}, "provenance/scheduler.final"),
    ("scheduler", {"final": ["a", "b"]}, "provenance/scheduler.final"),
    ("capture", {"probe": ["demo"]}, "provenance/capture.probe"),
]


@pytest.mark.parametrize(("section", "fields", "said"), WRONG)
def test_provenance_of_another_type_is_one_line(tmp_path, monkeypatch, section, fields, said):
    run = record_run(tmp_path / "run.h5", steps=15)
    honest = Recording._section

    def changed(self, name):
        found = honest(self, name)
        return type(found)({**found, **fields}) if name == section else found

    monkeypatch.setattr(Recording, "_section", changed)
    with pytest.raises(RecordingError, match=r"run\.h5 is damaged: ") as refusal:
        analyze_to_directory(run.path, tmp_path / "an")
    assert said in str(refusal.value)


def test_half_a_character_in_a_prompt_is_analysed_and_no_command_is_offered(tmp_path, monkeypatch):
    run = record_run(tmp_path / "run.h5", steps=15)
    honest = Recording._section

    def changed(self, name):
        found = honest(self, name)
        return type(found)({**found, "prompt": "a \ud800 cat"}) if name == "run" else found

    monkeypatch.setattr(Recording, "_section", changed)
    analysis = analyze_to_directory(run.path, tmp_path / "an")
    assert analysis.apply_arguments == ()
    for name in ("plan.json", "analysis.json"):
        assert "a \ufffd cat" in (tmp_path / "an" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("force", [False, True])
def test_a_set_never_replaces_a_file_that_is_no_recording(tmp_path, force):
    mine = tmp_path / "0000-a.h5"
    mine.write_text("mine")
    recipe = SetRecipe("demo", ModelOptions(), CallOptions("a"))
    with pytest.raises(InputError, match="move it away"):
        plan_set(tmp_path, [Prompt(0, "a")], recipe, force=force)
    assert mine.read_text() == "mine"
