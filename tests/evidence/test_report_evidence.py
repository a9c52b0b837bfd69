"""reports/: every folder draws itself again to the same bytes, and what the README says comes from there."""

import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from janoscope.cli.app import janoscope as command
from janoscope.errors import InputError
from janoscope.evidence import render_report
from janoscope.evidence.page import estimate, table
from janoscope.evidence.recipe import BUNDLED, read_recipe, slug_of

ROOT = Path(__file__).parents[2]
REPORTS = sorted(path.parent for path in (ROOT / "reports").glob("*/recipe.toml"))
DRAWN = [folder for folder in REPORTS if (folder / "report.md").is_file()]
NAMES = [folder.name for folder in DRAWN]


def copied(folder, tmp_path):
    return Path(shutil.copytree(folder, tmp_path / folder.name))


def test_reports_are_found():
    assert {"fig2-ras", "fig3-maps", "fig4-6-gallery", "map-predicts-convergence", "performance", "table1"} <= set(NAMES)


@pytest.mark.parametrize("folder", DRAWN, ids=NAMES)
def test_a_report_draws_itself_again_to_the_same_bytes(folder, tmp_path):
    copy = copied(folder, tmp_path)
    shutil.rmtree(copy / "figures", ignore_errors=True)
    (copy / "report.md").unlink()
    written = render_report(copy)
    assert (copy / "report.md").read_bytes() == (folder / "report.md").read_bytes()
    committed = {path.name for path in (folder / "figures").glob("*")}
    assert {path.name for path in written[1:]} == committed
    shown = set(re.findall(r"\]\(figures/([^)]+)\)", (copy / "report.md").read_text()))
    assert shown == committed


def test_another_result_gives_another_report(tmp_path):
    copy = copied(ROOT / "reports" / "fig3-maps", tmp_path)
    path = copy / "demo" / "maps.json"
    facts = json.loads(path.read_text())
    facts["runs"][0]["ras"]["spearman"][0] += 0.1
    path.write_text(json.dumps(facts))
    render_report(copy)
    assert (copy / "report.md").read_bytes() != (ROOT / "reports" / "fig3-maps" / "report.md").read_bytes()


@pytest.mark.parametrize("folder", DRAWN, ids=NAMES)
def test_no_quick_run_is_kept_and_nothing_large(folder):
    made = [json.loads(path.read_text()) for path in folder.glob("*/made.json")]
    assert not any(facts["quick"] for facts in made)
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 6 * 2**20
    assert not list(folder.rglob("*.h5"))


def evidence_rows():
    """(slug, sentence) of every line of the README's table of results."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- evidence -->\n(.*?)\n\n", text, re.S)
    assert block is not None
    return re.findall(r"^\| \[[^]]+\]\(reports/([^/]+)/report\.md\) \| (.*) \|$", block[1], re.M)


def numbers_missing(sentence, report):
    """Numbers of a sentence that the result lines of a report do not hold."""
    results = "\n".join(line for line in report.splitlines() if re.match(r"\*\*\w+\.\*\* ", line))
    stored = {float(number) for number in re.findall(r"(?<![\w.])[+-]?\d+(?:\.\d+)?", results)}
    quoted = re.findall(r"(?<![\w.])([+-]?\d+\.\d+|\d+(?= %))( %)?", re.sub(r"(Wan-?|Wan)\d[\w.-]*", "", sentence))
    shares = {float(number) for number in re.findall(r"(\d+(?:\.\d+)?) ?%", results)}
    return [number + percent for number, percent in quoted if float(number) not in (shares if percent else stored)]


def test_the_numbers_of_the_readme_stand_in_the_reports_it_names():
    rows = evidence_rows()
    assert len(rows) >= 10
    for slug, sentence in rows:
        report = (ROOT / "reports" / slug / "report.md").read_text(encoding="utf-8")
        assert re.search(r"\d", sentence)
        assert numbers_missing(sentence, report) == [], slug


def test_a_number_that_is_in_no_report_is_found():
    report = "**Result.** JANO 46.3 dB at 57 % of the FLOPs; 58.0; -0.16.\n\n| 9.9 |\n"
    assert numbers_missing("46.3 dB at 57 %, -0.16", report) == []
    assert numbers_missing("46.4 dB at 58 %, 0.16, 9.9", report) == ["46.4", "58 %", "0.16", "9.9"]


def test_the_readme_shows_pictures_of_reports_only():
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert pictures
    assert all(path.startswith("reports/") and (ROOT / path).is_file() for path in pictures)


def test_the_list_of_reports_names_every_one():
    listed = set(re.findall(r"\]\(([^/)]+)/report\.md\)", (ROOT / "reports" / "README.md").read_text(encoding="utf-8")))
    assert listed == set(NAMES)


RECIPE = """
kind = "comparison"
title = "T"
claim = "C"
[[subject]]
model = "demo"
probe = "flux"
prompts = ["a red apple"]
"""


def written(tmp_path, text):
    (tmp_path / "recipe.toml").write_text(text)
    return tmp_path


def test_all_faults_of_a_recipe_are_named_at_once(tmp_path):
    text = RECIPE.replace('title = "T"', "").replace('probe = "flux"', "call = { size = 3 }\nseeds = []\nmethod = [{ spek = 1 }]")
    with pytest.raises(InputError) as refusal:
        read_recipe(written(tmp_path, text))
    missing = ("title is missing", "probe is missing", "lacks its spec")
    for part in (*missing, "call has no size", "seeds is []", "a method has no spek"):
        assert part in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "holds no recipe.toml"),
        ("kind = ", "is not TOML"),
        (RECIPE.replace("comparison", "painting"), "no kind 'painting'"),
        (RECIPE, "holds no results"),
        (RECIPE.replace('["a red apple"]', '"absent.txt"'), "absent.txt cannot be read"),
        (RECIPE + RECIPE[RECIPE.index("[[") :], "two subjects are named demo"),
    ],
)
def test_what_cannot_be_drawn_is_refused(tmp_path, text, words):
    if text is not None:
        written(tmp_path, text)
    with pytest.raises(InputError, match=re.escape(words)):
        render_report(tmp_path)
    assert not (tmp_path / "report.md").exists()


def test_options_of_a_remake_are_refused_without_it(tmp_path):
    result = CliRunner().invoke(command, ["report", str(written(tmp_path, RECIPE)), "--model", "demo", "--steps", "3"])
    assert result.exit_code == 2
    assert "--model, --steps" in result.output
    assert "--remake" in result.output


def test_a_model_gives_its_folder_a_name():
    assert slug_of("black-forest-labs/FLUX.1-dev") == "flux.1-dev"
    assert [slug_of(name) for name in BUNDLED] == ["demo", "demo-video", "demo-latte"]


def test_tables_set_figures_to_the_right_and_keep_bars_apart():
    assert table(("a|b", "n"), [("x", "1.5 [1.0, 2.0]"), ("y", "–")]).splitlines()[1] == "| --- | ---: |"
    assert table(("a|b",), [("x",)]).startswith("| a\\|b |")
    assert estimate(1.234, [1, 2]) == "1.23 [1.00, 2.00]"
    assert estimate(1.234, None) == "1.23"
    assert estimate(None, [1, 2]) == "–"


def test_a_quick_run_is_named_where_a_report_has_no_models_too(tmp_path):
    copy = copied(ROOT / "reports" / "table2-memory", tmp_path)
    for quick in (True, False):
        (copy / "made.json").write_text(json.dumps({"quick": quick}))
        assert ("A quick run" in render_report(copy)[0].read_text()) is quick
