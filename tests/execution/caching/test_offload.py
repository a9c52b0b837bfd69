"""Offload under lanes that are as late as their marks allow, in buffers that are poisoned whenever nothing in them may be read.

Every copy that is not waited for has not happened yet (late lanes) or has happened at once (inline ones): between the two lie all
orders that streams can take. A prefetch of the wrong layer or branch, too early, too late, or left over from another call reads
poison or another layer's keys, and the outputs differ.
"""

from functools import cache, partial
from mmap import PAGESIZE

import numpy as np
import pytest
import torch
from strategies import branch_cache
from test_strategies import Network

from janoscope.errors import ExecutionError
from janoscope.execution.caching.branch_cache import BranchCache
from janoscope.execution.caching.offload import Offload, OffloadBranch
from janoscope.execution.caching.streams import HostMemory, Inline, Lanes
from janoscope.execution.hooks import Mode, NetworkHooks
from janoscope.execution.rows import Rows
from janoscope.plan import Cache, cache_bytes
from janoscope.plan.facts import ModelFacts

POISON = float("nan")
MIB = 2**20


class Late:
    """A lane whose work is done only when another waits for it, or for later work. last: what it waited for last."""

    def __init__(self, wait_for_others=True):
        self._queue, self._honest, self.last = [], wait_for_others, None

    def submit(self, work):
        self._queue.append(work)

    def mark(self):
        return self, len(self._queue)

    def wait(self, mark):
        self.last = mark
        if mark is not None and self._honest:
            self._queue.append(lambda: mark[0].run(mark[1]))

    def run(self, until):
        for place in range(until):
            work, self._queue[place] = self._queue[place], lambda: None
            work()


class Now(Inline):
    """The computation: what it waits for is done at once, and all that it did is done."""

    def __init__(self, wait_for_others=True):
        self._honest, self.marks = wait_for_others, 0

    def mark(self):
        self.marks += 1
        return self, self.marks

    def run(self, until):
        """Done."""

    def wait(self, mark):
        if mark is not None and self._honest:
            mark[0].run(mark[1])


def late_lanes(**dishonest):
    """Lanes for any device; those named in `dishonest` do not wait for others."""
    made = {name: (Now if name == "compute" else Late)(name not in dishonest) for name in ("compute", "store", "fetch")}
    return lambda device: Lanes(**made, drain=lambda: None)


class Poisoned(Offload):
    """Fills a slot with poison once it has been read, and the shared buffer before a layer is put in it."""

    def release(self, slot):
        super().release(slot)
        slot.tensor.fill_(POISON)

    def whole(self, attended):
        return super().whole(attended).fill_(POISON)


class Branches:
    """Two guidance branches of one network, called in turn by steps of three kinds: everything, moderate rows, active rows.

    Static, moderate and active tokens are a plan's: tokens 0, 1, 2 modulo 3 and so on.
    """

    STEPS = ("refresh", "active", "moderate", "active", "active", "refresh", "moderate", "active")

    def __init__(self, family="flux"):
        self.network = Network(family)
        level = np.arange(self.network.tokens) % 3
        self.groups = [np.flatnonzero(level == 0), np.flatnonzero(level == 1)]
        kinds = {"active": level == 2, "moderate": level >= 1}
        indices = {kind: torch.from_numpy(np.flatnonzero(on)) for kind, on in kinds.items()}
        self.rows = {kind: Rows(self.network.tokens, on, self.network.facts) for kind, on in indices.items()}

    def kept(self, keeper):
        hooks = NetworkHooks("transformer", self.network.module, self.network.facts, self.network.state)
        caches = [BranchCache(self.network.tokens, keeper.branch(hooks.layers)) for _ in range(2)]
        return hooks, caches

    @torch.no_grad()
    def run(self, hooks, caches, steps=STEPS):
        network, outputs = self.network, []
        try:
            for step, kind in enumerate(steps):
                for branch, kept in enumerate(caches):
                    rows = self.rows.get(kind)
                    if rows is not None:
                        rows.forget_tables()
                    with network.state.during(Mode.PARTIAL if rows else Mode.REFRESH, kept, rows):
                        outputs.append(network.module(**network.at(2 * step + branch), return_dict=False)[0])
                        hooks.check_served()
        finally:
            hooks.remove()
        return torch.stack(outputs)


@cache
def branches(family="flux"):
    made = Branches(family)
    hooks, _ = made.kept(Offload(Cache("offload"), lambda: made.groups))
    kv = [branch_cache("kv", made.network.tokens, hooks.layers) for _ in range(2)]
    return made, made.run(hooks, kv)


def offloaded(rules=None, lanes=None, kind=Poisoned, family="flux"):
    made, expected = branches(family)
    keeper = kind(rules or Cache("offload"), lambda: made.groups, lanes or late_lanes())
    hooks, caches = made.kept(keeper)
    return made.run(hooks, caches), expected, keeper, caches


@pytest.mark.parametrize("window", [1, 2, 3, 9])
@pytest.mark.parametrize("family", ["flux", "sd3.5", "wan"])
def test_copies_as_late_as_can_be_give_what_kv_gives_bit_for_bit(family, window):
    got, expected, *_ = offloaded(Cache("offload", window=window), family=family)
    assert torch.equal(got, expected)


def test_copies_as_early_as_can_be_give_what_kv_gives_bit_for_bit():
    inline = Inline()
    got, expected, *_ = offloaded(lanes=lambda device: Lanes(inline, inline, inline, lambda: None))
    assert torch.equal(got, expected)


def wrong(got, expected):
    return not torch.allclose(got, expected, atol=1e-3)  # poison is never close


def test_copies_wait_for_the_computation_that_fills_and_empties_their_slots():
    """The one order that late lanes cannot show, since here the computation is never late."""
    seen = []

    class Watching(Offload):
        def store(self, layer, source, groups):
            before = self.lanes.compute.marks
            super().store(layer, source, groups)
            assert self.lanes.store.last == (self.lanes.compute, before + 1), "a mark made behind the filling"
            seen.append("store")

        def release(self, slot):
            super().release(slot)
            assert slot.mark == (self.lanes.compute, self.lanes.compute.marks), "a mark made behind the reading"
            seen.append("release")

        def fetch(self, layer, groups):
            waited, read = [], self._fetching[0].mark
            self.lanes.fetch.wait, honest = lambda mark: (waited.append(mark), honest(mark)), self.lanes.fetch.wait
            slot = super().fetch(layer, groups)
            self.lanes.fetch.wait = honest
            assert waited == [read, layer.stored]
            seen.append("fetch")
            return slot

    offloaded(kind=Watching)
    assert set(seen) == {"store", "release", "fetch"}


@pytest.mark.parametrize("lane", ["compute", "fetch"])
def test_a_lane_that_does_not_wait_is_caught(lane):
    assert wrong(*offloaded(lanes=late_lanes(**{lane: False}))[:2])


def test_a_prefetch_of_another_layer_is_caught():
    class Next(Poisoned):
        def fetch(self, layer, groups):
            layers = list(layer._branch._layers.values())
            return super().fetch(layers[(layers.index(layer) + 1) % len(layers)], groups)

    assert wrong(*offloaded(kind=Next)[:2])


def test_a_prefetch_of_the_other_branch_is_caught():
    class Other(Poisoned):
        def fetch(self, layer, groups):
            name = next(name for name, other in layer._branch._layers.items() if other is layer)
            return super().fetch(self._branches[1 - self._branches.index(layer._branch)].layer(name), groups)

    assert wrong(*offloaded(kind=Other)[:2])


def test_a_window_left_over_from_the_last_call_is_caught(monkeypatch):
    """Fetched for the end of a call that stopped early, say; nothing but the opening of the window drops it."""
    made, expected = branches()

    def run():
        keeper = Poisoned(Cache("offload"), lambda: made.groups, late_lanes())
        hooks, caches = made.kept(keeper)
        begin = OffloadBranch.begin

        def twice(self, rows):
            begin(self, made.rows["moderate"])  # a call of other rows that never comes to its layers
            begin(self, rows)

        with monkeypatch.context() as patched:
            patched.setattr(OffloadBranch, "begin", twice)
            return made.run(hooks, caches)

    assert torch.equal(run(), expected)

    def left_open(self, rows):
        self.begin(made.rows["moderate"])
        self._wanted, self.touched = self.offload.groups, []  # active rows, read through a window that opened on static ones

    keeper = Poisoned(Cache("offload"), lambda: made.groups, late_lanes())
    hooks, caches = made.kept(keeper)
    for kept in caches:
        kept.begin = partial(left_open, kept._stores)
    steps = ("refresh", "active")
    assert wrong(made.run(hooks, caches, steps), expected[: 2 * len(steps)])


def test_a_window_read_out_of_turn_begins_again(monkeypatch):
    """Fetched backwards; every layer is then found out of turn and fetched when it is asked for."""
    begin = OffloadBranch.begin

    def backwards(self, rows):
        begin(self, rows)
        self._coming.reverse()

    monkeypatch.setattr(OffloadBranch, "begin", backwards)
    got, expected, *_ = offloaded()
    assert torch.equal(got, expected)


def test_only_skipped_tokens_travel():
    """A moderate step fetches static tokens and stores moderate ones; an active step fetches both and stores nothing."""
    moved = {"store": 0, "fetch": 0}

    class Counting(Offload):
        def fetch(self, layer, groups):
            moved["fetch"] += sum(len(group.tokens) for group in groups)
            return super().fetch(layer, groups)

        def store(self, layer, source, groups):
            moved["store"] += sum(len(group.tokens) for group in groups)
            super().store(layer, source, groups)

    made, _ = branches()
    static, moderate = (len(group) for group in made.groups)
    for steps, stored, fetched in (
        (("refresh",), static + moderate, 0),
        (("refresh", "moderate"), static + 2 * moderate, static),
        (("refresh", "active"), static + moderate, static + moderate),
    ):
        moved |= {"store": 0, "fetch": 0}
        hooks, caches = made.kept(Counting(Cache("offload"), lambda: made.groups))
        made.run(hooks, caches, steps)
        assert moved == {"store": 2 * hooks.layers * stored, "fetch": 2 * hooks.layers * fetched}


def test_nothing_is_allocated_after_the_first_step_of_each_kind(monkeypatch):
    made, _ = branches()
    keeper = Offload(Cache("offload"), lambda: made.groups)
    hooks, caches = made.kept(keeper)
    hooks_again, _ = hooks, made.run(hooks, caches, Branches.STEPS[:3])
    places = memory_of(keeper)
    monkeypatch.setattr(HostMemory, "take", lambda *_: pytest.fail("host memory was taken in the loop"))
    hooks = NetworkHooks("transformer", made.network.module, made.network.facts, made.network.state)
    made.run(hooks, caches, Branches.STEPS)
    assert memory_of(keeper) == places
    assert len(places) == 2 * hooks_again.layers + 2 + 2 + 1, "slabs, slots of two kinds, one buffer"


def memory_of(keeper):
    slabs = [layer.slab for branch in keeper._branches for layer in branch._layers.values()]
    slots = [slot.tensor for slot in (*keeper._fetching, *keeper._leaving)]
    return {tensor.data_ptr() for tensor in (*slabs, *slots, keeper._whole)}


def facts_of(made, layers):
    config = made.network.module.config
    heads = config["num_attention_heads"]
    text = made.network.arguments["encoder_hidden_states"].shape[1]
    width = heads * config["attention_head_dim"]
    # two items in a call, as stacked guidance has them, and two calls a step
    return ModelFacts(layers, width, 0, "joint", text, itemsize=4, branches=4, heads=heads, stacked=2)


@pytest.mark.parametrize(("budget", "resident"), [(0, 0), (0.5, 2), (1.0, 4)])
def test_the_budget_decides_how_many_layers_stay_and_prediction_says_so(budget, resident):
    """`budget` of all slabs beside the buffers: four layers of two branches, so half of them are two of each."""
    made, _ = branches()
    hooks, _ = made.kept(Offload(Cache("offload"), lambda: made.groups))
    hooks.remove()
    facts, tokens = facts_of(made, hooks.layers), made.network.tokens
    skipped = sum(len(group) for group in made.groups)
    none = cache_bytes(facts, tokens, Cache("offload", window=1), skipped)
    rules = Cache("offload", window=1, device_mib=(none.device * (budget > 0) + budget * none.host) / MIB)
    got, expected, keeper, caches = offloaded(rules, kind=Offload)
    assert torch.equal(got, expected)
    assert {branch.resident for branch in keeper._branches} == {resident}
    measured = keeper.bytes
    for kept in caches:
        measured = measured.plus(kept.bytes)
    assert measured == cache_bytes(facts, tokens, rules, skipped)
    assert measured.device <= max(rules.device_mib * MIB, none.device)
    stay = [layer.resident for layer in keeper._branches[0]._layers.values()]
    assert stay == {0: [False] * 4, 2: [False, True, False, True], 4: [True] * 4}[resident], (
        "spread, so that others can be fetched"
    )


def test_a_branch_that_is_closed_gives_its_memory_back():
    _, _, keeper, caches = offloaded(kind=Offload)
    before = sum(kept.bytes.host for kept in caches)
    caches[0].close()
    assert sum(kept.bytes.host for kept in caches) == before / 2
    keeper.close()
    assert keeper.bytes == (0, 0)
    assert caches[1].bytes == (0, 0)


class Runtime:
    """CUDA's calls for pinning; `code` is what registering answers."""

    def __init__(self, code=0):
        self.code, self.pinned = code, {}

    def cudaHostRegister(self, pointer, size, flags):
        assert pointer % PAGESIZE == size % PAGESIZE == flags == 0
        assert all(pointer + size <= at or at + taken <= pointer for at, taken in self.pinned.items()), "no page twice"
        self.pinned[pointer] = size
        return self.code

    def cudaHostUnregister(self, pointer):
        del self.pinned[pointer]


def test_host_memory_is_pinned_by_whole_pages_of_its_own_and_given_back(monkeypatch):
    runtime, memory = Runtime(), HostMemory()
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    taken = [memory.take((2, 3 + n, 1, 2, 5), torch.bfloat16, torch.device("cuda")) for n in range(40)]
    for n, tensor in enumerate(taken):
        tensor.fill_(n)
    assert [tensor.shape[1] for tensor in taken] == list(range(3, 43))
    assert all((tensor == n).all() for n, tensor in enumerate(taken))
    assert len(runtime.pinned) == 40
    for tensor in taken:
        memory.free(tensor)
    assert runtime.pinned == {}
    memory.free(memory.take((4,), torch.float32, torch.device("cpu")))
    assert runtime.pinned == {}, "nothing to pin for the CPU"


def test_memory_that_cannot_be_pinned_is_told_in_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "cudart", lambda: Runtime(code=2))
    with pytest.raises(ExecutionError, match=r"^8 MiB of host memory could not be pinned .*device_mib.*$"):
        HostMemory().take((2, 2**20), torch.float32, torch.device("cuda"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="streams and pinned memory need a CUDA device")
def test_streams_give_what_kv_gives_bit_for_bit():
    made = Branches()
    made.network.module.to("cuda")
    made.network.arguments = {
        name: value.cuda() if isinstance(value, torch.Tensor) else value for name, value in made.network.arguments.items()
    }
    hooks, caches = made.kept(Offload(Cache("offload"), lambda: made.groups))
    expected = made.run(hooks, [branch_cache("kv", made.network.tokens, hooks.layers) for _ in range(2)])
    hooks, caches = made.kept(keeper := Offload(Cache("offload"), lambda: made.groups))
    assert torch.equal(made.run(hooks, caches), expected)
    assert all(layer.slab.is_pinned() for branch in keeper._branches for layer in branch._layers.values())
    keeper.close()
