import json

import numpy as np
import pytest
from matplotlib.figure import Figure
from report_results import CLIP, RAS_STEPS, WARMUP, make_results

from janoscope.report.analysis.importance import ImportanceMaps, draw_importance, importance_maps, importance_words
from janoscope.report.analysis.view import read_view
from janoscope.report.drawing.style import styled


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_results(tmp_path_factory.mktemp("importance"), grid=CLIP)


def test_maps_are_those_of_the_middle_frame(made):
    data = importance_maps(read_view(made.directory))
    assert (list(data.steps), data.warmup) == (list(RAS_STEPS), WARMUP)
    stored = made.arrays["ras_importance_steps"].reshape(len(RAS_STEPS), *CLIP.tokens)
    np.testing.assert_allclose(data.ras, stored[:, 1])
    assert not np.allclose(data.ras, stored[:, 0])
    of_step = {row["step"]: row["spearman"] for row in made.facts["ras_predicts"] if row["target"] == "reuse_error"}
    assert list(data.spearman[1:]) == [of_step[step] for step in RAS_STEPS]


def test_all_ras_maps_share_one_scale_and_the_jano_map_has_its_own():
    jano, ras = np.full((2, 3), 0.5), np.stack([np.full((2, 3), 4.0), np.full((2, 3), 2.0), np.full((2, 3), np.nan)])
    jano[0, 0] = 1.0
    data = ImportanceMaps(jano, ras, (0, 4, 9), 5, (0.5, None, -0.25, 0.0))
    with styled():
        ax = draw_importance(data, Figure().add_subplot())
    shown = [image.get_array()[..., :3] for image in ax.images]
    np.testing.assert_array_equal(shown[0][1, 1], shown[2][1, 1])  # half of either scale
    np.testing.assert_array_equal(shown[0][0, 0], shown[1][0, 0])  # the top of either
    assert not np.array_equal(shown[1], shown[2])
    assert len(np.unique(shown[3].reshape(-1, 3), axis=0)) == 1  # what is not known is no low value
    assert not np.array_equal(shown[3][0, 0], shown[2][0, 0])
    words = [text.get_text() for text in ax.texts]
    assert words == ["JANO, 5 steps", "+0.50", "step 0", "–", "step 4", "-0.25", "step 9", "+0.00"]
    assert [bar.get_xlim()[1] for bar in ax.child_axes] == [1.0, 4.0]


def test_masked_tokens_are_shown_as_unknown(made, tmp_path):
    masked = np.zeros(CLIP.count, bool)
    masked[7] = True
    np.savez(tmp_path / "analysis.npz", **made.arrays | {"masked_tokens": masked})
    for name in ("analysis.json", "plan.json"):
        (tmp_path / name).write_bytes((made.directory / name).read_bytes())
    results = read_view(tmp_path)
    assert np.flatnonzero(np.isnan(results.token_map("reuse_error"))).tolist() == [7]
    assert np.isfinite(results.token_map("complexity_enhanced")).all()


def test_words_say_that_nothing_was_measured(made, tmp_path):
    for name in ("analysis.npz", "plan.json"):
        (tmp_path / name).write_bytes((made.directory / name).read_bytes())
    facts = json.loads((made.directory / "analysis.json").read_text()) | {"map_predicts": [], "ras_predicts": []}
    (tmp_path / "analysis.json").write_text(json.dumps(facts))
    results = read_view(tmp_path)
    assert importance_words(results) == "No correlation was measured."
    assert set(importance_maps(results).spearman) == {None}
