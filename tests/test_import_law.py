"""A package imports what stands left of it in the flow, and each heavy library has one home (docs/architecture.md)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import janoscope

PACKAGE = Path(__file__).parent.parent / "janoscope"
CORE = ("errors", "decode", "shape", "array_api", "grid", "probe")
FLOW = (
    *CORE,
    *("capture", "recording", "conversion", "analysis", "plan", "execution", "metrics", "parallel", "results", "pipeline"),
    *("report", "workflows", "evidence", "cli"),
)
STRANGERS = {
    ("recording", "capture"),
    ("report", "capture"),
    ("report", "execution"),
    ("workflows", "report"),
    ("metrics", "plan"),
    ("metrics", "analysis"),
}
# workflow -> workflows that it may use; the others are strangers to one another
USES = {"compare": {"apply"}, "calibrate": {"record", "analyze"}, "bench": {"*"}, "demo": {"*"}}
HOMES = {
    "h5py": {"recording"},
    "matplotlib": {"report", "evidence"},
    "click": {"cli"},
    "torch": {"capture", "execution", "parallel", "pipeline", "workflows", "demo", "metrics"},  # metrics: LPIPS is a network
    "diffusers": {"pipeline", "workflows", "demo", "cli"},
    "transformers": {"pipeline", "workflows", "demo", "cli"},
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
    ("source", "module", "words"),
    [
        ("from ..workflows.compare import contest", ("plan", "plan"), "stands right"),
        ("import torch", ("analysis", "tiles"), "torch"),
        ("def f():\n    import h5py", ("workflows", "record", "session"), "h5py"),
        ("from ..capture import Capture", ("recording", "writer"), "must not know"),
        ("from janoscope.cli import app", ("workflows", "record", "session"), "stands right"),
    ],
)
def test_a_broken_law_is_found(source, module, words):
    assert [words in law for law in broken_laws(source, module)] == [True]


def workflows_used(source, module):
    """Other workflows that a module of workflows/ imports from."""
    used = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            parts = [*module[: len(module) - node.level], *(node.module or "").split(".")]
            if parts[:1] == ["workflows"] and len(parts) > 1 and parts[1] and parts[1] != module[1]:
                used.add(parts[1])
    return used


def strange_workflows(source, module):
    """Workflows that this one imports from and must not know."""
    allowed = USES.get(module[1], set())
    return set() if "*" in allowed else workflows_used(source, module) - allowed


def test_workflows_are_strangers_to_one_another():
    inside = [(path, module) for path, module in modules() if module[0] == "workflows" and len(module) > 1]
    broken = {"/".join(module): strange_workflows(path.read_text(), module) for path, module in inside}
    assert {name: strange for name, strange in broken.items() if strange} == {}
    assert len(inside) > 40


def test_a_strange_workflow_is_found():
    assert strange_workflows("from ..compare.spec import Spec", ("workflows", "apply", "session")) == {"compare"}
    assert strange_workflows("from ..apply.session import apply", ("workflows", "compare", "methods")) == set()


# --- no circle, also when imports inside functions and under TYPE_CHECKING count ---


def package_modules():
    """{dotted name below janoscope: (is it a package, source)} of every module."""
    found = {}
    for path, parts in modules():
        is_package = parts[-1] == "__init__"
        found[".".join(parts[:-1] if is_package else parts)] = (is_package, path.read_text())
    return found


def modules_imported(name, sources):
    """Modules of `sources` that one of them imports, wherever in it: the module that is named, or the package that names it."""
    is_package, source = sources[name]
    own = name.split(".") if name else []
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            start = [*own[: len(own) - node.level + is_package], *(node.module or "").split(".")]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "janoscope":
            start = node.module.split(".")[1:]
        else:
            continue
        package = ".".join(part for part in start if part)
        for alias in node.names:
            submodule = f"{package}.{alias.name}".strip(".")
            imported.add(submodule if submodule in sources else package)
    return imported & set(sources) - {name}


def circles(sources):
    """Groups of modules each of which imports, directly or not, every other of its group."""
    reached = {name: modules_imported(name, sources) for name in sources}
    growing = True
    while growing:
        growing = False
        for name, others in reached.items():
            more = set().union(others, *(reached[other] for other in others))
            growing, reached[name] = growing or more != others, more
    groups = {frozenset(other for other in reached[name] if name in reached[other]) for name in reached if name in reached[name]}
    return sorted(sorted(group) for group in groups)


def test_no_import_circle():
    assert circles(package_modules()) == []


@pytest.mark.parametrize(
    ("sources", "found"),
    [
        ({"a": "from .b import x", "b": "def f():\n    from .a import y"}, [["a", "b"]]),
        ({"a": "from . import b", "b": "if TYPE_CHECKING:\n    from janoscope.a import y"}, [["a", "b"]]),
        ({"a": "from .b import x", "b": "from .c import x", "c": "from .a import x"}, [["a", "b", "c"]]),
        ({"a": "from .b import x", "b": "from .c import x", "c": "import torch"}, []),
    ],
)
def test_a_circle_is_found(sources, found):
    assert circles({name: (False, source) for name, source in sources.items()}) == found


def hidden_by_a_public_name(modules, public):
    """Modules directly under the package that a public name of it hides, or is hidden by."""
    return sorted(set(modules) & set(public))


def test_no_module_bears_the_name_of_a_public_function():
    own = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert len(own) > 10
    assert hidden_by_a_public_name(own, janoscope.__all__) == []
    assert hidden_by_a_public_name({"record", "grid"}, ["record", "Grid"]) == ["record"]


def test_data_folders_are_not_importable():
    for folder in ("probes", "reports"):
        assert not list((PACKAGE.parent / folder).rglob("__init__.py"))


@pytest.mark.parametrize(
    "statement",
    ["import janoscope", "from janoscope.cli.app import janoscope; janoscope.main(['--help'], standalone_mode=False)"],
)
def test_import_and_help_load_no_heavy_library(statement):
    heavy = "sorted({'torch', 'numpy', 'h5py', 'matplotlib', 'scipy', 'diffusers'} & set(sys.modules))"
    printed = subprocess.run(
        [sys.executable, "-c", f"import sys; {statement}; print(); print({heavy})"], capture_output=True, text=True, check=True
    )
    assert printed.stdout.splitlines()[-1] == "[]"


def test_a_heavy_import_would_be_seen():
    printed = subprocess.run(
        [sys.executable, "-c", "import sys, numpy; print('numpy' in sys.modules)"], capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == "True"
