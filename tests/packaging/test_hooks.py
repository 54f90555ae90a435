"""The checks before a commit: they need no network, and they refuse what they are there for."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml


@pytest.mark.fast
def test_every_hook_is_local(checkout: Path) -> None:
    """A hook from elsewhere would need a network, and pin its tools a second time."""
    config = yaml.safe_load((checkout / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    assert {hook["language"] for hook in config["repos"][0]["hooks"]} == {"system"}


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed on this host")
def test_the_size_hook_refuses_a_large_file_and_passes_a_small_one(checkout: Path, tmp_path: Path) -> None:
    """Runs pre-commit in a repository of its own. Does not cover the other hooks: they are the commands of test.sh."""
    shutil.copy(checkout / ".pre-commit-config.yaml", tmp_path)
    (tmp_path / "small file.bin").write_bytes(bytes(512_000))
    (tmp_path / "large file.bin").write_bytes(bytes(512_001))
    for command in (["git", "init", "-q"], ["git", "add", "."]):
        subprocess.run(command, cwd=tmp_path, check=True)
    command = [sys.executable, "-m", "pre_commit", "run", "file-size", "--files"]
    large = subprocess.run([*command, "large file.bin"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert large.returncode == 1
    assert "large file.bin is over 500 KiB" in large.stdout
    assert subprocess.run([*command, "small file.bin"], cwd=tmp_path, capture_output=True, check=False).returncode == 0
