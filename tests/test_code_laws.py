"""Laws of the code that no test of behaviour can hold, read from its source."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "janoscope"
# what an assert may call: it looks and changes nothing, so that `python -O` may leave it out
LOOKS = {"all", "any", "callable", "hasattr", "isinstance", "issubclass", "len", "set", "sorted", "type"}
# what changes the whole process -> the modules that may, each of which gives it back (tests/cli/test_global_state.py)
SETTERS = {
    "set_num_threads": {
        "pipeline/threads.py",
        "demo/training/train.py",
    },  # train: in a process of its own, like all that module does
    "set_num_interop_threads": set(),
    "set_default_dtype": {"workflows/bench/execute.py"},
    "set_default_device": set(),
    "set_grad_enabled": set(),
    "use_deterministic_algorithms": set(),
    "manual_seed_all": set(),
    "seterr": set(),
    "set_verbosity": {"cli/options.py", "workflows/calibrate/search.py"},
    "set_verbosity_error": {"cli/options.py"},
    "disable_progress_bar": {"cli/options.py"},
    "simplefilter": {"cli/options.py"},
    "filterwarnings": {"cli/options.py", "workflows/record/session.py"},
    "basicConfig": set(),
    "setLevel": set(),
    "captureWarnings": set(),
    "setdefault os.environ": set(),
    "putenv": set(),
    "chdir": {"parallel/tasks.py"},  # in a worker of a cluster
    "umask": set(),
    "setrecursionlimit": set(),
    "rcdefaults": {"report/drawing/style.py"},
    "excepthook": set(),
}


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def roots_raised(source):
    """Lines that make a JanoscopeError of no kind."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [call.lineno for call in calls if ast.unparse(call.func).split(".")[-1] == "JanoscopeError"]


def working_asserts(source):
    """Lines of asserts that call or assign something: they are gone under `python -O`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Assert):
            continue
        for part in ast.walk(node.test):
            works = isinstance(part, ast.NamedExpr | ast.Await | ast.Yield)
            if isinstance(part, ast.Call):
                works = not (isinstance(part.func, ast.Name) and part.func.id in LOOKS)
            if works:
                found.append(node.lineno)
    return found


def born_late(source):
    """`Class.name` of attributes that a method sets and neither the class nor its __init__ does."""
    late = []
    for cls in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)):
        known = {node.target.id for node in cls.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}
        known |= {
            target.id
            for node in cls.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        known |= {node.name for node in cls.body if isinstance(node, ast.FunctionDef)}
        methods = [node for node in cls.body if isinstance(node, ast.FunctionDef)]
        made = {method.name: attributes_set(method) for method in methods}
        known |= made.get("__init__", set()) | made.get("__post_init__", set())
        late += [f"{cls.name}.{name}" for name in sorted(set().union(*made.values()) - known)]
    return late


def attributes_set(method):
    return {
        node.attr
        for node in ast.walk(method)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }


def set_globally(source):
    """Names of SETTERS that a module calls or, of `os.environ`, writes."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = ast.unparse(node.func.value)
            name = f"{node.func.attr} os.environ" if owner.endswith("environ") else node.func.attr
            found.update({name} & set(SETTERS))
            if owner.endswith("environ") and node.func.attr in ("update", "setdefault", "pop"):
                found.add("setdefault os.environ")
        if isinstance(node, ast.Assign | ast.AugAssign | ast.Delete):
            targets = [node.target] if isinstance(node, ast.AugAssign) else node.targets
            places = [ast.unparse(target) for target in targets]
            found.update({"setdefault os.environ" for place in places if place.startswith(("os.environ[", "environ["))})
            found.update({"excepthook" for place in places if place == "sys.excepthook"})
    return found


def test_no_assert_does_work():
    found = {str(path.relative_to(PACKAGE)): lines for path in modules() if (lines := working_asserts(path.read_text()))}
    assert found == {}
    assert sum("assert " in path.read_text() for path in modules()) > 10


@pytest.mark.parametrize(
    ("statement", "lines"),
    [
        ("assert len(gather(folder)) == 3", [1]),
        ("assert (found := 3)", [1]),
        ("assert rows.pop() is None", [1]),
        ("assert isinstance(rate, float) and len(rows) == 3", []),
        ("assert self.rows is not None", []),
    ],
)
def test_an_assert_that_does_work_is_found(statement, lines):
    assert working_asserts(statement) == lines


def test_every_error_has_a_kind():
    assert [str(path) for path in modules() if roots_raised(path.read_text())] == []
    assert roots_raised("raise JanoscopeError('x')\nyield errors.JanoscopeError(1)\nexcept_ = InputError('y')") == [1, 2]


def test_what_belongs_to_the_process_is_set_in_few_places_which_give_it_back():
    found = {(name, str(path.relative_to(PACKAGE))) for path in modules() for name in set_globally(path.read_text())}
    assert found == {(name, place) for name, places in SETTERS.items() for place in places}


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("torch.set_num_threads(1)", "set_num_threads"),
        ("os.environ.setdefault('A', 'b')", "setdefault os.environ"),
        ("os.environ['A'] = 'b'", "setdefault os.environ"),
        ("del os.environ['A']", "setdefault os.environ"),
        ("np.seterr(all='ignore')", "seterr"),
        ("sys.excepthook = f", "excepthook"),
    ],
)
def test_a_global_setter_is_found(statement, name):
    assert set_globally(statement) == {name}


def test_no_attribute_is_born_late():
    found = {str(path.relative_to(PACKAGE)): late for path in modules() if (late := born_late(path.read_text()))}
    assert found == {}


@pytest.mark.parametrize(
    ("statement", "late"),
    [
        ("class A:\n def __init__(self):\n  self.a = 1\n def f(self):\n  self.a = self.b = 2", ["A.b"]),
        ("class A:\n def wrap(self):\n  def step():\n   self.done = 0", ["A.done"]),
        ("class A:\n a: int\n b = 1\n def f(self):\n  self.a = self.b = 2", []),
    ],
)
def test_an_attribute_that_is_born_late_is_found(statement, late):
    assert born_late(statement) == late


# --- sizes ---

MOST_PARAMETERS = 12
MOST_FILES = 17
MOST_ANY = 296
MOST_VAGUE_NAMES = 529
# names that say nothing of the thing that they hold
VAGUE = {"told", "found", "made", "given", "known", "kept", "asked", "met"}
# functions that still take more, and folders that still hold more; nothing may join them
WIDE: set[str] = set()
CROWDED: set[str] = set()


def parameters(function):
    """How many arguments a caller can give, `self` and `cls` not counted."""
    arguments = function.args
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
    starred = [argument for argument in (arguments.vararg, arguments.kwarg) if argument]
    return len(names) + len(arguments.kwonlyargs) + len(starred) - (names[:1] in (["self"], ["cls"]))


def wide_functions(source):
    """Names of functions that take more than MOST_PARAMETERS."""
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [function.name for function in functions if parameters(function) > MOST_PARAMETERS]


def uses_of(names, source):
    """How often a module says one of the names: reads or writes it, or takes it as an argument; imports do not count."""
    return sum(
        (isinstance(node, ast.Name) and node.id in names) or (isinstance(node, ast.arg) and node.arg in names)
        for node in ast.walk(ast.parse(source))
    )


def crowded_folders(root):
    """Folders below `root` with more than MOST_FILES files, what Python compiles not counted."""
    folders = [root, *(path for path in root.rglob("*") if path.is_dir() and path.name != "__pycache__")]
    files = {folder: [path for path in folder.iterdir() if path.is_file()] for folder in folders}
    return {folder.relative_to(root).as_posix() for folder in folders if len(files[folder]) > MOST_FILES}


def test_no_function_takes_more_than_twelve_arguments():
    found = {f"{path.relative_to(PACKAGE).as_posix()} {name}" for path in modules() for name in wide_functions(path.read_text())}
    assert found - WIDE == set()


@pytest.mark.parametrize(
    ("source", "found"),
    [
        (f"def f({', '.join(f'a{n}' for n in range(13))}): ...", ["f"]),
        (f"class A:\n def f(self, {', '.join(f'a{n}' for n in range(12))}): ...", []),
        (f"async def f({', '.join(f'a{n}' for n in range(10))}, *b, c, **d): ...", ["f"]),
    ],
)
def test_a_wide_function_is_found(source, found):
    assert wide_functions(source) == found


def test_no_folder_holds_more_than_seventeen_files():
    assert crowded_folders(PACKAGE) - CROWDED == set()


def test_a_crowded_folder_is_found(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    for at in range(MOST_FILES):
        (tmp_path / "a" / f"{at}.py").touch()
        (tmp_path / "a" / "b" / f"{at}.py").touch()
    assert crowded_folders(tmp_path) == set()
    (tmp_path / "a" / "b" / "one_more.toml").touch()
    assert crowded_folders(tmp_path) == {"a/b"}


def test_types_are_said():
    assert sum(uses_of({"Any"}, path.read_text()) for path in modules()) <= MOST_ANY


def test_names_say_what_they_hold():
    assert sum(uses_of(VAGUE, path.read_text()) for path in modules()) <= MOST_VAGUE_NAMES


@pytest.mark.parametrize(
    ("source", "names", "count"),
    [
        ("from typing import Any\ndef f(a: Any, b: dict[str, Any]) -> int: ...", {"Any"}, 2),
        ("def f(told):\n    found = told.kept\n    return found", VAGUE, 4),
        ("x = 'told'  # found", VAGUE, 0),
    ],
)
def test_uses_of_names_are_counted(source, names, count):
    assert uses_of(names, source) == count
