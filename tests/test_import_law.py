"""A package imports what stands left of it in the flow, and each heavy library has one home (docs/architecture.md)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "janoscope"
CORE = ("errors", "decode", "shape", "grid", "probe")
FLOW = (
    *CORE,
    "capture",
    "recording",
    "conversion",
    "analysis",
    "plan",
    "execution",
    "metrics",
    "results",
    "study",
    "report",
    "cli",
)
STRANGERS = {
    ("recording", "capture"),
    ("report", "capture"),
    ("report", "execution"),
    ("metrics", "plan"),
    ("metrics", "analysis"),
}
HOMES = {
    "h5py": {"recording"},
    "matplotlib": {"report"},
    "click": {"cli"},
    "torch": {"capture", "execution", "study", "demo", "metrics"},  # metrics: the LPIPS extra is a torch network
    "diffusers": {"study", "demo", "cli"},
    "transformers": {"study", "demo", "cli"},
}


def imports_of(source, module):
    """(janoscope packages, top-level libraries) that a module imports, wherever in it."""
    own, libraries = set(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(node.level, f"{node.module}.{alias.name}" if node.module else alias.name) for alias in node.names]
        else:
            continue
        for level, name in names:
            parts = name.split(".")
            if level:
                parts = [*module[: len(module) - level], *parts]
                own.add(parts[0])
            elif parts[0] == "janoscope":
                own.update(parts[1:2])
            else:
                libraries.add(parts[0])
    return own, libraries


def broken_laws(source, module):
    """Sentences about what a module (its path below janoscope, as a tuple) must not import."""
    own, libraries = imports_of(source, module)
    room = module[0]
    broken = [
        f"{'/'.join(module)} imports {lib}, whose home is {', '.join(sorted(HOMES[lib]))}"
        for lib in libraries & set(HOMES)
        if room not in HOMES[lib]
    ]
    if room in FLOW:
        later = [other for other in own if other in FLOW and FLOW.index(other) > FLOW.index(room)]
        broken += [f"{'/'.join(module)} imports {other}, which stands right of it" for other in later]
        broken += [
            f"{'/'.join(module)} imports {other}; the two must not know each other" for other in own if (room, other) in STRANGERS
        ]
    return broken


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path, path.relative_to(PACKAGE).with_suffix("").parts


def test_every_module_keeps_the_law():
    broken = [
        law for path, module in modules() if len(module) > 1 or module[0] in CORE for law in broken_laws(path.read_text(), module)
    ]
    assert broken == []
    assert len(list(modules())) > 60


@pytest.mark.parametrize(
    ("source", "module", "told"),
    [
        ("from ..study import model", ("plan", "plan"), "stands right"),
        ("import torch", ("analysis", "tiles"), "torch"),
        ("def f():\n    import h5py", ("study", "record"), "h5py"),
        ("from ..capture import Capture", ("recording", "writer"), "must not know"),
        ("from janoscope.cli import app", ("study", "record"), "stands right"),
    ],
)
def test_a_broken_law_is_found(source, module, told):
    assert [told in law for law in broken_laws(source, module)] == [True]


def test_data_folders_are_not_importable():
    for folder in ("probes", "reports"):
        assert not list((PACKAGE.parent / folder).rglob("__init__.py"))


@pytest.mark.parametrize(
    "statement",
    ["import janoscope", "from janoscope.cli.app import janoscope; janoscope.main(['--help'], standalone_mode=False)"],
)
def test_import_and_help_load_no_heavy_library(statement):
    heavy = "sorted({'torch', 'numpy', 'h5py', 'matplotlib', 'scipy', 'diffusers'} & set(sys.modules))"
    told = subprocess.run(
        [sys.executable, "-c", f"import sys; {statement}; print(); print({heavy})"], capture_output=True, text=True, check=True
    )
    assert told.stdout.splitlines()[-1] == "[]"


def test_a_heavy_import_would_be_seen():
    told = subprocess.run(
        [sys.executable, "-c", "import sys, numpy; print('numpy' in sys.modules)"], capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == "True"
