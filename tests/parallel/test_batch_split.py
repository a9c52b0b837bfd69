"""A batched call cut in two: rows of every argument with a batch axis, everything else alone, and what is unclear refused."""

import pytest
import torch
from generations import probe_of_family

from janoscope.errors import ExecutionError, InputError
from janoscope.parallel.batch_split import BatchCut

BATCH, ITEMS = 6, 3


def numbered(*shape, axis=0):
    """A tensor whose values are its index along the axis."""
    sizes = [-1 if at == axis else 1 for at in range(len(shape))]
    return torch.arange(shape[axis]).reshape(sizes).expand(shape).clone()


@pytest.mark.parametrize("half", [0, 1])
def test_rows_of_this_half_are_kept_and_what_has_no_batch_is_left_alone(half):
    own = torch.arange(half * ITEMS, (half + 1) * ITEMS)
    rotary = (torch.ones(BATCH + 1, BATCH), torch.ones(BATCH + 1, BATCH))  # (token, channel): no batch, whatever its sizes
    given = {
        "hidden_states": numbered(BATCH, 5, 4, 2, 2),
        "timestep": torch.arange(BATCH),
        "encoder_hidden_states": numbered(BATCH, 7, 8),
        "image_rotary_emb": rotary,
        "attention_kwargs": {"ip_adapter": [numbered(BATCH, 2)], "scale": 0.5},
        "ofs": torch.tensor(2.0),
        "return_dict": False,
    }
    cut = BatchCut(probe_of_family("cogvideox"), half).cut(given)
    assert cut.keys() == given.keys()
    for value in (cut["hidden_states"], cut["timestep"], cut["encoder_hidden_states"], cut["attention_kwargs"]["ip_adapter"][0]):
        assert torch.equal(value.reshape(ITEMS, -1)[:, 0], own)
    assert all(kept is table for kept, table in zip(cut["image_rotary_emb"], rotary, strict=True))
    assert (cut["ofs"], cut["return_dict"], cut["attention_kwargs"]["scale"]) == (given["ofs"], False, 0.5)


@pytest.mark.parametrize("half", [0, 1])
def test_a_layer_axis_before_the_batch_is_known_from_the_probe(half):
    layers = BATCH  # as many layers as rows: the sizes alone would cut the wrong axis
    given = {"hidden_states": numbered(BATCH, 4, 3, 3), "encoder_hidden_states_llama3": numbered(layers, BATCH, 5, 8, axis=1)}
    cut = BatchCut(probe_of_family("hidream"), half).cut(given)["encoder_hidden_states_llama3"]
    assert cut.shape == (layers, ITEMS, 5, 8)
    assert torch.equal(cut[0, :, 0, 0], torch.arange(half * ITEMS, (half + 1) * ITEMS))


def test_lists_in_the_place_of_a_batch_are_cut():
    given = {"x": [torch.full((1,), at) for at in range(BATCH)], "t": torch.arange(BATCH), "cap_feats": list(range(BATCH))}
    cut = BatchCut(probe_of_family("z-image"), 1).cut(given)
    assert [int(value) for value in cut["x"]] == cut["t"].tolist() == cut["cap_feats"] == [3, 4, 5]


def test_an_axis_that_is_unclear_is_refused_by_name():
    given = {"hidden_states": torch.zeros(BATCH, 4, 3, 3), "encoder_hidden_states": torch.zeros(1, BATCH, 8)}
    with pytest.raises(ExecutionError, match=r"encoder_hidden_states has shape \(1, 6, 8\) in a call with a batch of 6"):
        BatchCut(probe_of_family("sd3"), 0).cut(given)


def test_an_odd_batch_holds_no_two_branches():
    with pytest.raises(InputError, match="batch of 3, which is no pair of guidance branches"):
        BatchCut(probe_of_family("sd3"), 0).cut({"hidden_states": torch.zeros(3, 4, 3, 3)})


@pytest.mark.parametrize("half", [0, 1])
def test_halves_are_joined_in_the_order_of_the_call(half):
    first, second = torch.zeros(ITEMS, 2), torch.ones(ITEMS, 2)
    own, theirs = (first, second) if half == 0 else (second, first)
    assert torch.equal(BatchCut(probe_of_family("sd3"), half).join(own, theirs), torch.cat([first, second]))
