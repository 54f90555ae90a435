"""`hpt convert plan`: the plans of the real geometries as text and JSON, and bad input in one line."""

import json

import pytest

from hpt_megatron.cli.convert_plan import memory_rate, run, size_of
from hpt_megatron.config.geometry import language_parameters, vision_parameters
from hpt_megatron.config.load import load_run
from hpt_megatron.errors import UserError

REAL = ["hpt-3b", "hpt-7b", "hpt-32b", "hpt-72b"]


def planned(capsys, *arguments):
    assert run([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", REAL)
def test_a_real_run_moves_the_bytes_that_its_engines_hold(capsys, name):
    """By the parameter counts: matrices once per engine, norms and vision tower once per rank of it."""
    chosen = load_run([f"experiment={name}"])
    model, ranks = chosen.model, chosen.rollout.tensor_parallel_size
    norms = (2 * model.num_hidden_layers + 1) * model.hidden_size
    each = language_parameters(model) - norms + ranks * (norms + vision_parameters(model.vision))
    told = planned(capsys, f"experiment={name}")
    assert told["rollout"] == {"engines": chosen.devices // ranks, "tp": ranks}
    assert told["bytes"]["all"] == 2 * each * chosen.devices // ranks
    assert sum(size for _, _, size in told["links"]) == told["bytes"]["all"]
    assert sum(told["sent"]) == sum(told["received"]) == told["bytes"]["all"] - told["bytes"]["same_device"]
    assert max(bucket["bytes"] for bucket in told["buckets"]) <= told["bucket_mib"] << 20
    assert not any(bucket["oversize"] for bucket in told["buckets"])
    assert sorted({bucket["stage"] for bucket in told["buckets"]}) == list(range(chosen.layout.pp))
    modules = [module for bucket in told["buckets"] for module in bucket["modules"]]
    assert len(modules) == len(set(modules))
    assert all(row["at_once"] <= row["in_turn"] + 1e-6 for row in told["seconds"].values())
    assert set(told["seconds"]) == {"NVLink4", "InfiniBand 400 Gb/s", "PCIe 5 x16", "as placed", "host memory"}


def test_the_text_says_what_the_json_says(capsys):
    told = planned(capsys, "experiment=hpt-7b")
    assert run(["--dry-run", "experiment=hpt-7b"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("8 devices, 8 on a node: trainer tp 4 pp 1 vpp 1 cp 1 dp 2 -> 4 engines of tp 2, bf16\n")
    assert f"\n{len(told['buckets'])} buckets of at most 1,280 MiB" in text
    for bucket in told["buckets"]:
        assert f"{bucket['bytes'] / 2**20:>9,.1f}  {bucket['modules'][0]}" in text
    for part in ("all", "same_device", "same_node", "between_nodes"):
        assert size_of(told["bytes"][part]) in text
    assert f"buffers  {size_of(max(told['buffer_bytes']))} at most" in text
    assert f"InfiniBand 400 Gb/s  50.0 GB/s    {told['seconds']['InfiniBand 400 Gb/s']['at_once']:>10.4f}" in text
    assert max(map(len, text.splitlines())) < 160


def test_an_override_changes_the_engines(capsys):
    wide = planned(capsys, "experiment=hpt-7b", "rollout.tensor_parallel_size=4")
    assert wide["rollout"] == {"engines": 2, "tp": 4}
    assert wide["bytes"]["same_node"] == 0, "both sides cut alike on the same devices"
    assert {(source, target) for source, target, _ in wide["links"]} == {(rank, rank) for rank in range(8)}


def test_nothing_given_is_the_tiny_run(capsys):
    told = planned(capsys)
    assert (told["devices"], told["dtype"]) == ({"all": 2, "per_node": 2}, "fp32")
    assert run([]) == 0
    assert "2 engines of tp 1, fp32" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["experiment=hpt-7b", "rollout.tensor_parallel_size=8"], "does not divide the 28 attention heads"),
        (["experiment=hpt-7b", "rollout.mm_encoder_tp_mode=weights", "rollout.tensor_parallel_size=3"], "heads"),
        (["experiment=hpt-9b"], "hpt-9b"),
        (["--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_bad_input_is_the_user_s_mistake(words, told):
    with pytest.raises(UserError, match=told):
        run(words)


def test_memory_is_measured_and_sizes_are_in_words():
    assert memory_rate() > 0.1
    assert [size_of(size) for size in (0, 1 << 19, 5 << 30)] == ["0", "0.50 MiB", "5.00 GiB"]
