"""What users read is plain English: docs, page templates, help texts and every sentence that the package prints."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "janoscope"
# word that one would have to learn here -> what everyone says; a table of examples, not a list to be worked off
PRIVATE = {
    r"(probe )?sheets?": "probe",
    r"holding costs?|costs? of holding": "reuse error",
    r"held(?![ -]out)|hold(s|ing)? (a |the )?(token|output)s?": "reused, reuse",
    r"(step )?ladders?": "step schedule",
    r"(?<!into )accounts?": "run summary",
    r"foretells?|foretold": "predicts",
    r"told": "the noun of the thing",
    r"cliffs?|notch(es)?": "sensitivity",
    r"strays?|strayed": "outliers, diverges",
    r"run by run|less the other": "paired difference",
    r"pictures?": "image",
    r"clips?": "video",
    r"verbs?": "command",
    r"benches": "benchmarks",
    r"(held|measured) against": "verified against, compared with",
    r"mend(s|ed|ing)?": "fix",
    r"quirks?": "bug-compatible",
    r"out of turn": "unscheduled full step",
    r"let the libraries speak": "show log output",
    r"really trained|trained from nothing": "trained from scratch",
    r"(?<!Pareto )(?<!in )(?<!of )fronts?(?! end)(?!-end)": "Pareto front",
    r"compute \d\.\d+": "56 % of the FLOPs",
}
# files in which old words must stay -> why
EXCEPTIONS = {
    "docs/changelog.md": "what was renamed, from what to what",
}
# how many are still there; they may only become fewer
LIMITS = {"docs": 0, "package": 37, "templates": 0}

_CODE = re.compile(
    r"```.*?```|`[^`\n]*`|\{[{%].*?[%}]\}|<(script|style)\b.*?</\1>|</?[a-z][^>]*>|https?://\S+|\]\([^)]*\)", re.DOTALL
)
_PRIVATE = {re.compile(rf"(?<![\w./=_-])(?:{word})(?![\w/=_]|\.\w|-\w)"): better for word, better in PRIVATE.items()}


def private_words(text):
    """(line number, word, better word) of every private word in a text; code, markup and addresses do not count."""
    prose = _CODE.sub(lambda code: re.sub(r"[^\n]", " ", code[0]), text)
    hits = [
        (prose.count("\n", 0, hit.start()) + 1, hit[0], better)
        for word, better in _PRIVATE.items()
        for hit in word.finditer(prose)
    ]
    return sorted(hits)


def sentences(source):
    """(line, text) of what a module may show: its strings of several words, but no docstrings other than those of commands."""
    tree = ast.parse(source)
    silent = {id(node.body[0].value) for node in ast.walk(tree) if _has_docstring(node) and not _is_command(node)}
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [(node.lineno, node.value) for node in texts if id(node) not in silent and " " in node.value.strip()]


def _has_docstring(node):
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    return isinstance(node, kinds) and ast.get_docstring(node) is not None


def _is_command(node):
    """Whether click makes a command of a function, whose docstring is then its help text."""
    return any(re.search(r"(^|\.)(command|group)\b", ast.unparse(one)) for one in getattr(node, "decorator_list", []))


def found_in(paths):
    """(how many files, `file:line: word` of every private word in them), exceptions left out."""
    return len(paths), [
        f"{name}:{line}: {word} (say: {better})"
        for path in paths
        if (name := path.relative_to(ROOT).as_posix()) not in EXCEPTIONS
        for line, word, better in private_words(path.read_text(encoding="utf-8"))
    ]


def shown_by_the_package():
    paths = sorted(PACKAGE.rglob("*.py"))
    return len(paths), [
        f"{path.relative_to(ROOT).as_posix()}:{start + line - 1}: {word} (say: {better})"
        for path in paths
        for start, text in sentences(path.read_text(encoding="utf-8"))
        for line, word, better in private_words(text)
    ]


PLACES = {
    "docs": lambda: found_in([ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]),
    "package": shown_by_the_package,
    "templates": lambda: found_in(sorted((PACKAGE / "report" / "templates").glob("*.j2"))),
}


@pytest.mark.parametrize("place", PLACES)
def test_users_meet_no_private_word(place):
    texts, hits = PLACES[place]()
    assert texts > 3, "what is never read breaks no law"
    assert len(hits) <= LIMITS[place], "\n".join(hits)


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_an_exception_exists_and_is_one(name):
    assert private_words((ROOT / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The probe sheet says it.\nA clip and its picture.", ["probe sheet", "clip", "picture"]),
        (
            "`sheet` is the alias, see [it](docs/sheet.md).\n```\nladder = 3\n```\nheld-out prompts, in front of the mended one",
            ["mended"],
        ),
        ("the Pareto front, and another front at compute 0.56", ["compute 0.56", "front"]),
        ("{{ picture }} and <img class='picture'> and <p>picture</p>", ["picture"]),
        ("A probe, an image, a video: 56 % of the FLOPs. It holds no file; clip_grad stays.", []),
    ],
)
def test_a_private_word_is_found(text, words):
    assert sorted(word for _, word, _ in private_words(text)) == sorted(words)


@pytest.mark.parametrize(
    ("source", "texts"),
    [
        ("raise InputError(f'{path} is no picture; mend it.')", [" is no picture; mend it."]),
        ("def f():\n    '''The picture of it.'''\n    return table['picture']", []),
        ("@click.command()\ndef f():\n    '''Draw a picture.'''", ["Draw a picture."]),
        ("option('--x', help='The clip. Or ' 'two.')", ["The clip. Or two."]),
    ],
)
def test_what_a_module_shows_is_read(source, texts):
    assert [text for _, text in sentences(source)] == texts
