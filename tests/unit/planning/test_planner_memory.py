"""Bytes by phase: worked out by hand where a hand can, and how they answer to a change of the run.

Not covered: whether a process really takes as much; that is measured in tests/dist and in benchmarks/planner.py.
"""

from dataclasses import replace

import pytest

from hpt_megatron.config.load import load
from hpt_megatron.planning.activations import Setting, in_flight, layer_kept
from hpt_megatron.planning.devices import NAMED, read_devices
from hpt_megatron.planning.engine import cache_per_token, engine_of
from hpt_megatron.planning.host_memory import of_node
from hpt_megatron.planning.memory import PHASES, holdings, phases, update
from hpt_megatron.planning.memory import Rank as OfStage
from hpt_megatron.planning.parameters import stages_of
from hpt_megatron.planning.roles import POLICY, roles_of
from hpt_megatron.planning.workload import Workload

pytestmark = pytest.mark.fast
H100, GIB = NAMED["h100"], 2**30
STATE = ("weights", "gradients, float32", "main parameters, float32", "moments, float32")


def of(*words, device=H100):
    run = load(list(words)).run
    return {phase.name: phase for phase in phases(run, device, Workload.of(run))}


def terms(phase):
    return {term.name: term.bytes for term in phase.terms}


@pytest.mark.parametrize(("name", "gib"), [("hpt-3b", 18.5), ("hpt-7b", 28.8), ("hpt-32b", 30.6), ("hpt-72b", 34.1)])
def test_the_state_of_the_first_stage_is_what_the_real_classes_say(name, gib):
    """The figures of benchmarks/geometries.py, which builds megatron-core's classes on the meta device."""
    found = terms(of(f"experiment={name}")["update"])
    assert sum(found[term] for term in STATE) / GIB == pytest.approx(gib, abs=0.06)


def test_every_phase_is_the_sum_of_terms_above_zero():
    for name in ("hpt-3b", "hpt-7b", "hpt-32b", "hpt-72b"):
        found = of(f"experiment={name}")
        assert tuple(found) == PHASES
        for phase in found.values():
            assert phase.bytes == sum(term.bytes for term in phase.terms)
            assert all(term.bytes > 0 for term in phase.terms)
            assert len(terms(phase)) == len(phase.terms), "a name stands for one amount"


def test_while_weights_are_sent_a_device_holds_nothing_else_of_the_trainer():
    """As rollout/engine/colocated.py goes about it; a host has nowhere to put the rest."""
    sent = terms(of("experiment=hpt-7b")["publish"])
    assert sent["weights"] == terms(of("experiment=hpt-7b")["update"])["weights"]
    assert not set(STATE[1:]) & set(sent)
    assert set(STATE) - {"main parameters, float32"} <= set(terms(of(device=read_devices("host:2").device)["publish"]))


def test_a_layer_keeps_what_its_operators_save():
    """Of 7B at tp 4 in bf16 with fused kernels: norms 4h, q + 2k, q + k, q, 3f over 4 ranks; 4d for the angles."""
    run = load(["experiment=hpt-7b"]).run
    setting = Setting(layout=run.layout, element=2, fused=True, recompute="selective", tokens=1000)
    h, q, k, f, d = 3584, 3584, 512, 18944, 128
    assert layer_kept(run.model, setting) == 1000 * 2 * (4 * h + q + 2 * k + q + k + q + 3 * f) // 4 + 4 * d * 2000
    assert layer_kept(run.model, replace(setting, recompute="full")) == 1000 * 2 * h // 4
    assert layer_kept(run.model, replace(setting, recompute="none")) - layer_kept(run.model, setting) == 500 * q


def test_recomputation_offload_and_more_replicas_each_take_something_away():
    base = of("experiment=hpt-7b")["update"].bytes
    assert of("experiment=hpt-7b", "trainer.recompute=none")["update"].bytes > base
    assert of("experiment=hpt-7b", "trainer.recompute=full")["update"].bytes < base
    away = terms(of("experiment=hpt-7b", "trainer.optimizer_offload=true")["update"])
    assert "moments, float32" not in away
    assert "moments, float32" in terms(
        of(
            "experiment=hpt-7b",
            "trainer.optimizer_offload=true",
            "trainer.recompute=full",
            "trainer.ppo_max_token_len_per_gpu=9216",
        )["update"]
    ), "then the step is the worst"
    wide = terms(of("experiment=hpt-7b", "trainer.nnodes=4")["update"])
    assert 4 * wide["moments, float32"] == terms(of("experiment=hpt-7b")["update"])["moments, float32"]


def test_a_frozen_tower_has_weights_and_nothing_else():
    whole, frozen = (terms(of("experiment=hpt-7b", *words)["update"]) for words in ((), ("trainer.freeze=[visual.*]",)))
    tower = 676_550_144
    assert frozen["weights"] == whole["weights"]
    assert whole["gradients, float32"] - frozen["gradients, float32"] == 4 * tower
    assert "activations of the tower" in whole
    assert "activations of the tower" not in frozen


def test_packs_on_their_way_are_those_of_the_schedule():
    layout = load(["layout=tp8-pp4"]).run.layout
    assert [in_flight(layout, rank, 100, 20) for rank in range(4)] == [80, 60, 40, 20]
    assert in_flight(layout, 0, 2, 20) == 40, "no more than there are"
    interleaved = replace(layout, vpp=2)
    # Warm-up of 2 (pp - 1) + (vpp - 1) pp chunks and the one at work, of 10 layers each.
    assert in_flight(interleaved, 0, 100, 20) == (6 + 4 + 1) * 10
    assert in_flight(interleaved, 3, 100, 20) == (0 + 4 + 1) * 10


def test_the_worst_stage_is_found_among_all():
    run = load(["experiment=hpt-72b"]).run
    work = Workload.of(run)
    each = [update(OfStage(run, H100, work, POLICY, stage)).bytes for stage in stages_of(run.model, run.layout)]
    assert of("experiment=hpt-72b")["update"].bytes == max(each) == each[0]
    assert len(set(each)) > 1


def test_the_cache_of_an_engine_fills_its_share():
    """7B: 28 layers x 4 KV heads x 128 channels, keys and values in bf16, are 57,344 bytes a token."""
    run = load(["experiment=hpt-7b"]).run
    assert cache_per_token(run.model, 1, 2) == 57_344
    assert cache_per_token(run.model, 2, 2) == 28_672
    assert cache_per_token(run.model, 8, 2) == 57_344 // 4, "a KV head is shared, not cut"
    engine = engine_of(run, H100)
    assert engine.weights + engine.working + engine.cache + H100.runtime == int(0.6 * H100.memory)
    assert engine.sequences == engine.cached_tokens // 9216 > 100


def test_the_models_of_a_run_follow_its_algorithm():
    def names(*words):
        return [role.name for role in roles_of(load(["experiment=hpt-7b", *words]).run)]

    assert names() == ["policy", "reward", "engine"]
    assert names("algorithm.kl_ctrl.kl_coef=0.1") == ["policy", "reference", "reward", "engine"]
    assert names("algorithm.adv_estimator=gae") == ["policy", "critic", "reward", "engine"]


def test_each_role_holds_what_it_trains_or_reads():
    """Of 7B over tp 4 and dp 2: weights 2, gradients 4, optimizer 12 / 2 bytes a parameter; the reference weights."""
    run = load(["experiment=hpt-7b", "algorithm.adv_estimator=gae", "algorithm.kl_ctrl.kl_coef=0.1"]).run
    held = {one.role: one for one in holdings(run, H100, Workload.of(run))}
    assert list(held) == ["policy", "reference", "critic", "reward", "engine"]
    (stage,) = stages_of(run.model, run.layout)
    assert held["policy"].bytes == 12 * stage.all.held
    assert held["reference"].bytes == 2 * stage.all.held
    head = stage.output.held - run.model.hidden_size
    assert held["critic"].bytes == 12 * (stage.all.held - head + run.model.hidden_size + 1)
    assert held["reward"].bytes == 0
    assert held["engine"].bytes == engine_of(run, H100).weights + engine_of(run, H100).cache


def test_a_pack_takes_no_more_patches_than_the_run_allows():
    run = load(["experiment=hpt-7b", "trainer.max_patches_per_gpu=1500"]).run
    free = load(["experiment=hpt-7b"]).run
    assert Workload.of(run).rank_patches <= 1500
    assert Workload.of(replace(run, layout=replace(run.layout, tp=1))).rank_patches == 1500
    assert Workload.of(replace(free, layout=replace(free.layout, tp=1))).rank_patches == 3 * 1024


def test_host_memory_holds_what_is_moved_out_and_the_images_of_a_step():
    """7B on 8 devices: weights 2 and optimizer 12 / 2 bytes a parameter of each; 128 images of 1,024 patches, twice."""
    run = load(["experiment=hpt-7b"]).run
    asked, work = read_devices("h100:8"), Workload.of(run)
    found = {term.name: term.bytes for term in of_node(run, asked, work, phases(run, H100, work))}
    (stage,) = stages_of(run.model, run.layout)
    assert found["policy moved out of 8 devices"] == 8 * 8 * stage.all.held
    assert found["images of a step"] == 2 * 128 * 1024 * 1176 * 4
    assert found["processes with their imports"] == 17 * 350 * 2**20
    split = {term.name for term in of_node(run, asked, work, phases(run, H100, work), split=True)}
    assert "policy moved out of 8 devices" not in split
    behind = load(["experiment=hpt-7b", "trainer.async_save=true"]).run
    copied = {term.name: term.bytes for term in of_node(behind, asked, work, phases(run, H100, work), split=True)}
    assert copied["policy on its way to disk"] == 8 * 8 * stage.all.held
    assert "policy on its way to disk" not in found
    on_host = of_node(run, read_devices("host:8"), work, phases(run, H100, work))
    assert next(term for term in on_host if term.name == "processes at work").bytes > 8 * 50 * GIB
