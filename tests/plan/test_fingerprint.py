"""What a run is taken to be: every field from where it was told, and nothing left out of what a plan must match."""

from janoscope.grid import TokenGrid
from janoscope.plan import Difference, Fingerprint, transformer_identity
from janoscope.plan.fingerprint import Identity, fingerprint_of

GRID = TokenGrid(3, (1, 4, 6), (1, 2, 2))
TRANSFORMER = {"class": "T", "config": {"num_layers": 2}}
SCHEDULER = {"class": "S", "config": {"shift": 3.0}, "final": (1.0, 0.0)}
IDENTITY = Identity("demo", "a cat", 7, {"scale": 2.5, "negative_prompt": ""})


def test_every_field_comes_from_where_it_was_told():
    assert fingerprint_of(TRANSFORMER, SCHEDULER, GRID, 12, IDENTITY) == Fingerprint(
        model="demo",
        transformer=transformer_identity("T", {"num_layers": 2}),
        grid=GRID,
        steps=12,
        scheduler={"class": "S", "config": {"shift": 3.0}},
        guidance={"scale": 2.5, "negative_prompt": ""},
        prompt="a cat",
        seed=7,
    )


def test_another_guidance_or_scheduler_config_is_another_run():
    whole = fingerprint_of(TRANSFORMER, SCHEDULER, GRID, 12, IDENTITY)
    other = fingerprint_of(
        TRANSFORMER, SCHEDULER | {"config": {"shift": 1.0}}, GRID, 12, Identity("demo", "a cat", 7, {"scale": 1.0})
    )
    assert whole.difference(other) == [
        Difference("scheduler", {"class": "S", "config": {"shift": 3.0}}, {"class": "S", "config": {"shift": 1.0}}),
        Difference("guidance", {"scale": 2.5, "negative_prompt": ""}, {"scale": 1.0}),
    ]


def test_what_nobody_said_is_unknown():
    told = fingerprint_of(TRANSFORMER, SCHEDULER, GRID, 12, Identity())
    assert (told.model, told.prompt, told.seed) == ("unknown", "unknown", None)
    assert told.guidance == {"scale": "unknown", "negative_prompt": "unknown"}
