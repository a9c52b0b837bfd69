"""Markup in every string that a user or a file can bring stays text: in every page and in every SVG."""

import json
import shutil
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest
from comparison_results import write as write_comparison
from report_results import add_applied, make_results

from janoscope.report import render_aggregate, render_analysis
from janoscope.report.calibration import render_calibration
from janoscope.report.comparison.figures import render_comparison
from janoscope.workflows.analyze.aggregate import write_aggregate

MARK = (
    """ "'><script>alert(1)</script><img src=x onerror=alert(2)><svg onload=alert(3)></svg></style></title></textarea>"""
    """--></script><a href="javascript:alert(4)">a</a><iframe src=//x></iframe>{{ 7*7 }}{% raw %}&#x3C;b&#x3E;]]>\x07\udcff"""
)
CSP = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
# words that are looked up, and names of files that are opened: another word there is another file, or none
FIXED = {"schema", "level", "prediction_type", "map", "output", "reference", "recording", "kind", "target", "groups"}
CALIBRATION = Path(__file__).parents[2] / "reports" / "calibrate-demo" / "steps-50" / "calibration.json"


class Tags(HTMLParser):
    """Every tag with its attributes, and the text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def marked(value, key=""):
    """The same JSON with MARK behind every string, and behind the keys of free tables."""
    if isinstance(value, dict) and key == "policy":  # what else it holds is a choice, and refused where it is none
        return value | {name: value[name] + MARK for name in ("name", "source") if name in value}
    if isinstance(value, dict):
        free = key in ("versions", "nonfinite", "guidance", "call")
        return {name + MARK * free: marked(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [marked(inner, key) for inner in value]
    return value + MARK if isinstance(value, str) and key not in FIXED else value


def plant(path):
    path.write_text(json.dumps(marked(json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8")


def analysis(folder):
    made = make_results(folder, prompt="a cat")
    add_applied(made)
    facts = json.loads((made.directory / "analysis.json").read_text())
    facts |= {"notes": ["a note"], "verdict": {"level": "weak", "sentence": "weak"}, "apply_refused": "no"}
    (made.directory / "analysis.json").write_text(json.dumps(facts))
    return made.directory


def render_one(folder, planting):
    directory = analysis(folder)
    if planting:
        for name in ("analysis.json", "apply.json"):
            plant(directory / name)
        plan = json.loads((directory / "plan.json").read_text())
        for section, names in (("fingerprint", ("model", "prompt", "scheduler")), ("policy", ("name", "source"))):
            for name in names:
                if isinstance(plan[section][name], str):
                    plan[section][name] += MARK
        (directory / "plan.json").write_text(json.dumps(plan))
    return render_analysis(directory), directory / "figures"


def render_several(folder, planting):
    directory = analysis(folder)
    write_aggregate([directory, directory], folder)
    if planting:
        facts = json.loads((folder / "aggregate.json").read_text())
        facts["recordings"] = [{**row, "recording": row["recording"] + MARK} for row in facts["recordings"]]
        facts["map_predicts"] = [
            {**row, "map": row["map"] + MARK, "target": row["target"] + MARK} for row in facts["map_predicts"]
        ]
        own = facts.pop("id", None)  # ties the arrays to the facts, and is refused where it is another one
        (folder / "aggregate.json").write_text(json.dumps(facts | {"verdict": {"level": "weak", "sentence": "weak"}}))
        plant(folder / "aggregate.json")
        facts = json.loads((folder / "aggregate.json").read_text())
        (folder / "aggregate.json").write_text(json.dumps(facts | {"id": own}))
    return render_aggregate(folder), folder / "aggregate-figures"


def render_compared(folder, planting):
    write_comparison(folder)
    if planting:
        facts = json.loads((folder / "comparison.json").read_text())
        pictures = {label + MARK: name for label, name in facts["pictures"].items()}
        facts = marked({name: value for name, value in facts.items() if name != "pictures"}) | {"pictures": pictures}
        facts["missing"] = {f"lpips{MARK}": f"none{MARK}"}
        (folder / "comparison.json").write_text(json.dumps(facts))
    render_comparison(folder)
    return folder / "report.html", folder / "figures"


def render_calibrated(folder, planting):
    shutil.copy(CALIBRATION, folder / "calibration.json")
    facts = json.loads((folder / "calibration.json").read_text()) | {"note": "a note", "left_out": ["one"]}
    facts["surrogate"]["measure"] = "PSNR (dB)"
    (folder / "calibration.json").write_text(json.dumps(facts))
    if planting:
        plant(folder / "calibration.json")
    render_calibration(folder)
    return folder / "report.html", folder / "figures"


RENDERERS = [render_one, render_several, render_compared, render_calibrated]


@pytest.mark.parametrize("render", RENDERERS, ids=["analysis", "aggregate", "comparison", "calibration"])
def test_no_tag_attribute_or_script_of_what_was_planted_is_found(render, tmp_path):
    pages = {}
    for planting in (False, True):
        (tmp_path / str(planting)).mkdir()
        page, figures = render(tmp_path / str(planting), planting)
        pages[planting] = Tags(page.read_text(encoding="utf-8"))
        drawings = sorted(figures.glob("*.svg"))
        assert drawings
        for drawing in drawings:
            for part in ElementTree.fromstring(drawing.read_bytes()).iter():  # whole: an SVG that is no XML is not shown
                assert part.tag.rpartition("}")[2] not in ("script", "img", "foreignObject", "iframe", "a")
                assert not [name for name in part.attrib if name.lower().startswith("on") or "javascript:" in part.attrib[name]]
    clean, planted = pages[False], pages[True]
    assert "alert(1)" not in clean.text
    assert "alert(1)" in planted.text  # as words
    assert "{{ 7*7 }}" in planted.text
    for tag in ("script", "style", "iframe", "a", "textarea", "title", "meta", "link"):
        assert count(planted, tag) == count(clean, tag), tag
    for _, attributes in planted.tags:
        assert not [name for name in attributes if name.startswith("on")]
        links = [attributes[name] or "" for name in ("src", "href") if name in attributes]
        assert all(link.startswith(("data:", "#")) for link in links), links
    assert [a["content"] for tag, a in planted.tags if a.get("http-equiv") == "Content-Security-Policy"] == [CSP]


def count(page, tag):
    return sum(name == tag for name, _ in page.tags)


def test_the_look_finds_what_is_not_escaped():
    page = Tags(f"<p>{MARK}</p>")
    assert count(page, "script") == 1
    assert [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
