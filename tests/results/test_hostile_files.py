"""No file that somebody sends, edits or damages gives anything but a result or one line (exit code 2)."""

import json
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import hostile
import numpy as np
import pytest

from janoscope.decode import DEEPEST, decode_json, decode_toml, read_text
from janoscope.errors import InputError
from janoscope.evidence.recipe import read_recipe
from janoscope.grid import TokenGrid
from janoscope.pipeline.prompts import read_prompts
from janoscope.pipeline.provenance import text_of_probe
from janoscope.plan import Fingerprint, Policy, make_plan
from janoscope.probe import load_probe, probe_paths
from janoscope.results.files import append_line, read_arrays, read_journal
from janoscope.results.plan_file import read_plan
from janoscope.workflows.apply.departures import departures
from janoscope.workflows.calibrate.runs import Ran, TimedStep
from janoscope.workflows.record.gather import gather_shards
from janoscope.workflows.record.manifest import COMPLETE, Entry, read_entries

FEW, MANY = 300, 3000
CALIBRATED = """
name = "calibrated/demo"
warmup = 2
cooldown = 1
tile = [1, 4, 4]
temporal_weight = 0.5
padding = "count"
enhance = { strength = 0.8, distance = 2 }
tokens = "majority"
thresholds = { static = 0.1, moderate = 0.5 }
intervals = { static = 8, moderate = 5, active = 1 }
output = "hold"
cache = { strategy = "kv", forecast = false }
source = "here"
[measured_on]
model = "demo"
steps = 12
scheduler = "FlowMatchEulerDiscreteScheduler"
tokens = [1, 4, 4]
guidance = 3.5
size = { height = 64, width = 64 }
transformer = { class = "T", sha256 = "abcdef0123456789" }
psnr = { mean = 33.5, prompts = 3 }
"""
RUN = {"transformer": {"class": "U"}, "scheduler": "S", "steps": 9, "size": {"height": 32}, "tokens": [1, 2, 2], "guidance": 2.0}


def plan_text() -> bytes:
    grid = TokenGrid(4, (1, 8, 8), (1, 2, 2))
    made_for = Fingerprint("demo", {"class": "T"}, grid, 12, {"class": "S"}, {"scale": 1.0}, "a cat", 0)
    scores = np.linspace(0, 1, 4).reshape(1, 2, 2)
    return make_plan(Policy.from_toml(CALIBRATED), scores, made_for).to_text().encode()


def use_plan(path: Path) -> None:
    plan = read_plan(path)
    plan.to_text().encode(errors="surrogateescape")
    plan.describe()
    plan.ranks.sum()
    assert plan.fingerprint.difference(plan.fingerprint) == []


def use_policy(path: Path) -> None:
    policy = Policy.from_toml(read_text(path, "policy", "Write it."), str(path))
    assert Policy.from_toml(policy.to_toml()) == policy or policy.measured_on or policy.enhance
    departures(policy, RUN)


def use_probe(path: Path) -> None:
    text_of_probe(load_probe(path))


def use_entries(path: Path) -> None:
    read_entries(path)
    with suppress(InputError):  # the files that it names are not there
        gather_shards([path])


RECIPE = """
kind = "comparison"
title = "Equal compute"
claim = "It is better."
source = "here"
repeats = 3
[[subject]]
model = "demo"
name = "image"
probe = "demo"
prompts = ["a cat", "a dog"]
seeds = [0, 1]
call = { steps = 12, height = 64 }
quick = { prompts = 1, steps = 6 }
methods = ["random", "uniform:k=2"]
policy = "demo"
[[subject.method]]
spec = "jano"
title = "Ours"
theirs = { psnr = 30.5, speedup = 2 }
headline = true
"""
ENTRIES = b"".join(
    json.dumps(asdict(Entry(f"000{at}-a.h5", at, "a", 0, COMPLETE, "key", "sum", 3, 2))).encode() + b"\n" for at in range(3)
)
RUNS = b"".join(
    json.dumps(asdict(Ran(f"{at}", "a", 0, 1.0, 30.0, 0.5, (TimedStep("full", 1.0, 0.1),), ("w",), {"name": "demo"}))).encode()
    + b"\n"
    for at in range(3)
)
KINDS = {
    "plan.json": (plan_text(), hostile.of_json, use_plan),
    "policy.toml": (CALIBRATED.encode(), hostile.of_toml, use_policy),
    "probe.toml": (next(p for p in probe_paths() if p.stem == "flux").read_bytes(), hostile.of_toml, use_probe),
    "recipe.toml": (RECIPE.encode(), hostile.of_toml, lambda path: read_recipe(path.parent)),
    "manifest.jsonl": (ENTRIES, hostile.of_lines, use_entries),
    "runs.jsonl": (RUNS, hostile.of_lines, lambda path: read_journal(path, Ran, "journal", "Remove that line.")),
    "prompts.txt": (b"a cat\nein Hund\n\nnoch \xc3\xa4\n", hostile.of_bytes, read_prompts),
    "prompts.csv": (b'prompt,kind\n"a cat, red",1\na dog,2\n', hostile.of_bytes, read_prompts),
    "prompts.tsv": (b"prompt\tkind\na cat\t1\na dog\t2\n", hostile.of_bytes, read_prompts),
    "prompts.json": (b'[{"prompt_en": "a cat", "dimension": ["x"]}, {"prompt_en": "a dog"}]', hostile.of_json, read_prompts),
    "prompts.jsonl": (b'{"prompt": "a cat"}\n{"prompt": "a dog", "n": 1}\n', hostile.of_lines, read_prompts),
}


def tried(name: str, folder: Path, count: int) -> tuple[int, int]:
    content, mutants, read = KINDS[name]
    return hostile.read_all(mutants(content, count), folder / name, read)


@pytest.mark.parametrize("name", KINDS)
def test_a_mutant_is_read_or_refused_in_one_line(tmp_path, name):
    taken, refused = tried(name, tmp_path, FEW)
    assert taken + refused == FEW
    assert taken > 5, "everything was refused: the good file is not read either"
    assert refused > 5, "nothing was refused: the mutants are too tame"


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_thousands_of_mutants_are_read_or_refused_in_one_line(tmp_path, name):
    assert sum(tried(name, tmp_path, MANY)) == MANY


def test_a_fault_that_a_reader_lets_through_is_seen(tmp_path):
    def careless(path: Path) -> None:
        assert json.loads(path.read_bytes())["schema"]

    with pytest.raises(AssertionError, match=r"mutant \d+ of plan\.json: \w+Error"):
        hostile.read_all(hostile.of_json(plan_text(), FEW), tmp_path / "plan.json", careless)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "it is nested too deeply"),
        ("[" * (DEEPEST + 2) + "]" * (DEEPEST + 2), f"it is nested more than {DEEPEST} deep"),
        ("9" * 5000, "Exceeds the limit"),
        ("9" * 400, "it holds an integer of more than 64 bits"),
        ("1e999", "it holds inf, which is no number"),
        ("NaN", "it holds nan, which is no number"),
        ('["\\ud800"]', r"it holds \ud800, half a character"),
        ("{", "Expecting property name"),
    ],
)
def test_json_that_would_break_later_is_refused_where_it_is_read(text, said):
    with pytest.raises(InputError, match=r"^x\.json .*Write it again\.$") as refusal:
        decode_json(text, "x.json", "Write it again.")
    assert said in str(refusal.value)


def test_what_lies_within_the_bounds_is_read():
    assert decode_json('{"a": [1, 18446744073709551615, -0.5, "\\udcff", "\\ud83d\\ude00"]}', "x", "") == {
        "a": [1, 2**64 - 1, -0.5, "\udcff", "😀"]
    }
    assert decode_toml("a = nan", "x", "")["a"] != 0


def test_a_named_pipe_that_nobody_writes_to_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "plan.json")
    with pytest.raises(InputError, match="is not JSON"):
        read_plan(tmp_path / "plan.json")


def read_runs(path: Path) -> list[Ran]:
    return read_journal(path, Ran, "journal of runs", "Remove that line.")


def test_a_journal_drops_a_torn_line_and_says_so(tmp_path):
    path = tmp_path / "runs.jsonl"
    whole = RUNS.splitlines(keepends=True)
    for end in range(1, len(whole[2]) - 1):
        path.write_bytes(whole[0] + whole[1] + whole[2][:end])
        with pytest.warns(RuntimeWarning, match=r"runs\.jsonl: line 3 was torn by a crash and counts as not written"):
            assert [ran.key for ran in read_runs(path)] == ["0", "1"]
    append_line(path, {**json.loads(whole[2]), "key": "new"})
    with pytest.warns(RuntimeWarning, match="line 3 was torn"):
        assert [ran.key for ran in read_runs(path)] == ["0", "1", "new"]


@pytest.mark.parametrize("line", [b'{"key": "2"}', b"[]", b"torn", b'{"key": 1} {"key": 2}', b"\xff"])
def test_a_journal_refuses_a_line_of_another_shape_with_its_number(tmp_path, line):
    path = tmp_path / "runs.jsonl"
    path.write_bytes(RUNS + line + b"\n")
    with pytest.raises(InputError, match=r"runs\.jsonl line 4 .*Remove that line"):
        read_runs(path)


def test_a_journal_gives_what_was_appended(tmp_path):
    ran = Ran("k", "a \ud800 cat\u2028é", 3, 1.5, 30.0, 0.5, (TimedStep("full", 1.0, 0.1),), ("w",), {"name": "demo"})
    plain = Ran("p", "ein Hündchen", 3, 1.5)
    append_line(tmp_path / "runs.jsonl", asdict(plain))
    assert "Hündchen" in (tmp_path / "runs.jsonl").read_text(encoding="utf-8")
    assert read_runs(tmp_path / "runs.jsonl") == [plain]
    append_line(tmp_path / "runs.jsonl", asdict(ran))
    with pytest.raises(InputError, match="half a character"):
        read_runs(tmp_path / "runs.jsonl")


def test_arrays_larger_than_their_file_are_refused(tmp_path):
    path = tmp_path / "analysis.npz"
    np.savez_compressed(path, a=np.zeros(10**7))
    assert path.stat().st_size < 10**5
    with pytest.raises(InputError, match="claims 80000128 bytes"):
        read_arrays(path, "arrays", "Run it again.")
    np.savez(path, a=np.arange(3))
    assert read_arrays(path, "arrays", "Run it again.")["a"].tolist() == [0, 1, 2]
