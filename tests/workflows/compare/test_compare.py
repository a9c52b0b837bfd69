"""Methods on a tiny pipeline: what each computes, that one code measures all, and that none leaves a trace."""

import json
import logging
import sys
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tiny_models import calls, tiny_model

from janoscope.cli.app import janoscope as command
from janoscope.cli.options import CallFlags
from janoscope.errors import ExecutionError, InputError, JanoscopeError
from janoscope.pipeline.call import CallOptions
from janoscope.plan import Cache, Plan, random_scores
from janoscope.report.comparison.figures import fronts_of, read_comparison, render_comparison, strip
from janoscope.results import writing
from janoscope.results.comparison import ComparisonFiles, load_comparison, ready_directory, save_comparison
from janoscope.workflows.compare import cache_context as branches
from janoscope.workflows.compare import contest as compare_module
from janoscope.workflows.compare.contest import calls_of, compare, make_method
from janoscope.workflows.compare.methods import with_levels_by
from janoscope.workflows.compare.policies import policy_maker
from janoscope.workflows.compare.spec import Options, parse_spec


@pytest.fixture(scope="module")
def model():
    return tiny_model(true_cfg_scale=2.0, negative_prompt="red")


METHODS = ("jano", "random", "random:draw=steps", "oracle", "ras:start=2,end=N,resets=5", "uniform:k=2", "uniform:k=3")
METHODS += (
    "uniform:k=2,output=forecast",
    "fewer-steps:steps=4",
    "fewer-steps:compute=0.75",
    "policy:keys=forecast,output=forecast",
)
CACHES = (
    "first-block-cache:threshold=0",
    "taylorseer:interval=2,warmup=2",
    "pab:k=2,low=0,high=1000",
    "magcache:threshold=1",
    "dbcache",
    "dbcache:taylorseer=true",
)


@pytest.fixture(scope="module")
def comparison(model):
    before = {name: list(vars(module)) for name, module in model.pipe.transformer.named_modules() if name}
    made = compare(model, calls(model, ("a cat", "a dog"), (0, 1)), (*METHODS, *CACHES))
    assert {name: list(vars(module)) for name, module in model.pipe.transformer.named_modules() if name} == before
    return made


def computes(comparison, label):
    return set(comparison.row(label).values("compute").values())


def test_every_method_has_a_row_and_every_run_its_figures(comparison):
    assert [row.label for row in comparison.rows] == ["full", *METHODS, *CACHES]
    for row in comparison.rows:
        assert [run.key for run in row.runs] == [("a cat", 0), ("a cat", 1), ("a dog", 0), ("a dog", 1)], row.note
        assert all(run.wall_s > 0 and run.compute is not None for run in row.runs)
    assert comparison.row("full").values("psnr") == {}
    assert computes(comparison, "full") == {1.0}
    assert set(comparison.missing) == {"ms_ssim", "lpips"}


def test_a_row_that_is_not_there_is_refused_with_those_that_are(comparison):
    with pytest.raises(InputError, match=r"no row 'jno'; legal: 'full', 'jano'"):
        comparison.row("jno")


def test_compute_is_what_each_method_says_it_is(comparison):
    assert computes(comparison, "uniform:k=2") == computes(comparison, "uniform:k=2,output=forecast") == {6 / 8}
    assert computes(comparison, "uniform:k=3") == {5 / 8}
    assert computes(comparison, "fewer-steps:steps=4") == {4 / 8}
    assert computes(comparison, "fewer-steps:compute=0.75") == {6 / 8}
    assert computes(comparison, "random") == computes(comparison, "oracle") == computes(comparison, "jano")
    assert computes(comparison, "random:draw=steps") == computes(comparison, "jano")
    assert 0.5 < computes(comparison, "jano").pop() < 1.0
    assert 0.3 < computes(comparison, "taylorseer:interval=2,warmup=2").pop() < 0.8
    assert max(computes(comparison, "magcache:threshold=1")) < 1.0
    assert 0.5 < computes(comparison, "pab:k=2,low=0,high=1000").pop() < 1.0


def test_a_cache_that_never_hits_computes_everything_and_gives_the_same_picture(comparison):
    row = comparison.row("first-block-cache:threshold=0")
    assert computes(comparison, row.label) == {1.0}
    assert all(run.identical and run.psnr is None for run in row.runs)
    assert not any(run.identical for run in comparison.row("jano").runs)


def test_bytes_held_are_counted_for_theirs_and_ours(comparison):
    held = {row.label: max((run.cache_bytes or 0 for run in row.runs), default=0) for row in comparison.rows}
    assert held["full"] == held["uniform:k=2"] == 0
    assert held["policy:keys=forecast,output=forecast"] == 2 * held["jano"] > 0
    assert min(held[label] for label in CACHES[:4]) > 0


def test_an_extra_that_is_not_installed_is_a_row_that_says_so(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "cache_dit", None)
    made = compare(model, calls(model), ("dbcache",))
    assert "pip install 'janoscope[dbcache]'" in made.row("dbcache").note
    assert made.row("dbcache").runs == []


def test_cache_dit_is_not_heard_while_it_works(monkeypatch):
    """It logs on the stdout of who imported it first, so its loggers are asked. Control: before and after they may speak."""
    logger = logging.getLogger("cache_dit.of_this_test")
    method = make_method("dbcache")
    monkeypatch.setattr(
        method, "_generate", lambda *_: [logger.isEnabledFor(level) for level in (logging.WARNING, logging.ERROR)]
    )
    assert logger.isEnabledFor(logging.WARNING)
    assert method.generate(None, None, count=False) == [False, True]
    assert logger.isEnabledFor(logging.WARNING)


def test_attention_is_broadcast_within_a_branch(model, monkeypatch):
    """Control: with one state for both branches, as in diffusers, one branch gets the other's attention."""
    method = make_method("pab:k=2,low=0,high=1000")
    [call] = calls(model)
    apart, _ = method.generate(model, call, count=False)
    monkeypatch.setattr(branches.Branches, "_swap", lambda self: None)
    mixed, _ = method.generate(model, call, count=False)
    assert not np.array_equal(apart.frames, mixed.frames)


def test_the_report_is_rendered_from_the_files_alone(comparison, tmp_path):
    files = [*save_comparison(comparison, tmp_path), *render_comparison(tmp_path)]
    assert {file.name for file in files} >= {"comparison.json", "comparison.txt", "report.html", "pareto.svg", "grid.png"}
    facts = read_comparison(tmp_path)
    json.dumps(facts, allow_nan=False)
    fronts = {front.name: front for front in fronts_of(facts)}
    assert fronts["uniform"].compute.tolist() == [5 / 8, 6 / 8]
    assert fronts["uniform"].quality[1] == pytest.approx(comparison.to_json()["rows"][6]["mean"]["psnr"])
    page = (tmp_path / "report.html").read_text()
    assert "uniform:k=2,output=forecast" in page
    assert "dbcache:taylorseer=true" in page
    (tmp_path / "comparison.json").write_text("{}")
    with pytest.raises(InputError, match="no comparison of this version"):
        render_comparison(tmp_path)


def test_clips_are_shown_as_strips_and_side_by_side(tmp_path):
    model = tiny_model("wan")
    made = compare(model, calls(model), ("uniform:k=2",))
    files = [*save_comparison(made, tmp_path), *render_comparison(tmp_path)]
    [clip] = [file for file in files if file.stem == "side-by-side"]
    assert clip.stat().st_size > 0
    picture = made.pictures["full"]
    assert len(picture) > 1
    shown = strip(picture)
    assert shown.shape == (picture.shape[1], 3 * picture.shape[2], 3)
    assert np.array_equal(shown[:, -picture.shape[2] :], picture[-1])


def test_a_bare_pipeline_and_prompts_are_enough(tmp_path):
    """The rows are those of a Model and its calls. Control: options beside calls, which would be ignored, are refused."""
    model = tiny_model()
    size = CallOptions("", steps=8, height=112, width=176, extra={"max_sequence_length": 16})
    methods = ("jano:tile=1/4/4,warmup=2,cooldown=1", "uniform:k=2,warmup=2,cooldown=1")
    bare = compare(model.pipe, ["a cat", "a dog"], methods, seeds=(0, 1), call=size)
    assert [[run.key for run in row.runs] for row in bare.rows] == [[("a cat", 0), ("a cat", 1), ("a dog", 0), ("a dog", 1)]] * 3
    named = compare(model, calls_of(model, size, ["a cat"], [0]), methods)
    assert bare.row(methods[1]).values("psnr")["a cat", 0] == named.row(methods[1]).values("psnr")["a cat", 0]
    assert repr(bare) == f"<Comparison of {bare.model}: full and 2 methods on 4 calls>"
    bare.save(tmp_path / "made")
    assert (tmp_path / "made" / "comparison.json").is_file()
    with pytest.raises(InputError, match="calls alone"):
        compare(model, calls(model), methods, seeds=(1,))
    with pytest.raises(InputError, match="at least one prompt"):
        compare(model, [])


def test_a_method_that_changes_the_pipeline_is_found_out(monkeypatch):
    changed = tiny_model()

    class Careless:
        counts_apart = False
        spec = make_method("full").spec

        def generate(self, model, call, count):
            with torch.no_grad():
                model.pipe.transformer.proj_out.bias += 1
            return make_method("full").generate(model, call, count)

    def careless(spec):
        method = Careless()
        method.spec = spec
        return method

    monkeypatch.setitem(compare_module.METHODS, "careless", careless)
    with pytest.raises(ExecutionError, match="left the pipeline changed"):
        compare(changed, calls(changed), ("careless",))


def test_a_cache_that_fails_on_a_family_is_a_row_that_says_why_and_the_others_go_on():
    """First-block caching trips over Stable Diffusion 3's last block, which gives no text."""
    model = tiny_model("sd3")
    made = compare(model, calls(model), ("first-block-cache:threshold=9", "pab:low=0,high=1000", "jano"))
    note = made.row("first-block-cache:threshold=9").note
    assert note.startswith("failed: TypeError")
    assert note.endswith("(docs/comparing.md says which cache runs on which family)")
    assert made.row("first-block-cache:threshold=9").runs == []
    assert [len(row.runs) for row in made.rows] == [1, 0, 1, 1]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("nonsense", "no method 'nonsense'; legal: full, jano"),
        ("uniform:k", "NAME:key=value"),
        ("uniform:k=two", "k = 'two' cannot be read"),
        ("uniform:j=2", "no option j; uniform takes k"),
        ("uniform:output=guess", "legal: hold, forecast"),
        ("fewer-steps", "steps=N or compute=C"),
        ("ras:ratio=2", "ratio = 2.0"),
        ("full:k=1", "no option k"),
        ("jano:keys=forcast", "legal: hold, forecast"),
        ("jano:output=guess", "legal: hold, forecast"),
        ("jano:intervals=8.9/5/1", "intervals = '8.9/5/1' cannot be read"),
        ("jano:intervals=8/5/1/7", "3 numbers with slashes"),
        ("jano:preset=a,file=b", "one of the two"),
        ("jano:thresholds=0.1/0.2/0.3", "2 numbers with slashes"),
        ("jano:quantiles=0.5", "2 numbers with slashes"),
        ("jano:thresholds=0.1/0.2,quantiles=0.1/0.2", "one of the two"),
        ("fewer-steps:steps=0", "whole number from 1"),
        ("fewer-steps:compute=0", "above 0 and at most 1"),
        ("uniform:k=0", "whole number from 1"),
        ("schedule", "file=PATH, preset=NAME or every=K is needed"),
        ("schedule:every=0", "whole number from 1"),
        ("schedule:every=3,file=a.toml", "one of them"),
        ("schedule:file=a.toml,warmup=2", "warmup and cooldown belong to every=K"),
        ("schedule:every=3,output=guess", "legal: hold, forecast"),
        ("schedule:every=3,tile=1/4/4", "no option tile; schedule takes preset or file"),
        ("schedule:every=3,warmup=-1", r"schedule.warmup = -1; legal"),
    ],
)
def test_a_method_that_cannot_be_meant_is_refused(text, told):
    with pytest.raises(InputError, match=told):
        make_method(text)


@pytest.mark.parametrize(
    "text",
    ["jano:keys=hold", "jano:intervals=8/5/1", "random:thresholds=0.1/0.2", "fewer-steps:steps=1", "fewer-steps:compute=1"],
)
def test_the_right_spellings_are_taken(text):
    assert make_method(text).spec.text == text


def test_cache_options_change_the_policys_cache_and_nothing_else(model):
    def cache_of(text):
        spec = parse_spec(text)
        made = policy_maker(spec, Options(spec))(model)
        assert replace(made, cache=model.policy(None).cache) == model.policy(None)
        return made.cache

    assert cache_of("jano:cache=kv-int8") == Cache("kv-int8")
    assert cache_of("jano:cache=offload,device_mib=8.5,window=3") == Cache("offload", device_mib=8.5, window=3)
    assert cache_of("jano:keys=forecast") == Cache(forecast=True)
    with pytest.raises(InputError, match="window belong to strategy offload"):
        cache_of("jano:cache=hidden,window=3")


def test_a_policy_option_without_meaning_fails_with_the_fault(model):
    made = compare(model, calls(model), ("jano:quantiles=0.9/0.1",))
    assert "quantiles.moderate" in made.row("jano:quantiles=0.9/0.1").note


def test_levels_are_handed_out_by_score_in_the_same_numbers(model):
    from janoscope.execution import Executor
    from janoscope.pipeline.generate import generate

    with Executor(model.pipe, model.probe, policy=model.policy(None)) as executor:
        generate(model, calls(model)[0])
    plan: Plan = executor.plan
    scores = random_scores((1, 1, plan.ranks.size), 3).ravel()
    dealt = with_levels_by(plan, scores)
    assert np.bincount(dealt.ranks).tolist() == np.bincount(plan.ranks).tolist()
    assert (np.diff(dealt.ranks[np.argsort(scores)]) >= 0).all()
    assert (dealt.ranks != plan.ranks).any()
    assert with_levels_by(plan, plan.ranks.astype(float)).token_level == plan.token_level


def test_the_command_writes_a_directory_and_refuses_to_replace_it(model, tmp_path, monkeypatch):
    monkeypatch.setattr("janoscope.pipeline.model.load_model", lambda *_, **__: replace(model))
    monkeypatch.setattr(CallFlags, "options", lambda flags, prompt: CallOptions(prompt, seed=flags.seed))
    out, more, methods = tmp_path / "c", tmp_path / "prompts.txt", tmp_path / "methods.txt"
    more.write_text("a dog\n\n")
    methods.write_text("# every second step\nuniform:k=2\n")
    arguments = ["compare", "tiny", "-p", "a cat", "--prompts", str(more), "--methods", str(methods), "-o", str(out), "-q"]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "uniform:k=2" in result.stdout
    data = json.loads((out / "comparison.json").read_text())
    assert [len(row["runs"]) for row in data["rows"]] == [2, 2]
    monkeypatch.setattr("janoscope.pipeline.inputs.check_model", lambda *_, **__: None)  # it would look for a model named tiny
    again = CliRunner().invoke(command, arguments)
    assert isinstance(again.exception, JanoscopeError)
    assert "--force" in str(again.exception)
    without = CliRunner().invoke(command, ["compare", "tiny", "-o", str(tmp_path / "d")])
    assert without.exit_code == 2
    assert "PROMPT" in without.output


def _as_command(model, monkeypatch, *words):
    monkeypatch.setattr("janoscope.pipeline.model.load_model", lambda *_, **__: replace(model))
    monkeypatch.setattr(CallFlags, "options", lambda flags, prompt: CallOptions(prompt, seed=flags.seed))
    return CliRunner().invoke(command, ["compare", "tiny", "-q", *map(str, words)])


def test_prompts_come_from_tables_too(model, tmp_path, monkeypatch):
    (tmp_path / "p.csv").write_text('id,words,caption\n1,"a cat, red",no\n2,a dog,no\n')
    made = _as_command(
        model, monkeypatch, "--prompts", tmp_path / "p.csv", "--prompt-column", "words", "--method", "fewer-steps:steps=2",
        "-o", tmp_path / "c",
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    data = json.loads((tmp_path / "c" / "comparison.json").read_text())
    assert [run["prompt"] for run in data["rows"][0]["runs"]] == ["a cat, red", "a dog"]
    assert data["complete"] is True
    refused = _as_command(model, monkeypatch, "-p", "a cat", "--prompt-column", "words", "-o", tmp_path / "d")
    assert "no effect" in str(refused.exception)


def test_lpips_without_weights_is_an_empty_column_with_its_reason_and_without_its_package_refused(model, tmp_path, monkeypatch):
    def offline(**_):
        raise OSError("no route to the weights")

    words = ["-p", "a cat", "--method", "fewer-steps:steps=2", "--lpips", "-o"]
    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=offline))
    made = _as_command(model, monkeypatch, *words, tmp_path / "c")
    assert made.exit_code == 0
    assert "Its cells stay empty" in made.stderr
    data = json.loads((tmp_path / "c" / "comparison.json").read_text())
    assert {run["lpips"] for row in data["rows"] for run in row["runs"]} == {None}
    assert "no route to the weights" in data["missing"]["lpips"]
    assert "no route to the weights" in (tmp_path / "c" / "report.html").read_text()
    monkeypatch.setitem(sys.modules, "lpips", None)
    refused = _as_command(model, monkeypatch, *words, tmp_path / "d")
    assert "pip install" in str(refused.exception)
    assert not (tmp_path / "d").exists()


def test_a_comparison_is_gone_on_with_and_makes_only_what_it_lacks(model, tmp_path, monkeypatch):
    """More prompts, more methods, in three sittings; as many generations as are new, and rows as of one sitting."""
    made, honest = [], compare_module.Contest._generate

    def generate(self, method, call, count):
        made.append((method.spec.text, call.prompt, count))
        return honest(self, method, call, count)

    monkeypatch.setattr(compare_module.Contest, "_generate", generate)
    out = tmp_path / "c"
    few, half = ["--method", "fewer-steps:steps=2"], ["--method", "uniform:k=2"]
    assert _as_command(model, monkeypatch, "-p", "a cat", *few, "-o", out).exit_code == 0
    first = json.loads((out / "comparison.json").read_text())
    made.clear()
    assert _as_command(model, monkeypatch, "-p", "a cat", "-p", "a dog", *few, "--resume", "-o", out).exit_code == 0
    assert {prompt for _, prompt, _ in made} == {"a dog"}
    made.clear()
    result = _as_command(model, monkeypatch, "-p", "a cat", "-p", "a dog", *half, "--resume", "-o", out)
    assert result.exit_code == 0, result.output
    assert {text for text, _, _ in made} == {"full", "uniform:k=2"}
    data = json.loads((out / "comparison.json").read_text())
    assert [row["label"] for row in data["rows"]] == ["full", "fewer-steps:steps=2", "uniform:k=2"]
    assert [[run["prompt"] for run in row["runs"]] for row in data["rows"]] == [["a cat", "a dog"]] * 3
    assert data["rows"][1]["runs"][0] == first["rows"][1]["runs"][0]
    at_once = compare(model, calls(model, ("a cat", "a dog")), ("fewer-steps:steps=2", "uniform:k=2"))
    for row in at_once.rows[1:]:
        kept = next(other for other in data["rows"] if other["label"] == row.label)
        assert [run["psnr"] for run in kept["runs"]] == [run.psnr for run in row.runs]
    assert set(data["pictures"]) == {"full", "fewer-steps:steps=2", "uniform:k=2"}
    made.clear()
    assert _as_command(model, monkeypatch, "-p", "a cat", *few, "--resume", "-o", out).exit_code == 0
    assert made == [], "nothing was lacking"


def test_a_comparison_of_something_else_is_not_gone_on_with(model, tmp_path, monkeypatch):
    out, words = tmp_path / "c", ["-p", "a cat", "--method", "fewer-steps:steps=2"]
    assert _as_command(model, monkeypatch, *words, "-o", out).exit_code == 0
    other = replace(model, call={**model.call, "num_inference_steps": 6})
    assert "steps 8 there, 6 now" in str(_as_command(other, monkeypatch, *words, "--resume", "-o", out).exception)
    stronger = replace(model, call={**model.call, "true_cfg_scale": 3.0})
    assert "'true_cfg_scale': 2.0" in str(_as_command(stronger, monkeypatch, *words, "--resume", "-o", out).exception)
    assert "one of the two" in str(_as_command(model, monkeypatch, *words, "--resume", "-f", "-o", out).exception)
    (out / "comparison.json").write_text("{")
    assert "comparison.json is not JSON" in str(_as_command(model, monkeypatch, *words, "--resume", "-o", out).exception)


@pytest.mark.parametrize(("stop_at", "kept"), [(5, 1), (3, 0)])
def test_what_was_measured_before_ctrl_c_is_kept_and_said_to_be_incomplete(model, tmp_path, monkeypatch, stop_at, kept):
    """Each of the two is warmed up, then they take turns. Control: before the first call is through nothing is kept."""
    honest, made = compare_module.Contest._generate, []

    def generate(self, method, call, count):
        made.append(method.spec.text)
        if len(made) == stop_at + 1:
            raise KeyboardInterrupt
        return honest(self, method, call, count)

    monkeypatch.setattr(compare_module.Contest, "_generate", generate)
    words = ["-p", "a cat", "-p", "a dog", "--method", "fewer-steps:steps=2", "-o", tmp_path / "c"]
    stopped = _as_command(model, monkeypatch, *words)
    assert stopped.exit_code != 0
    file = tmp_path / "c" / "comparison.json"
    assert file.exists() == bool(kept)
    assert ("marked incomplete" in stopped.output) == bool(kept)
    if kept:
        data = json.loads(file.read_text())
        assert data["complete"] is False
        assert {run["prompt"] for row in data["rows"] for run in row["runs"]} == {"a cat"}
        assert "incomplete" in (tmp_path / "c" / "comparison.txt").read_text()
        assert (tmp_path / "c" / "report.html").exists()


@pytest.mark.parametrize("drawing_fails", [True, False])
def test_what_stopped_a_comparison_is_told_even_if_its_page_cannot_be_drawn(model, tmp_path, monkeypatch, drawing_fails):
    """Control: where the drawing works the line says nothing of it."""
    honest, made = compare_module.Contest._generate, []

    def generate(self, method, call, count):
        made.append(call.prompt)
        if len(made) == 6:
            raise InputError("the first fault.")
        return honest(self, method, call, count)

    def fails(directory):
        raise ValueError("the drawing's fault")

    monkeypatch.setattr(compare_module.Contest, "_generate", generate)
    monkeypatch.setattr(compare_module.Contest, "_guarded", lambda self, method, work, *rest: work(method, *rest))
    if drawing_fails:
        monkeypatch.setattr("janoscope.report.comparison.figures.render_comparison", fails)
    words = ["-p", "a cat", "-p", "a dog", "--method", "fewer-steps:steps=2", "-o", tmp_path / "c"]
    stopped = _as_command(model, monkeypatch, *words)
    assert str(stopped.exception) == "the first fault."
    assert "marked incomplete." in stopped.output
    assert ("could not be drawn: ValueError: the drawing's fault" in stopped.output) == drawing_fails
    assert (tmp_path / "c" / "report.html").exists() != drawing_fails


class Killed(BaseException):
    """In the place of a SIGKILL, which no handler sees."""


def _figures(out):
    rows = json.loads((out / "comparison.json").read_text())["rows"]
    return [[(run["prompt"], run["psnr"], run["ssim"], run["compute"]) for run in row["runs"]] for row in rows]


def test_a_kill_at_any_change_of_the_directory_loses_no_finished_call(model, tmp_path, monkeypatch):
    """At every write, rename and removal of `ComparisonFiles`, over two calls; `--resume` then ends as an uninterrupted run."""
    words = ["-p", "a cat", "-p", "a dog", "--method", "fewer-steps:steps=2"]
    assert _as_command(model, monkeypatch, *words, "-o", tmp_path / "whole").exit_code == 0
    whole = load_comparison(tmp_path / "whole")
    first = replace(
        whole, rows=tuple(replace(row, runs=row.runs[:1]) for row in whole.rows), pictures=dict(whole.pictures), complete=False
    )

    def save_both(directory, known=None):
        files = ComparisonFiles(directory, known)
        if known is None:
            files.save(first)
        files.save(whole)

    seen = []
    monkeypatch.setattr(writing, "point", lambda what, path: seen.append((what, path.name)))
    save_both(tmp_path / "counted")
    total = len(seen)
    assert total >= 20
    done_first = 1 + seen.index(("rename", "comparison.json"))
    for stop_at in range(total):
        out, left = tmp_path / f"stopped-{stop_at}", stop_at

        def stop(*_):
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1

        monkeypatch.setattr(writing, "point", stop)
        with pytest.raises(Killed):
            save_both(out)
        monkeypatch.setattr(writing, "point", lambda *_: None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            known = ready_directory(out, resume=True, force=False)
        if known is None:  # before the first call was kept: the same directory is begun anew, with --resume and without
            assert stop_at < done_first
            assert ready_directory(out, resume=False, force=False) is None
            save_both(out)
        else:
            assert stop_at >= done_first
            assert len(known.rows[0].runs) >= 1, "the finished call is lost"
            ComparisonFiles(out, known).save(replace(whole, pictures={**whole.pictures}))
        assert _figures(out) == _figures(tmp_path / "whole")
        found = load_comparison(out)
        assert all(np.array_equal(found.pictures[label], whole.pictures[label]) for label in whole.pictures)


def test_an_image_that_cannot_be_read_is_made_again_and_no_figure_changes(model, tmp_path, monkeypatch):
    out, words = tmp_path / "c", ["-p", "a cat", "-p", "a dog", "--method", "fewer-steps:steps=2"]
    assert _as_command(model, monkeypatch, *words, "-o", out).exit_code == 0
    image, before = out / "pictures" / "01-fewer-steps_steps=2.png", (out / "comparison.json").read_text()
    whole = image.read_bytes()
    image.write_bytes(whole[:41])
    (out / "report.html").unlink()
    assert _as_command(model, monkeypatch, *words, "--resume", "-o", out).exit_code == 0
    assert image.read_bytes() == whole
    assert (out / "comparison.json").read_text() == before
    assert (out / "report.html").exists()
