"""What the packages that load their modules late say they have."""

import importlib

import pytest


@pytest.mark.parametrize("package", ["janoscope.capture", "janoscope.execution", "janoscope.plan"])
def test_every_name_that_a_package_offers_is_there(package):
    module = importlib.import_module(package)
    assert len(module.__all__) >= 6
    assert {name for name in module.__all__ if getattr(module, name, None) is None} == set()
