"""The names of `janoscope`: the same for Python and for an editor, none of them Any, and nothing else in `dir`."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import janoscope

ROOT = Path(__file__).parent.parent
# names of 0.1.0, which programs out there import
AT_0_1_0 = {
    "Account",
    "Analysis",
    "AnalysisOptions",
    "ApplyHandle",
    "Comparison",
    "Executor",
    "JanoscopeError",
    "Pair",
    "Plan",
    "Policy",
    "RecordHandle",
    "Recorder",
    "Recording",
    "TokenGrid",
    "analyze",
    "aggregate",
    "apply",
    "calibrate",
    "compare",
    "make_plan",
    "open_recording",
    "record",
    "to_flow_velocity",
}


def typed_names() -> tuple[dict[str, str], dict[str, str]]:
    """({name: module} of the imports under TYPE_CHECKING, {name: the imported name that it is another one of})."""
    tree = ast.parse((ROOT / "janoscope" / "__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and isinstance(node.test, ast.Name)]
    lines = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    imported = {alias.asname: node.module for node in lines for alias in node.names if alias.asname == alias.name}
    assigned = [node for node in block.body if isinstance(node, ast.Assign)]
    return imported, {node.targets[0].id: node.value.id for node in assigned}


def test_an_editor_sees_the_names_that_python_gives():
    imported, others = typed_names()
    assert imported | others == janoscope._PUBLIC | janoscope._OLD_NAMES | janoscope._NAMED_THERE
    assert others == janoscope._NAMED_THERE


def test_every_public_name_is_there_and_those_of_0_1_0_still_are():
    for name in AT_0_1_0.union(janoscope.__all__):
        assert getattr(janoscope, name) is not None, name
    assert janoscope.open is janoscope.open_recording
    assert janoscope.Account is janoscope.RunSummary
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        janoscope.nonsense  # noqa: B018


def test_dir_shows_public_names_only():
    assert dir(janoscope) == sorted([*janoscope.__all__, "__version__"])


def checked(program: Path, cache: Path) -> str:
    """What mypy says of a program whose every expression has to have a type."""
    flags = ["--strict", "--disallow-any-expr", "--follow-imports=silent", "--ignore-missing-imports", f"--cache-dir={cache}"]
    command = [sys.executable, "-m", "mypy", "--config-file=", "--python-version=3.11", *flags, str(program)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout


def test_a_users_program_has_types(tmp_path):
    pytest.importorskip("mypy", reason="mypy is of the dev extra")
    assert "Success" in checked(ROOT / "tests" / "typed_program.py", ROOT / ".mypy_cache" / "typed_program")
    names = "\n".join(f"reveal_type(janoscope.{name})" for name in sorted(janoscope.__all__))
    wrong = "janoscope.nonsense\njanoscope.open('run.h5').step_count\njanoscope.load_model(7)\n"
    (tmp_path / "names.py").write_text(f"import janoscope\n{names}\n{wrong}")
    lines = checked(tmp_path / "names.py", ROOT / ".mypy_cache" / "typed_program").splitlines()
    revealed = [line for line in lines if "Revealed type" in line]
    assert len(revealed) == len(janoscope.__all__)
    assert [line for line in revealed if 'is "Any"' in line] == []
    errors = [line for line in lines if ": error:" in line]
    for words in ("has no attribute", "has no attribute", "has incompatible type"):
        assert any(words in line for line in errors), lines
