"""What the writer's second thread and its reused memory promise."""

import threading

import numpy as np
import pytest

from janoscope.recording.writing import buffer_pool as buffers
from janoscope.recording.writing.buffer_pool import BufferPool
from janoscope.recording.writing.worker_thread import WorkerThread


def test_a_buffer_is_used_again_for_its_own_size_and_type_only():
    pool = BufferPool()
    first = pool.copy_of(np.ones((2, 3), np.float32))
    other = pool.copy_of(np.ones((2, 3), np.float32))
    assert other is not first, "given out while it is in use"
    pool.give_back(first)
    assert pool.copy_of(np.ones((3, 2), np.float32)) is not first
    assert pool.copy_of(np.ones((2, 3), np.int32)) is not first
    again = pool.copy_of(np.full((2, 3), 7, ">f4"))
    assert again is first
    np.testing.assert_array_equal(again, np.full((2, 3), 7))


def test_a_pool_holds_no_more_idle_bytes_than_its_limit():
    pool = BufferPool(limit=100)
    arrays = [pool.copy_of(np.full(10, n, np.float32)) for n in range(4)]
    for array in arrays:
        pool.give_back(array)
    again = [pool.copy_of(np.zeros(10, np.float32)) for _ in range(4)]
    assert sum(any(one is array for array in arrays) for one in again) == 2


@pytest.mark.parametrize("wait_s", [30, 0])
def test_a_caller_far_ahead_waits_a_moment_for_a_used_buffer(monkeypatch, wait_s):
    """The control does not wait and gets a new one."""
    monkeypatch.setattr(buffers, "FRESH_S", wait_s)
    pool = BufferPool(ahead=50)
    lent = [pool.copy_of(np.zeros(10, np.float32)) for _ in range(2)]  # 80 bytes
    returns = threading.Timer(0.2, pool.give_back, lent[:1])
    if wait_s:
        returns.start()
    assert (pool.copy_of(np.zeros(10, np.float32)) is lent[0]) == bool(wait_s)


def test_calls_run_in_order_on_one_other_thread_and_errors_come_out():
    worker: WorkerThread[tuple[int, int]] = WorkerThread("test")
    worker.start()
    futures = [worker.submit(lambda n=n: (n // n, threading.get_ident())) for n in (1, 0, 2)]
    worker.stop()
    assert futures[0].result(5)[1] == futures[2].result(5)[1] != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        futures[1].result(5)
