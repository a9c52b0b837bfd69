"""A local Ray cluster of two nodes: tasks spread, a worker that dies costs its own task only; record, analyze and compare."""

import json
import os
import signal
import threading
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from janoscope.errors import InputError
from janoscope.parallel.tasks import Rank, fan_out
from janoscope.pipeline.call import CallOptions

ray = pytest.importorskip("ray", reason="spreading over a cluster needs the ray extra")
pytestmark = pytest.mark.slow  # half a minute to start two nodes and to load torch in their workers; a step of its own in .ci/run

POLICY = """
name = "tiny"
warmup = 2
cooldown = 1
tile = [1, 4, 4]
quantiles = { static = 0.4, moderate = 0.7 }
intervals = { static = 3, moderate = 2 }
"""


@pytest.fixture(scope="module")
def nodes():
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
    cluster.add_node(**node)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def cluster(nodes):
    return nodes.address


def make_worker(doomed: int, nodes: Path):
    """A worker that names its node in `nodes`, dies at one task, is refused at another; none ends before both nodes have one."""
    import time

    import ray

    from janoscope.errors import InputError

    def work(task: int) -> tuple[int, str]:
        if task == doomed:
            os.kill(os.getpid(), signal.SIGKILL)
        if task == 3:
            raise InputError("task 3 is refused")
        node = ray.get_runtime_context().get_node_id()
        (nodes / node).touch()
        while len(list(nodes.iterdir())) < 2:
            time.sleep(0.02)
        return task * task, node

    return work


def test_tasks_spread_over_both_nodes_and_a_lost_worker_costs_its_own_task(cluster, tmp_path):
    outcomes = {outcome.task: outcome for outcome in fan_out(range(10), partial(make_worker, 4, tmp_path), ray=cluster)}
    assert sorted(outcomes) == list(range(10))
    assert outcomes[4].result is None
    assert outcomes[4].error.startswith("its worker was lost: ")
    assert outcomes[3].error == "task 3 is refused"
    whole = [task for task in range(10) if task not in (3, 4)]
    assert [outcomes[task].result[0] for task in whole] == [task * task for task in whole]
    assert len({outcomes[task].result[1] for task in whole}) == 2, "both nodes worked"


def test_prompts_are_recorded_analysed_and_compared_on_the_cluster(cluster, saved, janoscope, tmp_path, monkeypatch):
    """All with names relative to where the command is given."""
    model = saved("flux")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.txt").write_text("a cat\na dog\n")
    (tmp_path / "tiny.toml").write_text(POLICY)
    (tmp_path / "model").symlink_to(model)
    size = ("--height", 112, "--width", 176, "--steps", 6, "--call", "max_sequence_length=16", "-q")
    said = janoscope("record", "model", *size, "--prompts", "p.txt", "--no-output", "-o", "set", "--ray", cluster)
    assert said.code == 0, said.err
    assert "Wrote 2 recordings" in said.out
    runs = sorted(path.relative_to(tmp_path) for path in (tmp_path / "set").glob("*.h5"))
    for path in runs:
        assert janoscope("verify", path).code == 0
    said = janoscope("analyze", *runs, "--policy", "tiny.toml", "-o", "all", "-q", "--ray", cluster)
    assert said.code == 0, said.err
    facts = json.loads((tmp_path / "all" / "aggregate.json").read_text())
    assert [row["directory"] for row in facts["recordings"]] == ["0000-a-cat", "0001-a-dog"]
    methods = ("--method", "uniform:k=2", "--method", "policy:file=tiny.toml")
    said = janoscope("compare", "model", *size, "--prompts", "p.txt", *methods, "-o", "table", "--ray", cluster)
    assert said.code == 0, said.err
    found = json.loads((tmp_path / "table" / "comparison.json").read_text())
    assert found["complete"]
    for row in found["rows"]:
        assert [run["prompt"] for run in row["runs"]] == ["a cat", "a dog"], row["note"]
        assert all(", cpu (" in run["machine"] for run in row["runs"])


def kill_a_busy_worker(nodes, tries=3000):
    """The first process of this cluster that is at a task, which is where a worker loads the model."""
    raylets = {started.process.pid for node in nodes.list_all_nodes() for started in node.all_processes["raylet"]}
    for _ in range(tries):
        for process in Path("/proc").glob("[0-9]*"):
            try:
                name, status = (process / "cmdline").read_bytes(), (process / "status").read_text()
            except OSError:
                continue  # it ended while we looked
            parent = int(status.partition("PPid:")[2].split()[0])
            if name.startswith(b"ray::_RayWorker.run") and parent in raylets:
                os.kill(int(process.name), signal.SIGKILL)
                return
        time.sleep(0.02)


def test_a_calibration_survives_a_lost_worker_and_a_rerun_makes_up_for_it(nodes, cluster, saved, tmp_path, monkeypatch):
    from janoscope.workflows.calibrate.stages import Effort, calibrate
    from janoscope.workflows.calibrate.target import Target

    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").symlink_to(saved("flux"))
    prompts = ("a cat", "a dog", "a red cat", "a red dog")
    call = CallOptions("a cat", steps=8, height=112, width=176, extra={"max_sequence_length": 16})
    given = {"call": call, "directory": "half", "effort": Effort(max_runs=9, candidates=1, trials=100, ray=cluster)}
    killer = threading.Thread(target=kill_a_busy_worker, args=(nodes,))

    @contextmanager
    def killing(label):
        if label == "full runs":
            killer.start()
        yield None

    found = calibrate("model", prompts, Target("compute", 0.7), progress=killing, **given)
    killer.join()
    [lost] = found.left_out
    assert "its worker was lost" in lost
    assert len(found.prompts) == 3
    assert found.main.validated
    before = (tmp_path / "half" / "runs.jsonl").read_text().splitlines()
    again = calibrate("model", prompts, Target("compute", 0.7), force=True, **given)
    after = (tmp_path / "half" / "runs.jsonl").read_text().splitlines()
    assert after[: len(before)] == before, "what was done is taken up"
    assert not again.left_out
    assert {prompt for prompt, _ in again.prompts} == set(prompts)
    assert [json.loads(line)["prompt"] for line in after[len(before) :] if json.loads(line)["psnr"] is None] == [
        lost.split("'")[1]
    ]


def test_ray_and_ranks_are_not_mixed():
    with pytest.raises(InputError, match="use one of them"):
        list(fan_out([1], make_worker, ray="auto", rank=Rank(0, 2)))


def test_no_cluster_is_said_in_one_line():
    with pytest.raises(InputError, match=r"no Ray cluster at 127\.0\.0\.1:1: Connection refused\. Start one with"):
        list(fan_out([1], partial(make_worker, 0), ray="127.0.0.1:1"))
