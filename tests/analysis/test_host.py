"""What comes to the host: at least 32 bits wide, and the same memory where nothing needs to change."""

import numpy as np
import pytest
import torch

from janoscope.analysis.arrays import as_numpy_on_cpu, to_host


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        (np.float16([1.5, 2.0]), np.float32),
        (np.float32([1.5, 2.0]), np.float32),
        (np.float64([1.5, 2.0]), np.float64),
        (torch.tensor([1.5, 2.0]).half(), np.float32),
        (torch.tensor([1.5, 2.0]).bfloat16(), np.float32),
        (torch.tensor([1.5, 2.0]).double(), np.float64),
    ],
)
def test_values_are_at_least_32_bits_wide_and_no_narrower_than_they_were(given, dtype):
    assert (to_host(given).dtype, to_host(given).tolist()) == (dtype, [1.5, 2.0])


def test_a_cpu_tensor_enters_without_a_copy_whether_it_has_a_gradient_or_not():
    tensor = torch.zeros(3, requires_grad=True)
    entered = as_numpy_on_cpu(tensor)
    assert isinstance(entered, np.ndarray)
    entered[1] = 7
    assert tensor.tolist() == [0, 7, 0]
