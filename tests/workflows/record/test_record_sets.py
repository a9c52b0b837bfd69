"""Sets of prompts: every file kind, the manifest, reruns, ranks."""

import csv
import json
import sys
import time

import pytest

from janoscope.errors import InputError
from janoscope.parallel.tasks import Rank, fan_out
from janoscope.pipeline.call import CallOptions
from janoscope.pipeline.model_options import ModelOptions
from janoscope.pipeline.prompts import Prompt, read_prompts
from janoscope.recording import open_recording
from janoscope.workflows.record import many as sets
from janoscope.workflows.record.manifest import Entry, Manifest, sha256_of
from janoscope.workflows.record.many import SetRecipe, plan_set

TEXTS = ["a cat on the grass", "a dog, red", "the blue sky"]
SHORT = ("--height", 112, "--width", 176, "-q", "--call", "max_sequence_length=16", "--steps", 2, "--no-output")


def texts(path, column=None) -> list[str]:
    return [prompt.text for prompt in read_prompts(path, column)]


def test_plain_text_is_a_prompt_a_line(tmp_path):
    (tmp_path / "p.txt").write_text("\n".join([TEXTS[0], "", f"  {TEXTS[1]} ", TEXTS[2], ""]))
    assert texts(tmp_path / "p.txt") == TEXTS


def test_vbench_full_info(tmp_path):
    entries = [{"prompt_en": text, "dimension": ["subject_consistency"], "auxiliary_info": {"color": {}}} for text in TEXTS]
    (tmp_path / "VBench_full_info.json").write_text(json.dumps(entries))
    assert texts(tmp_path / "VBench_full_info.json") == TEXTS


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_tables_with_a_header(tmp_path, ending):
    with (tmp_path / f"p.{ending}").open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if ending == "tsv" else ",")
        writer.writerows([["id", "prompt", "concept"], *([i, text, f"concept {i}"] for i, text in enumerate(TEXTS))])
    assert texts(tmp_path / f"p.{ending}") == TEXTS
    assert texts(tmp_path / f"p.{ending}", "concept") == ["concept 0", "concept 1", "concept 2"]


def test_a_quoted_prompt_may_run_over_lines(tmp_path):
    (tmp_path / "p.csv").write_text('prompt,id\n"a cat\non the grass",1\n"say ""hi""",2\n')
    assert texts(tmp_path / "p.csv") == ["a cat on the grass", 'say "hi"']


def test_a_prompt_may_hold_any_character_but_the_end_of_its_line(tmp_path):
    odd = "a cat\u2028on the\u0085grass"
    (tmp_path / "p.txt").write_text(f"{odd}\r\n{TEXTS[2]}\r\n", newline="")
    (tmp_path / "p.csv").write_text(f"prompt,id\r\n{odd},1\r\n{TEXTS[2]},2\r\n", newline="")
    (tmp_path / "p.jsonl").write_text(f'{{"prompt": "{odd}"}}\n{{"prompt": "{TEXTS[2]}"}}\n')
    for name in ("p.txt", "p.csv", "p.jsonl"):
        assert texts(tmp_path / name) == ["a cat on the grass", TEXTS[2]]


def test_json_lines_and_lists_of_texts(tmp_path):
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"caption": text, "n": 1}) + "\n" for text in TEXTS))
    (tmp_path / "p.json").write_text(json.dumps(TEXTS))
    assert texts(tmp_path / "p.jsonl") == texts(tmp_path / "p.json") == TEXTS


def test_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="reading Parquet needs pyarrow, which is optional")
    table = sys.modules["pyarrow"].table({"prompt": TEXTS, "factor": ["colour", "breed", "time"]})
    parquet.write_table(table, tmp_path / "p.parquet")
    assert texts(tmp_path / "p.parquet") == TEXTS
    assert texts(tmp_path / "p.parquet", "factor") == ["colour", "breed", "time"]
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no table PAR1")
    with pytest.raises(InputError, match=r"broken\.parquet cannot be read"):
        read_prompts(tmp_path / "broken.parquet")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match="pip install pyarrow"):
        read_prompts(tmp_path / "p.parquet")


@pytest.mark.parametrize(
    ("name", "content", "column", "message"),
    [
        ("p.csv", "id,words\n1,a cat\n", None, "has columns id, words; say which holds the prompts with --prompt-column"),
        ("p.csv", "id,prompt\n1,a cat\n", "promt", "has no column 'promt'; it has id, prompt"),
        ("p.csv", "prompt\na cat\na dog, red\n", None, r"line 3 has more fields than the header's 1; .*double quotes"),
        ("p.csv", 'id,prompt\n1,"a\ncat"\n2,a dog, red\n', None, "line 4 has more fields than the header's 2"),
        ("p.txt", "a cat\n", "prompt", "--prompt-column has no effect"),
        ("p.txt", "\n \n", None, "holds no prompt"),
        ("p.json", '{"prompt": "a cat"}', None, "holds a dict; a list of texts or of tables is needed"),
        ("p.json", '["a cat", {"prompt": "x"}]', None, "mixes kinds of entries"),
        ("p.json", "[", None, "is not JSON"),
        ("p.txt", "\udcff", None, "cannot be read"),
        ("missing.txt", None, None, "cannot be read"),
    ],
)
def test_a_file_that_gives_no_prompts_is_refused(tmp_path, name, content, column, message):
    if content is not None:
        (tmp_path / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=message):
        read_prompts(tmp_path / name, column)


def test_file_names_sort_and_can_be_read():
    assert Prompt(7, "A cat, on the: grass!").stem == "0007-a-cat-on-the-grass"
    assert Prompt(12, "猫").stem == "0012"
    assert len(Prompt(3, "word " * 40).stem) <= 45


def record_prompts(janoscope, saved, tmp_path, *more):
    (tmp_path / "p.txt").write_text("\n".join(TEXTS))
    return janoscope("record", saved("flux"), *SHORT, "--prompts", tmp_path / "p.txt", "-o", tmp_path / "set", *more)


def manifest(tmp_path) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / "set" / "manifest.jsonl").read_text().splitlines()]


def test_one_recording_a_prompt_and_a_manifest_that_tells(saved, janoscope, tmp_path):
    said = record_prompts(janoscope, saved, tmp_path)
    assert said.code == 0, said.err
    lines = manifest(tmp_path)
    assert [line["prompt"] for line in lines] == TEXTS
    for line in lines:
        path = tmp_path / "set" / line["file"]
        assert (line["status"], line["sha256"], line["bytes"]) == ("complete", sha256_of(path), path.stat().st_size)
        with open_recording(path) as recording:
            assert recording.provenance["run"]["prompt"] == line["prompt"]
    assert len({line["sha256"] for line in lines}) == 3


def test_a_rerun_skips_what_is_complete_and_replaces_what_is_not(saved, janoscope, tmp_path):
    record_prompts(janoscope, saved, tmp_path)
    first = manifest(tmp_path)
    kept, cut, gone = (tmp_path / "set" / line["file"] for line in first)
    stale = cut.with_name(cut.stem + ".partial.h5")
    cut.rename(stale)  # as a crash would leave it
    gone.write_bytes(gone.read_bytes()[:-10])  # no longer what the manifest says
    before = kept.stat().st_mtime_ns
    loud = [word for word in SHORT if word != "-q"]
    said = janoscope("record", saved("flux"), *loud, "--prompts", tmp_path / "p.txt", "-o", tmp_path / "set")
    assert said.code == 0, said.err
    assert "1 recordings are complete and are skipped." in said.err
    assert f"{stale.name} is left from a recording that did not finish; it is replaced." in said.err
    assert "Wrote 2 recordings" in said.out
    assert "1 were there, 0 failed" in said.out
    assert kept.stat().st_mtime_ns == before
    assert not stale.exists()
    assert [line["file"] for line in manifest(tmp_path)] == [line["file"] for line in first] + [cut.name, gone.name]
    for path in (cut, gone):
        with open_recording(path) as recording:
            assert recording.verify() == []


def test_other_options_or_prompts_do_not_pass_for_done(saved, janoscope, tmp_path):
    record_prompts(janoscope, saved, tmp_path)
    said = record_prompts(janoscope, saved, tmp_path, "--seed", 9)
    assert said.code == 2
    assert "was recorded with another model or other options; take another directory, or pass --force." in said.err
    (tmp_path / "q.txt").write_text("a cat on the grass\na dog; red\n")
    said = janoscope("record", saved("flux"), *SHORT, "--prompts", tmp_path / "q.txt", "-o", tmp_path / "set")
    assert "0001-a-dog-red.h5 was recorded for another prompt" in said.err
    (tmp_path / "q.txt").write_text("a bird\n")
    said = janoscope("record", saved("flux"), *SHORT, "--prompts", tmp_path / "q.txt", "-o", tmp_path / "set")
    assert (said.code, len(manifest(tmp_path))) == (2, 3)
    assert "0000-a-cat-on-the-grass.h5 was recorded for another prompt" in said.err, "no file of the same name"
    assert record_prompts(janoscope, saved, tmp_path, "--seed", 9, "--force").code == 0
    assert [line["seed"] for line in manifest(tmp_path)] == [0, 0, 0, 9, 9, 9]


def plan_of(directory, texts, recipe, **options):
    return plan_set(directory, [Prompt(index, text) for index, text in enumerate(texts)], recipe, **options)


def test_a_longer_list_goes_on_and_a_file_of_unknown_origin_is_not_replaced(tmp_path):
    recipe = SetRecipe("demo", ModelOptions(), CallOptions(""))
    (tmp_path / "0000-a.h5").write_bytes(b"123")
    with pytest.raises(InputError, match=r"0000-a\.h5 exists and manifest\.jsonl does not know it; .*--force"):
        plan_of(tmp_path, "ab", recipe)
    with pytest.raises(InputError, match=r"0000-a\.h5 is no recording and would be replaced"):
        plan_of(tmp_path, "ab", recipe, force=True)
    Manifest(tmp_path).append(Entry("0000-a.h5", 0, "a", 0, "complete", recipe.key, bytes=3))
    assert [task.prompt.text for task in plan_of(tmp_path, "ab", recipe).tasks] == ["b"]
    assert [task.prompt.text for task in plan_of(tmp_path, "abc", recipe).tasks] == ["b", "c"]
    with pytest.raises(InputError, match="for another prompt"):
        plan_of(tmp_path, "ba", recipe)
    with pytest.raises(InputError, match="for another prompt"):
        plan_of(tmp_path, "ba", recipe, rank=Rank(1, 2))
    (tmp_path / "0000-a.h5").unlink()
    assert len(plan_of(tmp_path, "ba", recipe).tasks) == 2, "what was taken away binds nobody"


@pytest.mark.parametrize("kind", ["policy", "probe"])
def test_the_recipe_knows_what_its_files_say_and_not_where_they_lie(tmp_path, kind):
    def key(path) -> str:
        given = {"policy": str(path)} if kind == "policy" else {}
        return SetRecipe("demo", ModelOptions(probe=path if kind == "probe" else None), CallOptions(""), **given).key

    one, same, other = (tmp_path / f"{name}.toml" for name in ("one", "same", "other"))
    for path, text in ((one, "a = 1"), (same, "a = 1"), (other, "a = 2")):
        path.write_text(text)
    assert key(one) == key(same) != key(other)
    assert key("jano/flux") != key("jano/other"), "presets have no file"


def test_a_file_is_no_directory_of_a_set(saved, janoscope, tmp_path):
    (tmp_path / "set").write_text("mine")
    said = record_prompts(janoscope, saved, tmp_path)
    assert (said.code, len(said.err.splitlines())) == (2, 1)
    assert "is a file; --prompts needs a directory" in said.err


@pytest.mark.parametrize("failure", [RuntimeError, KeyError, OSError])
def test_a_prompt_that_fails_costs_itself_only(saved, janoscope, tmp_path, monkeypatch, failure):
    honest = sets.record_model

    def failing(model, call, path, **options):
        if "dog" in call.prompt:
            raise failure("out of luck")
        return honest(model, call, path, **options)

    monkeypatch.setattr(sets, "record_model", failing)
    said = record_prompts(janoscope, saved, tmp_path)
    assert said.code == 1
    assert said.err.splitlines() == [f"0001-a-dog-red.h5: {failure.__name__}: {failure('out of luck')}"]
    assert [line["status"] for line in manifest(tmp_path)] == ["complete", "failed", "complete"]
    monkeypatch.setattr(sets, "record_model", honest)
    assert record_prompts(janoscope, saved, tmp_path).code == 0
    assert [line["status"] for line in manifest(tmp_path)] == ["complete", "failed", "complete", "complete"]


def test_ranks_share_prompts_without_overlap(saved, janoscope, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert "Wrote 1 recordings" in record_prompts(janoscope, saved, tmp_path).out
    assert [line["index"] for line in manifest(tmp_path)] == [1]
    monkeypatch.setenv("RANK", "0")
    assert "Wrote 2 recordings" in record_prompts(janoscope, saved, tmp_path).out
    assert [line["index"] for line in manifest(tmp_path)] == [1, 0, 2]
    assert "1 were there" in record_prompts(janoscope, saved, tmp_path).out.replace("2 were", "1 were")
    monkeypatch.setenv("RANK", "5")
    assert "RANK 5 of WORLD_SIZE 2" in record_prompts(janoscope, saved, tmp_path).err


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shares_cover_everything_once(count):
    tasks = list(range(11))
    shares = [Rank(index, count).share(tasks) for index in range(count)]
    assert sorted(task for share in shares for task in share) == tasks


def test_ctrl_c_in_a_set_is_written_down_and_the_rest_is_left_for_a_rerun(saved, tmp_path, fork):
    from janoscope.cli import main

    model, many = saved("flux"), [word if word != 2 else 1500 for word in SHORT]
    (tmp_path / "p.txt").write_text("\n".join(TEXTS))

    def work() -> None:
        arguments = ["record", model, *many, "--prompts", tmp_path / "p.txt", "-o", tmp_path / "set"]
        sys.argv = ["janoscope", *map(str, arguments)]
        main()

    process = fork(work)
    while not (tmp_path / "set" / "0000-a-cat-on-the-grass.partial.h5").exists():  # the suite's own time limit ends a hang
        time.sleep(0.01)
    assert process.interrupt() == 130, process.said.read_text()
    assert [(line["index"], line["status"]) for line in manifest(tmp_path)] == [(0, "interrupted")]
    with open_recording(tmp_path / "set" / "0000-a-cat-on-the-grass.partial.h5", partial=True) as recording:
        assert recording.end_reason == "interrupted"


def test_a_line_torn_by_a_crash_is_passed_over_and_one_with_other_fields_is_not(tmp_path):
    book = Manifest(tmp_path)
    entry, other = Entry("0000-a.h5", 0, "a", 0, "complete", "key", "sum", 3, 2), Entry("0001-b.h5", 1, "b", 0, "failed", "key")
    book.append(entry)
    with book.path.open("a") as file:
        file.write('{"file": "0002')
    assert book.read() == {"0000-a.h5": entry}
    book.append(other)
    assert book.read() == {"0000-a.h5": entry, "0001-b.h5": other}
    with book.path.open("a") as file:
        file.write('{"name": "0003-c.h5"}\n')
    with pytest.raises(InputError, match=r"manifest\.jsonl line 4 is damaged: lacks .file."):
        book.read()


def test_the_last_line_of_a_file_counts(tmp_path):
    book, recipe = Manifest(tmp_path), SetRecipe("demo", ModelOptions(), CallOptions(""))
    (tmp_path / "0000-a.h5").write_bytes(b"123")
    for status in ("complete", "failed"):
        book.append(Entry("0000-a.h5", 0, "a", 0, status, recipe.key, bytes=3))
    assert len(plan_set(tmp_path, [Prompt(0, "a")], recipe).tasks) == 1
    book.append(Entry("0000-a.h5", 0, "a", 0, "complete", recipe.key, bytes=3))
    assert plan_set(tmp_path, [Prompt(0, "a")], recipe).tasks == ()


def test_options_of_sets_alone_are_refused(saved, janoscope, tmp_path):
    for options, message in (
        (("-p", "a cat", "--ray", "auto"), "--ray has no effect without --prompts FILE."),
        (("-p", "a cat", "--prompt-column", "x"), "--prompt-column has no effect without --prompts FILE."),
        ((), "give -p PROMPT or --prompts FILE, one of the two."),
    ):
        said = janoscope("record", saved("flux"), *SHORT, *options, "-o", tmp_path / "run.h5")
        assert said.code == 2
        assert message in said.err


def test_work_that_nobody_has_loads_no_model():
    def make():
        raise AssertionError("a model was loaded for nothing")

    assert list(fan_out([], make)) == []
    assert list(fan_out([1], make, rank=Rank(1, 2))) == []
