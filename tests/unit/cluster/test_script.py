"""What SLURM is given, word for word: one file for each kind of job under `golden/`, and shellcheck of all of them."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hpt_megatron.cluster.job import Job, Point, read_job
from hpt_megatron.cluster.script import script
from hpt_megatron.cluster.submission import of_command, of_run
from hpt_megatron.config.cluster import read_cluster
from hpt_megatron.config.load import load_run
from hpt_megatron.errors import HptError, UserError

pytestmark = pytest.mark.fast
GOLDEN = Path(__file__).parent / "golden"
HERE = Path("/lustre/vision")
PYTHON = "cluster.python=/lustre/venv/bin/python"
KINDS = {
    "seven": (["experiment=hpt-7b"], [PYTHON, "cluster.account=vision"]),
    "many": (
        ["experiment=hpt-72b"],
        [PYTHON, "cluster.partition=batch", "cluster.gpu_type=h100", "cluster.cpus_per_node=96", "cluster.memory=900G"],
    ),
    "apart": (
        ["experiment=hpt-7b", "trainer.placement=split"],
        [PYTHON, "cluster.rollout_nodes=1", "cluster.rollout_partition=inference", "cluster.gpus=gres"],
    ),
    "pyxis": (
        ["experiment=hpt-7b"],
        [
            "cluster=pyxis",
            "cluster.image='registry#hpt:1'",
            "cluster.mounts=[/data:/data]",
            "cluster.forward=[HF_TOKEN]",
        ],
    ),
    "apptainer": (
        ["experiment=hpt-7b"],
        [
            *("cluster=apptainer", "cluster.image='/images/hpt one.sif'", "cluster.environment=['NCCL_DEBUG=WARN']"),
            "cluster.setup=['module load apptainer']",
        ],
    ),
}


def job_of(kind: str):
    run, cluster = KINDS[kind]
    asked = load_run([*run, f"trainer.run_dir=/lustre/vision/runs/{kind}"])
    profile, problems = read_cluster(cluster, None)
    assert not problems
    return of_run(asked, profile, HERE)


def texts() -> dict[str, str]:
    """By name, every kind of job; also an array, and another verb than train."""
    found = {kind: job_of(kind).text() for kind in KINDS}
    one = job_of("seven")
    points = tuple(Point(Path(f"/lustre/vision/sweep/{name}"), ("train", "--recorded", name)) for name in "abcd")
    array = replace(one.job, points=points)
    found["array"] = script(array, Path("/lustre/vision/sweep/submitted_1"), HERE, concurrent=2, after="41")
    cluster = read_cluster([PYTHON, "cluster.exclusive=false", "cluster.comment=a 72B one"], None)[0]
    arguments = ["import", "hub", "out"]
    found["convert"] = of_command("convert", arguments, Path("/lustre/vision/runs/convert"), 0, cluster, HERE).text()
    return found


@pytest.mark.parametrize("name", [*KINDS, "array", "convert"])
def test_the_script_is_the_one_that_was_read_by_people(name):
    """After a change that is meant: write the text into the file, and read the difference."""
    assert texts()[name] == (GOLDEN / f"{name}.sbatch").read_text(encoding="utf-8")


def test_shellcheck_finds_nothing():
    program = Path(sys.executable).with_name("shellcheck")
    files = sorted(map(str, GOLDEN.glob("*.sbatch")))
    done = subprocess.run([program, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert len(files) == len(KINDS) + 2


def test_a_folder_with_a_space_stays_one_word():
    run = load_run(["experiment=hpt-7b", "trainer.run_dir=/lustre/a run"])
    text = of_run(run, read_cluster([PYTHON], None)[0], HERE).text()
    assert '#SBATCH --job-name="hpt-a run"\n' in text
    assert '#SBATCH --output="/lustre/a run/job-%j.log"\n' in text
    assert "export HPT_JOB='/lustre/a run/submitted_1/job.json'\n" in text


@pytest.mark.parametrize("folder", ["/lustre/50%", "/lustre/it's", '/lustre/"a"', "/lustre/a\nb"])
def test_a_path_that_slurm_reads_otherwise_is_refused(folder):
    one = job_of("seven")
    with pytest.raises(UserError, match="in a path otherwise"):
        script(one.job, Path(folder), HERE)


def test_what_the_nodes_read_is_what_was_written(tmp_path):
    job: Job = job_of("many").job
    job.write(tmp_path / "job.json")
    assert read_job(tmp_path / "job.json") == job
    assert (job.nodes, job.slots, job.devices, job.trains) == (8, 8, 8, True)


@pytest.mark.parametrize("text", ["", "{}", '{"cluster": 3, "points": []}'])
def test_a_job_that_cannot_be_read_says_so(tmp_path, text):
    (tmp_path / "job.json").write_text(text)
    with pytest.raises(HptError, match=r"job\.json"):
        read_job(tmp_path / "job.json")
