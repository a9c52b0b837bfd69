"""The pages about recording name what the program has."""

import re
from pathlib import Path

from tiny_pipelines import FAMILIES

from janoscope.capture import parse_tap
from janoscope.cli.record import record

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "recording.md").read_text(encoding="utf-8")
COMMON = {"--device", "--dtype", "--prompt", "--force", "--quiet", "--verbose", "--output"}  # the same for every verb


def test_every_option_of_record_is_documented():
    options = {flag for parameter in record.params for flag in parameter.opts if flag.startswith("--")}
    assert options - COMMON == {option for option in options - COMMON if option in PAGE}


def test_documented_options_exist():
    options = {flag for parameter in record.params for flag in parameter.opts}
    of_others = {"--partial", "--json", "--nproc-per-node"}
    assert set(re.findall(r"--[a-z][a-z-]+", PAGE)) <= options | of_others


def test_documented_taps_are_taps():
    taps = re.findall(r"--tap (\S+)", re.search(r"janoscope record demo.*--tap.*", PAGE).group(0))
    assert [parse_tap(tap).name for tap in taps] == ["transformer_blocks.0.output", "transformer_blocks.3.output"]


def test_the_table_of_limits_has_a_row_for_every_family():
    section = (DOCS / "limits.md").read_text(encoding="utf-8").partition("## Recording")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (?!family|---)", section, re.MULTILINE)
    assert len(rows) == len(FAMILIES)
