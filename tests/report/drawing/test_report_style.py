import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from janoscope.plan import StepKind, TokenLevel
from janoscope.report.drawing.style import KIND_COLOUR, LEVEL_COLOUR, styled

# Machado, Oliveira, Fernandes 2009, severity 1, for linear RGB
BLINDNESS = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
RED_GREEN = ("#d62728", "#2ca02c")
APART_LIGHTNESS = 15
APART_COLOUR = 25


def linear(colour):
    rgb = np.array(to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(linear_rgb):
    """CIE L*a*b* (D65)."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ np.clip(linear_rgb, 0, 1)
    ratio = xyz / np.array([0.9505, 1.0, 1.089])
    f = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def smallest_lightness_step(colours):
    lightness = sorted(lab(linear(colour))[0] for colour in colours)
    return min(np.diff(lightness))


def smallest_distance(colours, matrix):
    places = [lab(np.array(matrix) @ linear(colour)) for colour in colours]
    return min(np.linalg.norm(a - b) for at, a in enumerate(places) for b in places[at + 1 :])


def test_levels_stay_apart_in_grey():
    assert smallest_lightness_step(LEVEL_COLOUR.values()) > APART_LIGHTNESS
    assert smallest_lightness_step(RED_GREEN) < APART_LIGHTNESS  # the measure finds a bad pair


@pytest.mark.parametrize("kind", BLINDNESS)
def test_levels_stay_apart_for_colour_blind_eyes(kind):
    assert smallest_distance(LEVEL_COLOUR.values(), BLINDNESS[kind]) > APART_COLOUR


def test_the_measure_of_colour_blindness_finds_a_bad_pair():
    assert smallest_distance(("#7f7f00", "#a06000"), BLINDNESS["deutan"]) < APART_COLOUR


def test_every_level_and_kind_has_one_colour():
    assert set(LEVEL_COLOUR) == set(TokenLevel)
    assert set(KIND_COLOUR) == set(StepKind)
    assert len(set(KIND_COLOUR.values())) == len(StepKind)


def test_a_partial_step_has_the_colour_of_the_least_level_it_computes():
    assert KIND_COLOUR[StepKind.MODERATE] == LEVEL_COLOUR[TokenLevel.MODERATE]
    assert KIND_COLOUR[StepKind.ACTIVE] == LEVEL_COLOUR[TokenLevel.ACTIVE]


def test_style_is_undone_and_does_not_inherit_the_callers():
    with matplotlib.rc_context({"lines.linewidth": 9.0}):
        with styled():
            assert matplotlib.rcParams["lines.linewidth"] == 1.5
        assert matplotlib.rcParams["lines.linewidth"] == 9.0


def test_report_needs_neither_torch_nor_pyplot():
    code = "import sys, janoscope.report; print(sorted({'torch', 'matplotlib.pyplot', 'click', 'diffusers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


GROUNDS = {"default": "#ffffff", "slate": "#1e2129"}  # of mkdocs-material
SITE = Path(__file__).parents[3] / "docs" / "site.css"


def contrast(one, other):
    """WCAG 2.1: (lighter + 0.05) / (darker + 0.05)."""
    dark, light = sorted(float(np.dot([0.2126, 0.7152, 0.0722], linear(colour))) for colour in (one, other))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", GROUNDS)
@pytest.mark.parametrize("name", ["--md-typeset-a-color", "--md-accent-fg-color"])
def test_links_of_the_site_are_readable_in_light_and_dark(scheme, name):
    css = SITE.read_text(encoding="utf-8")
    rules = dict(re.findall(r"^([^\n{/]+?) \{ (.+) \}$", css, re.MULTILINE))
    own = dict(re.findall(r"(--[\w-]+): (#\w+);", rules[":root"] + rules[f'[data-md-color-scheme="{scheme}"]']))
    assert contrast(own[name], GROUNDS[scheme]) >= 4.5
    assert contrast("#1d3a6e", GROUNDS["slate"]) < 1.5  # what stood there: the measure finds it


def test_no_page_of_the_docs_shows_a_backslash_before_a_pipe():
    """Python-Markdown leaves it in code; words say the alternatives."""
    pages = sorted((SITE.parent).glob("*.md"))
    assert len(pages) > 20
    assert [page.name for page in pages if re.search(r"`[^`\n]*\\\|[^`\n]*`", page.read_text(encoding="utf-8"))] == []
