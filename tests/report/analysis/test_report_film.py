from dataclasses import replace

import numpy as np
import pytest
from report_results import CLIP, make_results, record_as_epsilon

from janoscope.errors import InputError
from janoscope.report.analysis.film import draw_x0_strip, film_steps, fit_colours, read_film, to_colours
from janoscope.report.analysis.view import read_view
from janoscope.report.drawing.style import new_panel, styled


def test_fit_recovers_an_affine_map_exactly():
    rng = np.random.default_rng(1)
    latent = rng.standard_normal((3, 2, 5, 7))
    true = np.array([[0.1, 0, 0.05], [0, 0.08, 0], [0.02, 0.01, 0.1], [0.5, 0.4, 0.6]])  # the last row is the offset
    picture = (np.moveaxis(latent, 0, -1) @ true[:3] + true[3]).reshape(2, 5, 7, 3)
    colours, fit = fit_colours(latent, picture)
    np.testing.assert_allclose(colours, true, atol=1e-12)
    assert fit == pytest.approx(1)
    np.testing.assert_allclose(to_colours(latent, colours), np.clip(picture, 0, 1), atol=1e-12)


def test_fit_says_so_when_the_latent_does_not_explain_the_picture():
    rng = np.random.default_rng(2)
    assert fit_colours(rng.standard_normal((2, 1, 17, 19)), rng.random((1, 17, 19, 3)))[1] < 0.1


def test_film_is_the_recorded_estimates_and_ends_at_the_picture(tmp_path):
    made = make_results(tmp_path)
    results = read_view(made.directory)
    film = read_film(results)
    assert list(film.steps) == [0, 2, 3, 5, 7, 9, 10, 12]
    latents = results.grid.unpack(made.x0[list(film.steps)])
    cells = made.picture[:, 4::8, 4::8] / 255
    colours, fit = fit_colours(latents[-1], cells)
    np.testing.assert_allclose(film.frames, [to_colours(latent[:, 0], colours) for latent in latents], atol=1e-4)
    assert film.fit == pytest.approx(fit, abs=1e-4)
    error = np.abs(film.frames - cells[0]).mean(axis=(1, 2, 3))
    assert error[-1] < 0.01 < error[0]  # from a guess to the picture


def test_film_of_a_clip_shows_its_middle_frame(tmp_path):
    made = make_results(tmp_path, grid=CLIP)
    film = read_film(read_view(made.directory))
    cells = made.picture[:, 4::8, 4::8] / 255
    distance = [np.abs(film.frames[-1] - frame).mean() for frame in cells]
    assert np.argmin(distance) == 1
    assert film.frames.shape == (8, 10, 14, 3)


def test_film_reads_the_output_by_its_prediction_type(tmp_path):
    results = read_view(make_results(tmp_path).directory)
    right = read_film(results)
    results.facts["conversion"]["prediction_type"] = "v_prediction"
    assert not np.allclose(read_film(results).frames, right.frames, atol=0.05)


def test_film_of_an_epsilon_model_is_that_of_the_same_run_read_as_flow(tmp_path):
    made = make_results(tmp_path)
    record_as_epsilon(made, tmp_path / "epsilon.h5")
    flow, epsilon = read_view(made.directory), read_view(made.directory, tmp_path / "epsilon.h5")
    epsilon.facts["conversion"]["prediction_type"] = "epsilon"
    epsilon = replace(epsilon, image=flow.image)  # none lies beside the new file
    by_flow, by_epsilon = read_film(flow, count=13), read_film(epsilon, count=12)
    assert list(by_epsilon.steps) == list(range(1, 13))
    np.testing.assert_allclose(by_epsilon.frames, by_flow.frames[1:], atol=2e-3)


def test_epsilon_leaves_out_steps_that_say_nothing_about_x0(tmp_path):
    results = read_view(make_results(tmp_path).directory)
    assert film_steps(results, 3) == [0, 6, 12]
    results.facts["conversion"]["prediction_type"] = "epsilon"
    assert results.arrays["alpha"][0] == 0
    assert film_steps(results, 3) == [1, 7, 12]


def test_refuses_the_recording_of_another_run(tmp_path):
    results = read_view(make_results(tmp_path).directory)
    other = tmp_path / "other"
    other.mkdir()
    make_results(other, grid=CLIP)
    with pytest.raises(InputError, match=r"run.h5 has 13 steps on .*analyze this recording again"):
        read_film(read_view(results.directory, other / "run.h5"))


def test_strip_shows_the_frames_with_their_steps(tmp_path):
    film = read_film(read_view(make_results(tmp_path).directory), count=3)
    with styled():
        ax = draw_x0_strip(film, new_panel(3, 1)[1])
    for image, frame in zip(ax.images, film.frames, strict=True):
        np.testing.assert_array_equal(image.get_array(), frame)
    assert [text.get_text() for text in ax.texts] == ["0", "6", "12"]
