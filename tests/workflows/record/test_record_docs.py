"""The pages about recording name what the program has."""

import re
import shlex
from pathlib import Path

import pytest
from tiny_pipelines import FAMILIES

from janoscope.capture import parse_tap
from janoscope.cli.record import record
from janoscope.pipeline.model_directory import bundled_directory
from janoscope.recording import open_recording

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "recording.md").read_text(encoding="utf-8")
COMMON = {"--device", "--dtype", "--prompt", "--force", "--quiet", "--verbose", "--output"}  # the same for every verb


def test_every_option_of_record_is_documented():
    options = {flag for parameter in record.params for flag in parameter.opts if flag.startswith("--")}
    assert options - COMMON == {option for option in options - COMMON if option in PAGE}


def test_documented_options_exist():
    options = {flag for parameter in record.params for flag in parameter.opts}
    of_others = {"--partial", "--json", "--nproc-per-node"}
    assert set(re.findall(r"--[a-z][a-z-]+", PAGE)) <= options | of_others


@pytest.mark.skipif(not (bundled_directory("demo") / "model_index.json").is_file(), reason="the image model is not trained here")
def test_the_documented_taps_record_on_the_demo(janoscope, tmp_path):
    command = shlex.split(re.search(r"janoscope (record demo.*--tap.*)", PAGE).group(1))
    names = {parse_tap(tap).name for tap in command if ":" in tap or tap.startswith("transformer_blocks")}
    assert len(names) == 2
    said = janoscope(*command, "--steps", 2, "-q", "-o", tmp_path / "run.h5")
    assert said.code == 0, said.err
    with open_recording(tmp_path / "run.h5") as recording:
        assert names <= set(recording.signals)
    said = janoscope(*command, "--tap", "transformer_blocks.3", "--steps", 2, "-q", "-o", tmp_path / "other.h5")
    assert "no module 'transformer_blocks.3' to tap" in said.err, "control"


def test_the_table_of_limits_has_a_row_for_every_family():
    section = (DOCS / "limits.md").read_text(encoding="utf-8").partition("## Recording")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (?!family|---)", section, re.MULTILINE)
    assert len(rows) == len(FAMILIES)
