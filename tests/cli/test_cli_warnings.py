"""What is said on stderr: our warnings as one line, those of libraries only with --verbose."""

import sys
import warnings

import pytest

from janoscope.cli import main, options
from janoscope.pipeline import model as study_model

OURS = "guided became torch.float32 at step 3; it is kept as torch.float16."


@pytest.fixture
def told(monkeypatch, capsys):
    """stderr of a `record` whose loading raises one warning of ours and some of libraries."""

    def run(*words):
        def loaded(*_, **__):
            warnings.warn_explicit(OURS, RuntimeWarning, "module.py", 1, module="torch.nn.modules.module")
            warnings.warn_explicit("`x` is deprecated", FutureWarning, "a.py", 2, module="diffusers.utils.deprecation_utils")
            warnings.warn_explicit("a slow path", UserWarning, "b.py", 3, module="transformers.modeling_utils")
            raise KeyboardInterrupt

        monkeypatch.setattr(study_model, "load_model", loaded)
        monkeypatch.setattr(sys, "argv", ["janoscope", "record", "demo", "-p", "x", *words])
        with pytest.raises(SystemExit):
            main()

        return [line for line in capsys.readouterr().err.splitlines() if line]

    return run


def test_our_warning_is_one_plain_line_and_those_of_libraries_are_silent(told, tmp_path):
    assert told("-o", str(tmp_path / "run.h5")) == ["Loading demo ...", OURS, "Interrupted."]


def test_quiet_leaves_the_line_before_loading_out(told, tmp_path):
    assert told("-q", "-o", str(tmp_path / "run.h5")) == [OURS, "Interrupted."]


def test_verbose_lets_the_libraries_speak(told, tmp_path):
    lines = told("-v", "-o", str(tmp_path / "run.h5"))
    assert OURS in lines
    assert "FutureWarning: `x` is deprecated" in lines
    assert "UserWarning: a slow path" in lines


def test_filters_and_display_are_those_of_the_caller_again(told, tmp_path):
    before = list(warnings.filters), warnings.showwarning
    told("-o", str(tmp_path / "run.h5"))
    assert (list(warnings.filters), warnings.showwarning) == before


def test_a_user_warning_of_other_modules_is_heard():
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with options.libraries_silent():
            warnings.warn_explicit("mine", UserWarning, "own.py", 1, module="torchlike")
            warnings.warn_explicit("theirs", UserWarning, "t.py", 1, module="torch.serialization")
        warnings.warn_explicit("theirs, after", UserWarning, "t.py", 2, module="torch.serialization")
    assert [str(warning.message) for warning in heard] == ["mine", "theirs, after"]
