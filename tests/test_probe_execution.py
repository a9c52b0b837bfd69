"""The [execution] facts of probes against tiny transformers: rows, keys, rotary tables and masks, seen by plain hooks."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from plain_hooks import block_calls, probe_named, tokens_of
from tiny_transformers import EXECUTABLE, ITEMS, TEXT, network, tiny_transformer
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from janoscope.probe import Probe


class FirstKeys(TorchFunctionMode):
    """Keeps the keys of the first attention call made while `inside`."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = False
        self.keys: list[torch.Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.scaled_dot_product_attention and self.inside:
            named = dict(zip(("query", "key"), args, strict=False)) | (kwargs or {})
            self.keys.append(named["key"].clone())  # (item, head, key, channel)
        return func(*args, **(kwargs or {}))


def first_keys(probe: Probe, module: nn.Module, arguments: dict[str, Any]) -> torch.Tensor:
    attention = getattr(getattr(module, probe.execution.blocks[0])[0], probe.execution.attention[0])
    mode = FirstKeys()
    handles = [
        attention.register_forward_pre_hook(lambda *_: setattr(mode, "inside", True)),
        attention.register_forward_hook(lambda *_: setattr(mode, "inside", False)),
    ]
    with torch.no_grad(), mode:
        module(**arguments)
    for handle in handles:
        handle.remove()
    return mode.keys[0]


def text_place(probe: Probe, name: str) -> str:
    """Where other text changes the first block's keys: its image keys cannot know the text yet."""
    module, arguments, count = tiny_transformer(name)
    keys = first_keys(probe, module, arguments)
    if "encoder_hidden_states" not in arguments:
        return "none" if keys.shape[2] == count else "some"
    other = first_keys(probe, module, arguments | {"encoder_hidden_states": arguments["encoder_hidden_states"] + 1.0})
    changed = (keys != other)[0].any(0).any(-1).tolist()
    places = {
        "none": [False] * count,
        "first": [True] * TEXT + [False] * count,
        "last": [False] * count + [True] * TEXT,
    }
    return next((place for place, pattern in places.items() if pattern == changed), "elsewhere")


@pytest.mark.parametrize("name", EXECUTABLE)
def test_text_stands_among_the_keys_where_the_probe_says(name):
    probe = probe_named(name)
    assert text_place(probe, name) == probe.execution.text


def test_cross_attention_is_told_from_self_attention():
    probe = probe_named("wan")
    crossed = replace(probe, execution=replace(probe.execution, attention=("attn2",)))
    assert text_place(crossed, "wan") == "elsewhere"


@pytest.mark.parametrize("name", EXECUTABLE)
def test_the_first_block_takes_and_the_output_module_gives_one_row_a_token(name):
    probe = probe_named(name)
    module, arguments, count = tiny_transformer(name)
    calls, rows = block_calls(probe, module, arguments)
    assert calls[0][probe.execution.hidden].shape[:2] == (ITEMS, count)
    assert rows == [count]
    assert tokens_of(probe, module, arguments) == count


def rotary_faults(probe: Probe, name: str) -> list[str]:
    """Blocks whose rotary table has not the token axis that the probe declares."""
    facts = probe.execution
    module, arguments, count = tiny_transformer(name)
    faults = []
    for call in block_calls(probe, module, arguments)[0]:
        tables = [call[key] for key in facts.rotary if key in call]
        if facts.rotary and (len(tables) != 1 or not isinstance(tables[0], tuple)):
            faults.append(f"{len(tables)} tables")
            continue
        lengths = [table.shape[facts.rotary_dim] for table in (tables[0] if tables else ())]
        whole = count + (TEXT if facts.rotary_text in ("first", "last") else 0)
        expected = [] if not facts.rotary else [count, TEXT] if facts.rotary_text == "separate" else [whole, whole]
        if lengths != expected:
            faults.append(f"{lengths} instead of {expected}")
    return faults


@pytest.mark.parametrize("name", EXECUTABLE)
def test_rotary_tables_have_the_declared_token_axis(name):
    probe = probe_named(name)
    assert rotary_faults(probe, name) == []
    if probe.execution.rotary:
        turned = replace(probe, execution=replace(probe.execution, rotary_dim=probe.execution.rotary_dim + 1))
        assert rotary_faults(turned, name) != []


@pytest.mark.parametrize("name", ["flux", "chroma", "flux2"])
def test_rotary_tables_that_cover_text_begin_with_it(name):
    probe = probe_named(name)
    assert probe.execution.rotary_text == "first"
    module, arguments, _ = tiny_transformer(name)
    cosine, _ = block_calls(probe, module, arguments)[0][0]["image_rotary_emb"]
    # every text token lies at position zero, where all cosines are one; in the picture only the first token does
    at_zero = (cosine == 1).all(-1).tolist()
    assert at_zero == [True] * (TEXT + 1) + [False] * (len(at_zero) - TEXT - 1)


def test_only_chroma_hands_its_blocks_a_flat_mask():
    found = {}
    for name in EXECUTABLE:
        probe = probe_named(name)
        module, arguments, count = tiny_transformer(name)
        calls, _ = block_calls(probe, module, arguments)
        masks = [c["attention_mask"] for c in calls if c.get("attention_mask") is not None]
        if any(mask.shape == (ITEMS, count + TEXT) for mask in masks):
            found[name] = len(masks) == len(calls)
    assert found == {"chroma": True}
    assert {name for name in EXECUTABLE if probe_named(name).execution.squared_mask} == {"chroma"}


def test_only_sd35_uses_the_second_attention():
    used = {name: [b.attn2 is not None for b in network(name).transformer_blocks] for name in ("sd3", "sd3.5")}
    assert used == {"sd3": [False, False, False], "sd3.5": [True, True, False]}
