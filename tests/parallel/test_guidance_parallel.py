"""Two processes, a guidance branch each, make what one process makes; and each notices when the other does not play its part.

`two_processes.py` does the runs, under torchrun with gloo on loopback; the tests here judge what it left.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

import janoscope
from janoscope.cli.app import janoscope as command
from janoscope.errors import JanoscopeError
from janoscope.recording import partial_path

TESTS = Path(__file__).parent.parent
TWO_PASSES = ("wan", "flux")
BATCHED = ("sd3", "hidream", "z-image")  # with learned layers before the batch, and a list in the place of a batch
SLOW_TWO_PASSES = ("chroma", "qwen-image", "flux2-klein", "hunyuanvideo", "wan2.2", "lumina2")
SLOW_BATCHED = ("sd3.5", "cogvideox", "cogvideox-1.5", "ltx-video", "pixart", "dit", "latte", "unet", "sdxl")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
TIMEOUT_S = 1500  # half a minute of CPU, on machines that have other things to do
pytestmark = pytest.mark.timeout(TIMEOUT_S + 60)
BATCHED_TOLERANCE = 1e-5  # of the largest value, after eight steps: half a batch takes other kernels
MAGNIFIED = dict.fromkeys(("latte", "unet", "sdxl", "pixart", "dit"), 1e-4)  # by samplers that divide by a small alpha


def torchrun(*arguments, **more):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]), "OMP_NUM_THREADS": "1", **more}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*TORCHRUN, *map(str, arguments)], env=environment, **pipes) as process:
        try:
            said, complained = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.terminate()  # torchrun takes its own processes along, which killing it would leave behind
            raise
    return subprocess.CompletedProcess(arguments, process.returncode, said, complained)


def script(directory, *families, **more):
    ran = torchrun(TESTS / "two_processes.py", directory, *families, **more)
    files = [directory / f"rank{rank}.json" for rank in (0, 1)]
    assert all(file.exists() for file in files), ran.stderr[-3000:]
    return directory, *(json.loads(file.read_text()) for file in files)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """(directory, what the leading process told, what the other told)."""
    return script(tmp_path_factory.mktemp("pair"), *TWO_PASSES, *BATCHED)


@pytest.fixture(scope="module")
def told_of_all(tmp_path_factory):
    return script(tmp_path_factory.mktemp("pairs"), *SLOW_TWO_PASSES, *SLOW_BATCHED, ONLY_FAMILIES="1")


def arrays(file):
    """Every dataset of a recording but what a clock or a meter measured, and the checksums of steps, which cover those."""
    found = {}
    with h5py.File(file) as h5:
        h5.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return {k: v for k, v in found.items() if not k.startswith(("provenance", "time_s", "peak_bytes", "step_crc32"))}


def check_same(directory, name, other="one"):
    one, two = (arrays(directory / f"{name}-{count}.h5") for count in (other, "two"))
    assert one.keys() == two.keys()
    assert len(one["model_output"]) == 8
    for key, value in one.items():
        np.testing.assert_array_equal(value, two[key], err_msg=f"{name}: {key}")


def check_close(directory, name):
    """Bit for bit what one process makes that computes one half of the batch after the other; nearly what it makes at once."""
    check_same(directory, name, other="halves")
    one, two = (arrays(directory / f"{name}-{count}.h5") for count in ("one", "two"))
    assert one.keys() == two.keys()
    share = MAGNIFIED.get(name, BATCHED_TOLERANCE)
    for key in ("model_output", "sample", *(["predicted_variance"] if "predicted_variance" in one else [])):
        np.testing.assert_allclose(two[key], one[key], rtol=0, atol=share * np.nanmax(np.abs(one[key])), err_msg=f"{name}: {key}")
    if "skipped" in one:
        np.testing.assert_array_equal(one["skipped"], two["skipped"])


def check_account(leader, other, name):
    facts, others = leader[name], other[name]
    assert facts["left"] == others["left"] == []
    assert (facts["paths"], others["paths"]) == ([f"{name}-two.h5"], [])
    assert facts["latents"] == others["latents"]
    alone, shared = facts["cache_bytes"]
    assert shared * 2 == alone
    assert others["cache_bytes"][1] == shared


@pytest.mark.parametrize("name", TWO_PASSES)
def test_a_recording_of_two_passes_is_the_one_of_a_single_process_bit_for_bit(told, name):
    directory, leader, other = told
    check_same(directory, name)
    check_account(leader, other, name)
    assert leader[name]["compute"][0] == leader[name]["compute"][1] < 0.95


@pytest.mark.parametrize("name", BATCHED)
def test_a_recording_of_batched_guidance_agrees_with_a_single_process(told, name):
    directory, leader, other = told
    check_close(directory, name)
    check_account(leader, other, name)


@pytest.mark.slow  # fifteen more families, each in two processes
def test_every_other_family_agrees_too(told_of_all):
    directory, leader, other = told_of_all
    for name in SLOW_TWO_PASSES:
        check_same(directory, name)
    for name in SLOW_BATCHED:
        check_close(directory, name)
    for name in (*SLOW_TWO_PASSES, *SLOW_BATCHED):
        check_account(leader, other, name)


def test_the_recording_holds_both_branches_and_no_time_for_the_received_one(told):
    run = janoscope.open_recording(told[0] / "wan-two.h5")
    with h5py.File(told[0] / "wan-two.h5") as h5:
        times = h5["time_s"][:]
        capture = json.loads(h5["provenance/capture"][()])
    assert list(run.branches) == ["guided", "cond", "uncond"]
    assert capture["guidance_parallel"] == 2
    known = dict(zip(run.branches, np.isfinite(times).all(axis=0), strict=True))
    assert known == {"guided": True, "cond": True, "uncond": False}


def test_hidden_states_and_two_processes_hold_a_quarter(told):
    _, leader, other = told
    kv, alone, shared = (leader["hidden"][name] for name in ("kv one", "hidden one", "hidden two"))
    assert shared[0] / kv[0] == pytest.approx(0.25, abs=0.02)
    assert other["hidden"]["hidden two"] == shared
    assert shared[1] == alone[1]  # and the latents are those of one process with the same strategy


def test_swapped_halves_would_be_seen(told):
    for facts in told[1:]:
        assert facts["swapped"] > 1e-3
        assert facts["batched"] < BATCHED_TOLERANCE


def test_apply_gives_the_picture_and_compare_the_figures_of_one_process(told):
    directory, leader, other = told
    one, two, second = (np.load(directory / f"apply-{name}.npy") for name in ("one-0", "two-0", "two-1"))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(two, second)
    assert not np.array_equal(one[0], one[1]), "the policy changed nothing"
    assert leader["notes two"] == ["the reference", "", ""]
    assert leader["compare two"] == leader["compare one"] == other["compare two"]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("seeds", "ExecutionError: the two processes no longer hold the same sample after step 0"),
        ("plans", "ExecutionError: the two processes chose different tokens for step 4: their plans differ"),
        ("early", "ExecutionError: the two processes no longer hold the same guided prediction after step 0"),
        ("one_branch", "InputError: FluxPipeline runs with one guidance branch here"),
        ("batch_of_one_branch", "InputError: StableDiffusion3Pipeline runs with one guidance branch here"),
        ("ended", "InputError: guidance ended before step 4"),
        ("extra", "InputError: the pipeline makes an extra network call with skip_layers"),
    ],
)
def test_both_processes_find_out(told, what, words):
    for facts in told[1:]:
        assert facts[what].startswith(words)


def test_a_failure_of_one_process_costs_one_generation(told):
    _, leader, other = told
    assert leader["fails"].startswith("PeerFailed: the other guidance branch's process failed at step 2")
    assert leader["fails_late"].startswith("PeerFailed: the other guidance branch's process failed at step 8")  # after its last
    assert other["fails"] == other["fails_late"] == "JanoscopeError: out of luck"
    assert leader["recovered"]
    assert other["recovered"]


def test_a_companion_that_is_stopped_is_waited_for_as_long_as_was_said(told):
    directory, leader, _ = told
    words, waited_s = leader["stopped"]
    assert words.startswith("PeerLost: the other guidance branch's process (rank 1) did not answer for 2 s")
    assert waited_s > 1.9
    check_partial(directory / "stopped.h5")


def test_a_companion_that_dies_is_noticed_at_once(told):
    directory, leader, _ = told
    words, _ = leader["killed"]
    assert words.startswith("PeerLost: the other guidance branch's process (rank 1) ended")  # not: did not answer for 60 s
    check_partial(directory / "killed.h5")


def check_partial(path):
    """Every step before the loss is there, whole."""
    assert not path.exists()
    run = janoscope.open_recording(partial_path(path), partial=True)
    assert run.steps == 3
    assert np.isfinite(run.read("model_output", branch="uncond")).all()


# --- the command line ---


@pytest.mark.parametrize(
    ("options", "environment", "words"),
    [
        (["--guidance-parallel", "3"], {}, "--guidance-parallel 3: guidance has two branches, so only 2 can be meant."),
        (["--guidance-parallel", "2"], {}, "start them with `torchrun --nproc-per-node 2 -m janoscope ...`"),
        (["--guidance-parallel", "2"], {"RANK": "0", "WORLD_SIZE": "3"}, "3 cannot be paired; start an even number."),
        (["--peer-timeout", "5"], {}, "--peer-timeout has no effect without --guidance-parallel 2."),
        (["--guidance-parallel", "2", "--peer-timeout", "0"], {"RANK": "0", "WORLD_SIZE": "2"}, "seconds above 0 are needed"),
    ],
)
@pytest.mark.parametrize("verb", ["record", "apply", "compare"])
def test_options_that_cannot_be_meant_are_refused(verb, options, environment, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    more = ["--policy", "demo"] if verb == "apply" else []
    result = CliRunner().invoke(command, [verb, "demo", "-p", "red circle", *more, *options])
    said = result.exception if isinstance(result.exception, JanoscopeError) else result.output
    assert words in str(said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [["--tap", "transformer_blocks.0"], ["--prompts", "a.txt", "--ray", "auto"]])
def test_record_refuses_what_cannot_go_together(options):
    prompt = [] if "--prompts" in options else ["-p", "red circle"]
    result = CliRunner().invoke(command, ["record", "demo", *prompt, *options, "--guidance-parallel", "2"])
    assert "--guidance-parallel works without --tap" in str(result.exception)


DEMO = ["demo", "--steps", "6", "--device", "cpu"]


@pytest.mark.slow  # three commands under torchrun and one alone
def test_the_commands_write_what_one_process_writes(tmp_path):
    prompt, policy = ["-p", "red circle"], tmp_path / "policy.toml"
    policy.write_text(POLICY)
    alone = ["record", *DEMO, *prompt, "--policy", policy, "-o", tmp_path / "one.h5"]
    subprocess.run([sys.executable, "-m", "janoscope", *map(str, alone)], check=True, timeout=300, capture_output=True)
    both = ["--guidance-parallel", "2"]
    record = torchrun("-m", "janoscope", "record", *DEMO, *prompt, "--policy", policy, *both, "-o", tmp_path / "two.h5")
    assert record.stdout.count("Wrote") == 2, record.stderr[-2000:]  # the picture and the recording, once each
    one, two = arrays(tmp_path / "one.h5"), arrays(tmp_path / "two.h5")
    assert one.keys() == two.keys()
    for key, value in one.items():
        np.testing.assert_array_equal(value, two[key], err_msg=key)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    output = tmp_path / "applied.png"
    applied = torchrun("-m", "janoscope", "apply", *DEMO, *prompt, "--policy", policy, *both, "-o", output)
    assert applied.stdout.count("Wrote") == 2, applied.stderr[-2000:]
    assert output.read_bytes() == (tmp_path / "one.png").read_bytes()
    assert json.loads(output.with_suffix(".json").read_text())["guidance_parallel"] == 2


@pytest.mark.slow  # four processes load the model
def test_further_pairs_share_the_prompts_of_a_set(tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("red circle\nblue square\ngreen triangle\n")
    arguments = ["record", *DEMO, "--prompts", prompts, "--guidance-parallel", "2", "-o", tmp_path / "set"]
    ran = torchrun("--nproc-per-node", "4", "-m", "janoscope", *arguments)
    lines = [json.loads(line) for line in (tmp_path / "set" / "manifest.jsonl").read_text().splitlines()]
    assert sorted(line["index"] for line in lines) == [0, 1, 2], ran.stderr[-2000:]
    assert {line["status"] for line in lines} == {"complete"}
    assert ran.stdout.count("were there") == 2  # of each pair, the process that leads


@pytest.mark.slow  # two processes load the model, three times
@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (signal.SIGKILL, 2, "ended before its part was done"),
        (signal.SIGSTOP, 2, "did not answer for 5 s"),
        (signal.SIGINT, 130, "Interrupted."),
    ],
)
def test_a_command_ends_in_order_without_its_companion(tmp_path, number, code, words):
    """The companion is killed or stopped; or Ctrl-C reaches both, twice, as torchrun passes it on."""
    leader, other = start_pair(["record", *DEMO[:2], "500", "-q", "-p", "red circle", "-o", tmp_path / "run.h5"], timeout_s=5)
    try:
        partial = partial_path(tmp_path / "run.h5")
        wait_for(lambda: (partial.exists() and partial.stat().st_size > 200_000) or leader.poll() is not None)
        for process in (leader, other, leader, other) if number == signal.SIGINT else (other,):
            process.send_signal(number)
        _, said = leader.communicate(timeout=TIMEOUT_S)
    finally:
        for process in (leader, other):
            process.kill()
            process.wait()
    assert leader.returncode == code, said
    assert words in said
    assert "Traceback" not in said
    assert [file.name for file in tmp_path.iterdir()] == [partial.name]
    run = janoscope.open_recording(partial, partial=True)
    assert 0 < run.steps < 500
    assert np.isfinite(run.read("model_output", branch="uncond")).all()


def start_pair(arguments, timeout_s):
    """Both processes as torchrun starts them, but without its own reaction to their end."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "janoscope", *map(str, arguments), "--guidance-parallel", "2"]
    command += ["--peer-timeout", str(timeout_s), "--device", "cpu"]
    environment = {**os.environ, **shared, "PYTHONPATH": str(TESTS.parent)}
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True}
    return [subprocess.Popen(command, env={**environment, "RANK": str(rank)}, **pipes) for rank in (0, 1)]


def wait_for(condition, timeout_s=200):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)


POLICY = """
name = "short"
map = "jano"
warmup = 3
cooldown = 1
tile = [1, 4, 4]
quantiles = { static = 0.4, moderate = 0.7 }
intervals = { static = 2, moderate = 2, active = 1 }
"""
