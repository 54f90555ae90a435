"""`hpt tiny` as a process: the same bytes each time, all of the folder or nothing, and one line for each mistake."""

import hashlib
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from hpt_megatron.embedded.folder import digests, write_tiny

FILES = {
    *("chat_template.jinja", "config.json", "generation_config.json", "model.safetensors"),
    *("preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"),
}


def tiny(*options: object, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs `hpt tiny` as a user would."""
    command = [sys.executable, "-m", "hpt_megatron", "tiny", *map(str, options)]
    environment = {**os.environ, **variables}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, timeout=120, check=False)


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Asserts that it was the user's mistake, told in one line with these words."""
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    for word in words:
        assert word in done.stderr


def test_two_processes_write_the_same_bytes_whatever_their_threads_and_hash_seed(tmp_path):
    one = tiny(tmp_path / "one", PYTHONHASHSEED="1", OMP_NUM_THREADS="1", LC_ALL="C")
    two = tiny(tmp_path / "two", PYTHONHASHSEED="2", OMP_NUM_THREADS="2", LC_ALL="C.UTF-8")
    assert (one.returncode, two.returncode) == (0, 0)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert set(digests(tmp_path / "one")) == FILES
    assert digests(write_tiny(tmp_path / "here")) == digests(tmp_path / "one")


def test_another_seed_changes_the_weights_alone(tmp_path):
    first, second = digests(write_tiny(tmp_path / "0", seed=0)), digests(write_tiny(tmp_path / "1", seed=1))
    assert {name for name in FILES if first[name] != second[name]} == {"model.safetensors"}


def test_the_command_prints_its_own_lines_only(tmp_path):
    done = tiny(tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    first, *rest = done.stdout.splitlines()
    assert first.split() == ["wrote", str(tmp_path / "out")]
    assert [line.split()[0] for line in rest] == ["parameters", "tokens", "files"]
    assert "1,111,488" in rest[0]


def test_the_json_tells_what_lies_in_the_folder(tmp_path):
    told = json.loads(tiny(tmp_path / "out", "--json", "--seed", 7).stdout)
    assert (told["folder"], told["seed"], told["parameters"]["total"]) == (str(tmp_path / "out"), 7, 1_111_488)
    assert told["bytes"] == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    for name, digest in told["sha256"].items():
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == digest
    assert set(told["sha256"]) == FILES


def test_missing_parents_are_made_and_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "empty").mkdir()
    assert tiny(tmp_path / "empty").returncode == 0
    assert tiny("a/b/tiny", cwd=tmp_path).returncode == 0
    assert set(digests(tmp_path / "a" / "b" / "tiny")) == set(digests(tmp_path / "empty")) == FILES


def test_a_file_in_the_way_is_refused_and_kept(tmp_path):
    (tmp_path / "out").write_text("mine")
    refused(tiny(tmp_path / "out", "--overwrite"), "out: is a file", "give a folder")
    refused(tiny(tmp_path / "out" / "below"), "cannot be written: Not a directory")
    assert (tmp_path / "out").read_text() == "mine"


def test_a_place_that_cannot_be_written_is_refused():
    """The kernel's own file system: the superuser cannot write there either."""
    refused(tiny("/proc/tiny"), "/proc/tiny: cannot be written", "give a folder that can be written")


def test_a_folder_with_files_is_refused_and_replaced_only_when_it_holds_a_tiny_model(tmp_path):
    write_tiny(tmp_path / "out", seed=1)
    before = digests(tmp_path / "out")
    refused(tiny(tmp_path / "out"), "out: is not empty", "--overwrite")
    assert digests(tmp_path / "out") == before
    assert tiny(tmp_path / "out", "--overwrite").returncode == 0
    assert digests(tmp_path / "out") != before
    (tmp_path / "out" / "notes.txt").write_text("mine")
    refused(tiny(tmp_path / "out", "--overwrite"), "notes.txt")
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_folder_that_the_command_runs_in_is_refused(tmp_path):
    (tmp_path / "below").mkdir()
    refused(tiny(".", cwd=tmp_path / "below"), "runs inside this folder")
    refused(tiny("..", "--overwrite", cwd=tmp_path / "below"), "runs inside this folder")


def test_a_write_that_fails_half_way_leaves_nothing_new_and_keeps_the_old(tmp_path):
    """The kernel stops every file at 1 MiB, so the weights cannot be written whole."""
    write_tiny(tmp_path / "old", seed=1)
    before = digests(tmp_path / "old")
    for out in ("new", "old"):
        command = [sys.executable, "-m", "hpt_megatron", "tiny", str(tmp_path / out), "--overwrite"]
        line = f"ulimit -f 1024; exec {shlex.join(command)}"
        refused(subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False), "File too large")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert digests(tmp_path / "old") == before


@pytest.mark.parametrize("wrong", ["-1", "1.5", "x", "\u00b2", ""])
def test_a_seed_that_is_no_whole_number_is_refused_with_exit_code_2(tmp_path, wrong):
    refused(tiny(tmp_path / "out", f"--seed={wrong}"), "hpt tiny: ", "a whole number from 0 is needed")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "are required: OUT"),
        (["a", "b"], "unrecognized arguments: b"),
        (["a", "--sed", "1"], "--sed"),
        (["a", "--seed", "-1"], "--seed"),
        ([""], "OUT is empty; give the folder to write"),
        (["x" * 300], "cannot be written: File name too long"),
        (["x" * 250], "cannot be written: File name too long"),  # too long for what is written beside it
    ],
)
def test_every_wrong_argument_is_one_line_and_writes_nothing(tmp_path, words, told):
    """Arguments that only the file system can judge are covered by the tests above."""
    refused(tiny(*words, cwd=tmp_path), told)
    assert list(tmp_path.iterdir()) == []


def test_a_ring_of_links_is_refused(tmp_path):
    (tmp_path / "ring").symlink_to("ring")
    refused(tiny(tmp_path / "ring"), "ring: cannot be written")
    assert [path.name for path in tmp_path.iterdir()] == ["ring"]


def test_a_name_with_control_characters_is_told_on_one_line(tmp_path):
    """In failures and in the answer; the folder itself has the name that was asked for."""
    out, other = tmp_path / "a\nb", "c\x85\x1b[31m"
    first, *rest = tiny(out).stdout.splitlines()
    assert first.split()[0] == "wrote"
    assert first.endswith('/a\\nb"')
    assert len(rest) == 3
    refused(tiny(out), '/a\\nb": is not empty')
    (out / other).write_text("mine")
    refused(tiny(out, "--overwrite"), "c\\u0085\\u001b[31m")
    refused(tiny("/proc/a\nb"), '"/proc/a\\nb": cannot be written')
    refused(tiny(out / "config.json"), '/a\\nb/config.json": is a file')


def test_neither_torch_nor_transformers_is_imported(tmp_path):
    code = (
        "import sys; from hpt_megatron.embedded.folder import write_tiny; write_tiny(sys.argv[1]);"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], check=False).returncode == 0
