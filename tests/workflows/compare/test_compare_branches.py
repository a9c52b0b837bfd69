"""What is patched onto a pipeline while another library's cache runs on it."""

from types import SimpleNamespace

import torch

from janoscope.workflows.compare.cache_context import Branches


class Table:
    """A scheduler's timesteps that count how often their values are fetched."""

    def __init__(self, values):
        self.values, self.fetched = values, 0

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        self.fetched += 1
        return self.values[index]

    def tolist(self):
        self.fetched += 1
        return list(self.values)


class Scheduler:
    def __init__(self, values):
        self.timesteps = Table(values)

    def step(self):
        return None


def test_the_timesteps_are_fetched_once_however_many_steps_there_are():
    scheduler = Scheduler([900.0, 500.0, 100.0])
    pipe = SimpleNamespace(transformer=torch.nn.Identity(), scheduler=scheduler)
    model = SimpleNamespace(pipe=pipe, probe=SimpleNamespace(tap=SimpleNamespace(components=("transformer",))))
    branches = Branches(model, count=False)
    seen = []
    for _ in range(3):
        for _ in range(2):
            pipe.transformer(torch.zeros(1))
            seen.append(branches.timestep)
        scheduler.step()
    branches.remove()
    assert seen == [900, 900, 500, 500, 100, 100]
    assert scheduler.timesteps.fetched == 1
    assert float(scheduler.timesteps[0]) == 900
    assert scheduler.timesteps.fetched == 2, "control: a fetch of one value is seen"
