import base64
import io

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image
from report_results import CLIP, make_results
from test_report_page import Page

from janoscope.plan import TokenLevel
from janoscope.report import player, render_analysis
from janoscope.report.analysis.view import read_view
from janoscope.report.drawing.style import LEVEL_COLOUR
from janoscope.report.player import encode, video_player


def pixels(address):
    kind, _, data = address.partition(";base64,")
    with Image.open(io.BytesIO(base64.b64decode(data))) as opened:
        assert kind == f"data:image/{opened.format.lower()}"
        return np.asarray(opened.convert("RGB"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_results(tmp_path_factory.mktemp("player"), grid=CLIP)


def test_every_frame_is_there_with_the_levels_of_its_tokens(made):
    results = read_view(made.directory)
    found = video_player(results)
    assert [token for _, token in found.shown] == [0, 1, 2]
    for at, address in enumerate(found.frames):
        shown = pixels(address).astype(int)
        assert shown.shape == made.picture[at].shape
        errors = [np.abs(shown - frame).mean() for frame in made.picture]
        assert np.argmin(errors) == at
        assert errors[at] < 8
    for address, ranks in zip(found.overlays, results.levels, strict=True):
        for level in TokenLevel:
            expected = np.round(255 * np.array(to_rgb(LEVEL_COLOUR[level])))
            assert (pixels(address)[ranks == level.rank] == expected).all()


def test_a_picture_has_no_player(tmp_path):
    made = make_results(tmp_path)
    assert video_player(read_view(made.directory)) is None
    assert 'class="player"' not in render_analysis(made.directory).read_text(encoding="utf-8")


def test_page_of_a_clip_holds_the_player(made):
    page = Page(render_analysis(made.directory).read_text(encoding="utf-8"))
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    assert [attrs["class"] for attrs in images] == ["frame"] * 3 + ["over"] * 3
    assert ["hidden" in attrs for attrs in images] == [False, True, True] * 2  # without script the first frame stands there
    assert all(attrs["src"].startswith("data:image/") and attrs["alt"] for attrs in images)


def test_size_is_bounded_by_quality_and_then_by_frames(monkeypatch):
    clip = list(np.random.default_rng(0).integers(0, 256, (12, 48, 64, 3), dtype=np.uint8))
    whole, kept = encode(clip)
    size = sum(map(len, whole))
    assert kept == list(range(12))
    monkeypatch.setattr(player, "MOST_BYTES", int(0.8 * size))
    coarser, kept = encode(clip)
    assert kept == list(range(12))
    assert sum(map(len, coarser)) <= 0.8 * size
    monkeypatch.setattr(player, "MOST_BYTES", int(0.2 * size))
    fewer, kept = encode(clip)
    assert sum(map(len, fewer)) <= 0.2 * size
    assert kept[:2] == [0, kept[1]]
    assert len(kept) == len(fewer) < 12
