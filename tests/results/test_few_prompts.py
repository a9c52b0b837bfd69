from janoscope.plan import Policy
from janoscope.results.few_prompts import LEAST_PROMPTS, few_prompts_words
from janoscope.workflows.apply.departures import measured_words

TABLE = {
    "name": "half", "map": "jano", "warmup": 7, "cooldown": 2, "tile": [1, 4, 4], "quantiles": {"static": 0.4, "moderate": 0.7},
    "intervals": {"static": 4, "moderate": 2, "active": 1},
}  # fmt: skip


def test_from_eight_prompts_on_nothing_is_told():
    assert [few_prompts_words(prompts) is None for prompts in (0, 1, 7, 8, 9)] == [True, False, False, True, True]
    assert few_prompts_words(1, "held-out prompts") == (
        f"Too few prompts: 1 held-out prompt stands behind these intervals; take {LEAST_PROMPTS} or more before you rely on them."
    )


def test_a_policy_s_figure_is_over_the_prompts_that_were_held_out_not_all_that_were_given():
    measured = {"model": "demo", "compute": 0.5, "prompts": 2, "psnr": {"mean": 31.0, "prompts": 1}}
    told = measured_words(Policy.from_table(TABLE | {"measured_on": measured}, "test"), "demo")
    assert told == "policy half was measured on demo: 31.0 dB at compute 0.50 over 1 prompt."
    flat = measured | {"psnr": 31.0}
    assert "over 2 prompts" in measured_words(Policy.from_table(TABLE | {"measured_on": flat}, "test"), "demo")
