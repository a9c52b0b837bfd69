"""Reports made from nothing, small: the same structure as what is committed, on the bundled image model and on random ones."""

import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import diffusers
import pytest
import torch
from tiny_pipelines import build

from janoscope.errors import InputError
from janoscope.evidence import Request, remake, render_report
from janoscope.evidence.kinds import KINDS
from janoscope.evidence.kinds import comparison as evidence_comparison
from janoscope.evidence.recipe import read_recipe
from janoscope.evidence.remake import subject_for
from janoscope.pipeline.model import Model, load_model
from janoscope.plan import ModelFacts, entry_tokens, predict, preset
from janoscope.plan.schedule import step_kinds
from janoscope.probe import find_probe, load_probe, probe_paths

ROOT = Path(__file__).parents[2] / "reports"


@contextmanager
def silent(label):
    yield None


@pytest.fixture(scope="module")
def demo():
    loaded = load_model("demo")
    return lambda name, options: loaded


def structure(data):
    """Keys and kinds of a JSON value; of a list the structure of its first entry; numbers and nulls are one kind."""
    if isinstance(data, dict):
        return {key: structure(value) for key, value in data.items()}
    if isinstance(data, list):
        return [structure(data[0])] if data else []
    return "number" if data is None or isinstance(data, int | float) else type(data).__name__


SINCE = {"times", "verdict", "id", "files"}  # keys that results of 0.1.0, as they lie in reports/, do not have yet


def without_new_keys(data):
    """As 0.1.0 wrote it: without keys of today, and with today's names for the older ones."""
    if isinstance(data, dict):
        renamed = {key.replace("holding_cost", "reuse_error"): value for key, value in data.items() if key not in SINCE}
        return {key: without_new_keys(value) for key, value in renamed.items()}
    return [without_new_keys(value) for value in data] if isinstance(data, list) else data


def small_copy(slug, tmp_path, model="demo"):
    """The report's recipe alone."""
    folder = tmp_path / slug
    folder.mkdir()
    for path in (*(ROOT / slug).glob("*.toml"), *(ROOT / slug).glob("*.txt")):
        shutil.copy(path, folder)
    return folder


SMALL = {
    "table1": ("comparison.json",),
    "fig3-maps": ("maps.json",),
    "map-predicts-convergence": ("aggregate.json",),
    "fig4-6-gallery": ("gallery.json",),
}


@pytest.mark.parametrize(
    "slug",
    SMALL,
)
def test_a_report_is_made_from_nothing_with_the_same_structure(slug, tmp_path, demo):
    folder = small_copy(slug, tmp_path)
    made = remake(folder, Request("demo", quick=True), output=tmp_path / "made", progress=silent, load=demo)
    assert made == tmp_path / "made"
    for name in (*SMALL.get(slug, ("comparison.json",)), "made.json"):
        found, kept = (json.loads((place / "demo" / name).read_text()) for place in (made, ROOT / slug))
        for data in (found, kept):
            for free in ("pictures", "missing", "equal_compute", "paired", "by_level", "call", "revision", "notes"):
                data.pop(free, None)
        assert structure(without_new_keys(found)) == structure(without_new_keys(kept)), name
    text = render_report(made)[0].read_text()
    assert "A quick run" in text
    assert text.splitlines()[0] == (ROOT / slug / "report.md").read_text().splitlines()[0]


def test_a_calibration_is_made_tested_on_new_prompts_and_drawn(tmp_path, demo):
    """As reports/calibrate-demo, with two prompts and few steps: structure, no figures."""
    folder = tmp_path / "calibrate"
    folder.mkdir()
    (folder / "new.txt").write_text("a small green cat, gray sky\n")
    (folder / "recipe.toml").write_text(
        """
        kind = "calibration"
        title = "A policy"
        claim = "It keeps its word."
        target = { compute = 0.6 }
        max_runs = 6
        trials = 100
        new_prompts = "new.txt"
        new_seeds = [7, 8]
        [[subject]]
        name = "few"
        model = "demo"
        probe = "flux"
        prompts = ["a small red apple, mint sky", "a large blue car on sand, night sky", "a small yellow cat, gray sky"]
        call = { steps = 10 }
        methods = ["uniform:k=2"]
        """
    )
    remake(folder, Request(), progress=silent, load=demo)
    assert {path.name for path in (folder / "few").iterdir()} >= {
        "calibration.json",
        "policy.toml",
        "comparison.json",
        "made.json",
    }
    facts = json.loads((folder / "few" / "calibration.json").read_text())
    found = json.loads((folder / "few" / "comparison.json").read_text())
    assert facts["runs"] <= 6
    assert facts["tried"] <= 100
    assert [row["label"] for row in found["rows"]] == ["full", "policy:file=policy.toml", "uniform:k=2"]
    assert [(run["prompt"], run["seed"]) for run in found["rows"][1]["runs"]] == [
        ("a small green cat, gray sky", s) for s in (7, 8)
    ]
    made = json.loads((folder / "few" / "made.json").read_text())
    assert (made["new_prompts"], made["new_seeds"]) == (["a small green cat, gray sky"], [7, 8])
    report, *figures = render_report(folder)
    text = report.read_text()
    mean = found["rows"][1]["mean"]["psnr"]
    for words in (f"{mean:.1f} dB at ", "on 2 runs of 1 new prompts, promised", "| `uniform:k=2` |", "```toml\nname = "):
        assert words in text, words
    assert "few-front.svg" in {path.name for path in figures}
    assert str(tmp_path) not in text, "no name of a folder of the moment"
    assert render_report(folder)[0].read_text() == text


# what the hub's transformer/config.json of each model says, beyond the defaults of its class
PUBLISHED = {
    "black-forest-labs/FLUX.1-dev": ("FluxTransformer2DModel", {"guidance_embeds": True}),
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": (
        "WanTransformer3DModel",
        {"num_attention_heads": 12, "attention_head_dim": 128, "ffn_dim": 8960, "num_layers": 30},
    ),
    "Wan-AI/Wan2.1-T2V-14B-Diffusers": (
        "WanTransformer3DModel",
        {"num_attention_heads": 40, "attention_head_dim": 128, "ffn_dim": 13824, "num_layers": 40},
    ),
    "stabilityai/stable-diffusion-3-medium-diffusers": (
        "SD3Transformer2DModel",
        {"num_layers": 24, "num_attention_heads": 24, "attention_head_dim": 64, "joint_attention_dim": 4096}
        | {"caption_projection_dim": 1536, "pooled_projection_dim": 2048, "pos_embed_max_size": 192, "sample_size": 128},
    ),
    "maxin-cn/Latte-1": (
        "LatteTransformer3DModel",
        {"num_attention_heads": 16, "attention_head_dim": 72, "in_channels": 4, "out_channels": 8, "num_layers": 28}
        | {"attention_bias": True, "sample_size": 64, "patch_size": 2, "activation_fn": "gelu-approximate"}
        | {"num_embeds_ada_norm": 1000, "norm_type": "ada_norm_single", "norm_elementwise_affine": False, "norm_eps": 1e-6}
        | {"caption_channels": 4096, "video_length": 16, "cross_attention_dim": 1152},
    ),
}
RECIPES = {
    path.parent.name: read_recipe(path.parent) for path in sorted(ROOT.glob("*/recipe.toml")) if "kind =" in path.read_text()
}
PUBLIC = [(slug, s) for slug, recipe in RECIPES.items() for s in recipe.subjects if not s.is_bundled]


def test_every_model_without_weights_is_known_here():
    assert {subject.model for _, subject in PUBLIC} == set(PUBLISHED)


@pytest.mark.parametrize("model", PUBLISHED)
def test_a_published_config_resolves_its_probe_and_gives_plan_and_memory(model):
    class_name, config = PUBLISHED[model]
    with torch.device("meta"):
        network = getattr(diffusers, class_name)(**config)
    sheet = find_probe([class_name])
    subjects = [subject for _, subject in PUBLIC if subject.model == model]
    assert {subject.probe for subject in subjects} == {sheet.family}
    if model not in sheet.models:
        assert sheet.execution is None  # Latte: recorded and analysed, never executed
        return
    entry = sheet.models[model]
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert parameters / 1e9 == pytest.approx(entry["parameters_billion"], rel=0.03)
    for subject in subjects:
        sizes = {name: subject.call.get(name) for name in ("height", "width", "frames")}
        tokens = entry_tokens(entry, **sizes)
        count, steps = tokens[0] * tokens[1] * tokens[2], subject.call["steps"]
        policies = [line.spec for line in subject.methods if "preset=" in line.spec]
        for name in [spec.split("preset=")[1].split(",")[0] for spec in policies] + ([subject.policy] if subject.policy else []):
            policy = preset(sheet.policies, name)
            kinds = step_kinds(policy, steps)
            ranks = torch.ones(count, dtype=torch.int64).numpy()
            cheapest, dearest = (predict(kinds, ranks * level, ModelFacts.from_entry(entry), policy.cache) for level in (1, 3))
            assert cheapest.compute < 0.6 < dearest.compute <= 1
            assert cheapest.cache_bytes == 0 or cheapest.cache_bytes > 2**30  # gigabytes, once anything is skipped
            assert dearest.cache_bytes > 2**30


def random_model(family):
    """A tiny random pipeline of the family's real class, with a name as a directory of weights would give it."""
    pipe, call = build(family)
    sheet = find_probe([cls.__name__ for cls in type(pipe.transformer).__mro__])
    known = {key: value for key, value in call.items() if key in ("max_sequence_length", "clean_caption", "negative_prompt")}
    return Model("my-weights", pipe, sheet, call={"num_inference_steps": 8, **known})


FIRST = {(RECIPES[slug].kind, subject.probe): slug for slug, subject in reversed(PUBLIC)}
SIZES = {"latte": {"frames": 3}}  # its temporal positions are a fixed number, three in the tiny one


@pytest.mark.parametrize(("kind", "family"), sorted(FIRST))
def test_a_random_instance_of_the_class_runs_the_recipe_end_to_end(kind, family, tmp_path):
    slug = FIRST[kind, family]
    model = random_model(family)
    folder = small_copy(slug, tmp_path)
    request = Request("org/My-Weights", quick=True, call=SIZES.get(family, {}))
    made = remake(folder, request, progress=silent, load=lambda name, options: model)
    assert made == tmp_path / f"{slug}-my-weights"
    facts = json.loads((made / "my-weights" / "made.json").read_text())
    assert (facts["subject"], facts["family"], facts["quick"]) == (subject_for(RECIPES[slug], model, "x").name, family, True)
    text = render_report(made)[0].read_text()
    assert "failed" not in text
    assert "**Found.** On my-weights" in text


def test_a_model_finds_its_subject_by_id_then_last_name_then_family():
    recipe, model = RECIPES["table1"], random_model("wan")
    for argument in ("Wan-AI/Wan2.1-T2V-14B-Diffusers", "/weights/Wan2.1-T2V-14B-Diffusers"):
        assert subject_for(recipe, model, argument).name == "wan2.1-t2v-14b-diffusers"
    assert subject_for(recipe, model, "mine").model == "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    assert subject_for(recipe, model, "demo:video").name == "demo-video"


def test_a_model_of_an_unknown_family_is_refused(tmp_path):
    model = random_model("pixart")
    with pytest.raises(InputError, match="nothing for mine, a pixart model; it knows demo"):
        remake(small_copy("table1", tmp_path), Request("mine"), progress=silent, load=lambda name, options: model)
    assert not (tmp_path / "table1-mine").exists()


def test_results_are_kept_unless_forced_and_replaced_only_when_whole(tmp_path, monkeypatch):
    model = random_model("flux")
    folder = small_copy("fig4-6-gallery", tmp_path)
    output = tmp_path / "made"
    (output / "mine").mkdir(parents=True)
    (output / "mine" / "old").write_text("kept")
    (output / "mine" / "made.json").write_text('{"files": ["old", "made.json"]}')
    arguments = {"output": output, "progress": silent, "load": lambda name, options: model}
    with pytest.raises(InputError, match="holds results already"):
        remake(folder, Request("mine", quick=True), **arguments)
    monkeypatch.setattr("janoscope.evidence.kinds.gallery.apply_model", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        remake(folder, Request("mine", quick=True), force=True, **arguments)
    ours = [path.name for path in output.rglob("*") if path.is_file() and path.suffix not in (".toml", ".txt")]
    assert sorted(ours) == ["made.json", "old"]
    monkeypatch.undo()
    remake(folder, Request("mine", quick=True), force=True, **arguments)
    assert not (output / "mine" / "old").exists()
    assert (output / "mine" / "gallery.json").is_file()
    (output / "mine" / "notes.md").write_text("a user's own")
    with pytest.raises(InputError, match=r"holds notes\.md, which no report --remake wrote"):
        remake(folder, Request("mine", quick=True), force=True, **arguments)
    assert (output / "mine" / "notes.md").read_text() == "a user's own"


def test_a_folder_that_no_remake_wrote_is_never_replaced(tmp_path):
    output = tmp_path / "made"
    (output / "mine").mkdir(parents=True)
    (output / "mine" / "thesis.tex").write_text("years of work")
    arguments = {"output": output, "progress": silent, "load": lambda name, options: random_model("flux")}
    with pytest.raises(InputError, match=r"holds thesis\.tex, which no report --remake wrote"):
        remake(small_copy("fig4-6-gallery", tmp_path), Request("mine", quick=True), force=True, **arguments)
    assert (output / "mine" / "thesis.tex").read_text() == "years of work"


def test_every_kind_that_can_be_made_is_in_use():
    assert {recipe.kind for recipe in RECIPES.values()} <= set(KINDS)
    assert len(probe_paths()) == 16
    assert load_probe(probe_paths()[0]).family


def test_a_comparison_report_measures_lpips_where_it_can_be_had_and_says_why_not(tmp_path, monkeypatch):
    model = random_model("flux")
    for slug, had in (("with", True), ("without", False)):
        folder = tmp_path / slug
        folder.mkdir()
        (folder / "recipe.toml").write_text(
            'kind = "comparison"\ntitle = "T"\nclaim = "C"\n[[subject]]\nmodel = "demo"\nprobe = "flux"\nprompts = ["a cat"]\n'
            'call = { steps = 4, height = 112, width = 176 }\n[[subject.method]]\nspec = "fewer-steps:compute=0.5"\n'
        )
        monkeypatch.setattr(evidence_comparison, "load_lpips", lambda had=had: (lambda a, b: 0.25) if had else refused())
        made = remake(folder, Request("mine"), progress=silent, load=lambda name, options: model)
        facts = json.loads((made / "mine" / "comparison.json").read_text())
        assert facts["rows"][1]["mean"]["lpips"] == (0.25 if had else None)
        assert ("no weights here" in facts["missing"].get("lpips", "")) is not had


def refused():
    raise InputError("no weights here")
