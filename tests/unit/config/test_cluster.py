"""A profile of a cluster is checked on the host that submits: its own keys, and whether its nodes hold the run."""

from dataclasses import replace

import pytest

from hpt_megatron.config.cluster import check, check_room, nodes_of, profiles, read_cluster, seconds
from hpt_megatron.config.files import groups
from hpt_megatron.config.load import load_run
from hpt_megatron.errors import UserError

pytestmark = pytest.mark.fast


def told(*given: str) -> list[str]:
    """Problems, as lines."""
    return [str(problem) for problem in read_cluster(list(given), None)[1]]


def test_every_shipped_profile_holds_once_its_image_is_named():
    assert sorted(profiles()) == ["apptainer", "pyxis", "slurm"]
    assert told() == []
    for name in ("pyxis", "apptainer"):
        assert told(f"cluster={name}", "cluster.image=/images/a.sif") == []
        assert "needs an image" in told(f"cluster={name}")[0]
    assert "cluster" not in groups(), "it is no group of a run"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("cluster.tme=1:00:00", "cluster.tme = 1:00:00: no such key; right would be: cluster.time"),
        ("cluster.time=2h", "cluster.time = 2h: is no length of time"),
        ("cluster.time='00:10:00'", "cluster.signal_s = 600: leaves nothing of 00:10:00"),
        ("cluster.partition='a b'", "cluster.partition = a b: is not one plain word"),
        ("cluster.account='$(id)'", "cluster.account = $(id): is not one plain word"),
        ("cluster.environment=[A]", "cluster.environment = A: sets no variable"),
        ("cluster.forward=['A=b']", "cluster.forward = A=b: is no name of a variable"),
        ("cluster.mounts=[/a]", "cluster.mounts = /a: is no mount"),
        ("cluster.scratch=tmp", "cluster.scratch = tmp: must be the same folder on every node"),
        ("cluster.nodes=0", "cluster.nodes = 0"),
        ("cluster.image=a.sif", "cluster.image = a.sif: is not read where cluster.container is none"),
    ],
)
def test_what_is_wrong_is_said(given, said):
    found = told(given)
    assert len(found) == 1
    assert said in found[0]


def test_a_line_that_a_text_breaks_is_said():
    broken = replace(read_cluster([], None)[0], comment="a\n#SBATCH --uid=0", setup=("module load a", "b\n"))
    assert [problem.path for problem in check(broken)] == ["cluster.comment", "cluster.setup"]
    quoted = replace(broken, comment='a "b" c', setup=())
    assert [problem.why for problem in check(quoted)] == ["holds a quote or a backslash"]


def test_all_of_it_is_said_at_once():
    assert len(told("cluster.tme=1", "cluster.time=2h", "cluster.mounts=[x]", "cluster=pyxis")) == 4


def test_an_unknown_profile_names_those_that_there_are():
    with pytest.raises(UserError, match="no such profile; one of apptainer, pyxis, slurm"):
        read_cluster(["cluster=mine"], None)


def test_a_profile_of_ones_own_is_one_file(tmp_path):
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "mine.yaml").write_text("defaults: [slurm]\naccount: vision\ntime: '2-00:00:00'\n")
    cluster, problems = read_cluster(["cluster=mine", "cluster.qos=high"], tmp_path)
    assert not problems
    assert (cluster.account, cluster.qos, seconds(cluster.time)) == ("vision", "high", 172_800)


@pytest.mark.parametrize(
    ("run", "cluster", "nodes", "said"),
    [
        (["experiment=hpt-72b"], [], 8, ""),
        (["experiment=hpt-7b"], [], 1, ""),
        (["experiment=hpt-7b", "trainer.placement=split"], [], 2, ""),
        (["experiment=hpt-7b", "trainer.placement=split"], ["cluster.rollout_nodes=1"], 1, ""),
        (["experiment=hpt-7b"], ["cluster.rollout_nodes=1"], 1, "these share the trainer's devices"),
        (["experiment=hpt-72b"], ["cluster.nodes=4"], 8, "are too few for the devices"),
        (["experiment=hpt-7b"], ["cluster.gpus=none"], 1, "asks for no GPU"),
    ],
)
def test_nodes_are_those_that_the_run_takes(run, cluster, nodes, said):
    asked, profile = load_run(run), read_cluster(cluster, None)[0]
    assert nodes_of(profile, asked) == nodes
    found = [str(problem) for problem in check_room(profile, asked)]
    assert bool(found) == bool(said)
    assert not said or said in found[0]
