"""Where attention is met: while a network call is under way, in its thread, at torch's function and at diffusers' backends."""

import threading

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import _AttentionBackendRegistry, attention_backend
from generations import Tiny, generate, policy

from janoscope.errors import ExecutionError
from janoscope.execution.attention_calls import AttentionCalls
from janoscope.execution.frozen import FROZEN_STEPS, frozen_run
from janoscope.execution.interception import intercepted, listening
from janoscope.plan import Cache

TORCH_S_OWN = F.scaled_dot_product_attention


@pytest.fixture(autouse=True)
def torch_attention():
    """`set_attention_backend` of one network changes the default of the whole process."""
    with attention_backend("native"):
        yield


class Doubled:
    """Listens, and gives twice what the attention gives."""

    def meet(self, attention, given):
        return 2 * attention(**given)


@pytest.fixture
def parts():
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(1, 2, 5, 8, generator=draw) for _ in range(3)]


def test_attention_is_met_by_position_and_by_name_while_somebody_listens(parts):
    expected = F.scaled_dot_product_attention(*parts)
    with intercepted():
        assert torch.equal(F.scaled_dot_product_attention(*parts), expected)
        with listening(Doubled()):
            assert torch.equal(F.scaled_dot_product_attention(*parts), 2 * expected)
            assert torch.equal(F.scaled_dot_product_attention(parts[0], key=parts[1], value=parts[2]), 2 * expected)
            with listening(None):
                assert torch.equal(F.scaled_dot_product_attention(*parts), expected)
        assert torch.equal(F.scaled_dot_product_attention(*parts), expected)


def test_functions_are_back_when_the_last_of_several_users_ends():
    first, second = intercepted(), intercepted(["flex"])
    flex = _AttentionBackendRegistry._backends["flex"]
    first.__enter__()
    second.__enter__()
    assert F.scaled_dot_product_attention is not TORCH_S_OWN
    assert _AttentionBackendRegistry._backends["flex"] is not flex
    first.__exit__(None, None, None)  # not in the order of a stack: another thread's
    assert F.scaled_dot_product_attention is not TORCH_S_OWN
    second.__exit__(None, None, None)
    assert F.scaled_dot_product_attention is TORCH_S_OWN
    assert _AttentionBackendRegistry._backends["flex"] is flex


def test_a_wrapper_that_came_meanwhile_stays_and_works(parts, monkeypatch):
    monkeypatch.setattr(F, "scaled_dot_product_attention", TORCH_S_OWN)  # gives it back at the end
    expected = F.scaled_dot_product_attention(*parts)
    with intercepted():
        ours = F.scaled_dot_product_attention
        F.scaled_dot_product_attention = lambda *given: ours(*given) + 1
    assert torch.equal(F.scaled_dot_product_attention(*parts), expected + 1)


def test_an_attention_that_somebody_put_in_the_place_of_torch_s_is_used(monkeypatch):
    """As users of other kernels do: F.scaled_dot_product_attention = sageattn."""
    tiny, used = Tiny("flux"), []

    def kernel(*args, **kwargs):
        used.append(None)
        return TORCH_S_OWN(*args, **kwargs)

    expected, _ = tiny.run(policy())
    monkeypatch.setattr(F, "scaled_dot_product_attention", kernel)
    assert torch.equal(tiny.run(policy())[0], expected)
    assert used
    assert F.scaled_dot_product_attention is kernel


def test_attention_of_another_thread_passes_unchanged(parts, monkeypatch):
    """Another thread attends in the middle of every attention that is served here."""
    tiny, expected = Tiny("flux"), F.scaled_dot_product_attention(*parts)
    alone, _ = tiny.run(policy())
    honest, met, passed = AttentionCalls.meet, [], []

    def meet(self, attention, given):
        met.append(threading.get_ident())
        other = threading.Thread(target=lambda: passed.append(torch.equal(F.scaled_dot_product_attention(*parts), expected)))
        other.start()
        other.join()
        return honest(self, attention, given)

    monkeypatch.setattr(AttentionCalls, "meet", meet)
    assert torch.equal(tiny.run(policy())[0], alone)
    assert set(met) == {threading.get_ident()}
    assert passed == [True] * len(met)


def test_two_accelerated_pipelines_in_two_threads_are_what_they_are_alone():
    tinies = Tiny("flux"), Tiny("wan")
    alone = [tiny.run(policy())[0] for tiny in tinies]
    together = {}

    def run(tiny):
        together[tiny.name] = tiny.run(policy())[0]

    threads = [threading.Thread(target=run, args=(tiny,)) for tiny in tinies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for tiny, expected in zip(tinies, alone, strict=True):
        assert torch.equal(together[tiny.name], expected)
    assert F.scaled_dot_product_attention is TORCH_S_OWN


def test_functions_are_back_after_a_generation_and_after_an_exception(monkeypatch):
    tiny = Tiny("flux")
    with tiny.executor(policy()):
        generate(tiny.pipe, tiny.call)
        assert F.scaled_dot_product_attention is TORCH_S_OWN
        monkeypatch.setattr(AttentionCalls, "meet", lambda *_: (_ for _ in ()).throw(RuntimeError("stop here")))
        with pytest.raises(RuntimeError, match="stop here"):
            generate(tiny.pipe, tiny.call)
    assert F.scaled_dot_product_attention is TORCH_S_OWN


BACKENDS = ["native", "_native_math", "_native_flash", "flex"]


@pytest.mark.parametrize("strategy", ["kv", "hidden"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", ["flux", "wan"])
def test_every_backend_that_runs_here_is_served(family, backend, strategy):
    tiny = Tiny(family)
    plain = tiny.plain()
    tiny.pipe.transformer.set_attention_backend(backend)
    torch.testing.assert_close(tiny.plain(), plain, rtol=0, atol=1e-4)

    def call():
        return generate(tiny.pipe, tiny.call, num_inference_steps=FROZEN_STEPS)

    run = frozen_run(tiny.pipe, tiny.probe, call, cache=Cache(strategy))
    assert run.is_right, str(run)


def test_control_a_backend_that_is_not_met_is_refused():
    tiny = Tiny("flux")
    tiny.pipe.transformer.set_attention_backend("flex")
    with tiny.executor(policy()) as executor:
        hooks, _ = executor._networks["transformer"]
        executor._state.backends, hooks._meet_backend = set(), lambda *_: None  # nobody listens there
        with pytest.raises(ExecutionError, match=r"blocks\.0\.attn was served .* 0 times"):
            generate(tiny.pipe, tiny.call)


def test_a_backend_that_is_chosen_later_is_served_too():
    tiny = Tiny("flux")
    expected, _ = tiny.run(policy())
    with tiny.executor(policy()), attention_backend("flex"):
        torch.testing.assert_close(generate(tiny.pipe, tiny.call), expected, rtol=0, atol=1e-4)


def test_compiled_blocks_are_compiled_once_for_each_kind_of_step():
    """Before, hooks were compiled for each of the blocks, and with four the limit of recompilations was hit."""
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    tiny, counter = Tiny("flux"), CompileCounter()
    expected, _ = tiny.run(policy())
    tiny.pipe.transformer.compile_repeated_blocks(backend=counter)
    tiny.plain()
    plain = counter.frame_count
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        output, _ = tiny.run(policy())
        first = counter.frame_count
        again, _ = tiny.run(policy())
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-5)
    assert torch.equal(again, output)
    assert first > plain > 0, "what the hooks call is compiled"
    assert counter.frame_count == first, "and only once"
    torch._dynamo.reset()
