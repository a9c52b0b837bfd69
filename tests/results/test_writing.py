"""The one writer: a file is whole under its name or not there, whatever stops the writing and whatever lies in the way."""

import os
import stat

import numpy as np
import pytest

from janoscope.results import writing
from janoscope.results.writing import holds_nothing, is_leftover, made_whole, write_arrays, write_json, write_png, write_text


class Killed(BaseException):
    """In the place of a SIGKILL: nothing catches it."""


@pytest.mark.parametrize("at", ["open", "write", "rename"])
@pytest.mark.parametrize("earlier", [None, "earlier"])
def test_a_stop_leaves_the_earlier_file_or_none(tmp_path, monkeypatch, at, earlier):
    path = tmp_path / "analysis.json"
    if earlier is not None:
        path.write_text(earlier)

    def stop(what, _):
        if what == at:
            raise Killed

    monkeypatch.setattr(writing, "point", stop)
    with pytest.raises(Killed):
        write_json(path, {"a": 1})
    assert (path.read_text() if path.exists() else None) == earlier


def test_a_link_in_the_way_is_replaced_and_never_written_through(tmp_path):
    victim, path = tmp_path / "victim", tmp_path / "out" / "report.html"
    path.parent.mkdir()
    victim.write_text("precious")
    for name in ("report.html", "report.html.tmp", ".report.html.making"):
        (path.parent / name).symlink_to(victim)
    write_text(path, "page")
    assert victim.read_text() == "precious"
    assert not path.is_symlink()
    assert path.read_text() == "page"


def test_no_two_writers_share_a_name(tmp_path):
    with made_whole(tmp_path / "plan.json") as one, made_whole(tmp_path / "plan.json") as other:
        one.write_text("one")
        other.write_text("other")
        assert one != other
    assert (tmp_path / "plan.json").read_text() in ("one", "other")
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_an_error_leaves_nothing_in_the_making(tmp_path):
    with pytest.raises(ValueError, match="Object arrays"):
        write_arrays(tmp_path / "a.npz", {"a": np.array([object()])})
    with pytest.raises(OSError, match="full"), made_whole(tmp_path / "a.png"):
        raise OSError("full")
    assert list(tmp_path.iterdir()) == []


def test_files_have_the_permissions_that_the_user_wants(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "a")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


def test_the_ending_is_kept_for_encoders_that_go_by_it(tmp_path):
    with made_whole(tmp_path / "clip.mp4") as making:
        assert making.suffix == ".mp4"
        assert is_leftover(making)
    assert not is_leftover(tmp_path / "clip.mp4")


def test_an_image_is_read_back(tmp_path):
    from janoscope.results.images import read_frames

    clip = np.arange(3 * 8 * 6 * 3, dtype=np.uint8).reshape(3, 8, 6, 3)
    assert np.array_equal(read_frames(write_png(tmp_path / "a.png", clip), ""), clip)


def test_half_a_character_is_replaced_and_undecodable_bytes_are_kept(tmp_path):
    assert write_text(tmp_path / "a", "é\udcff").read_bytes() == "é".encode() + b"\xff"
    assert write_text(tmp_path / "a", "é\ud800").read_text(encoding="utf-8") == "é\ufffd"


def test_a_directory_with_leftovers_alone_holds_nothing(tmp_path):
    (tmp_path / "a" / "pictures").mkdir(parents=True)
    (tmp_path / "a" / "pictures" / ".00-full.0123456789abcdef.making.png").touch()
    assert holds_nothing(tmp_path / "a")
    assert holds_nothing(tmp_path / "none")
    (tmp_path / "a" / ".hidden").touch()
    assert not holds_nothing(tmp_path / "a")
