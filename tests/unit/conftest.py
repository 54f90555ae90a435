"""What several folders here share: the tiny checkpoint with its tokenizer, and a package that plugs into ours."""

import subprocess
import sys

import pytest


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The tiny checkpoint's folder; nobody writes into it."""
    from hpt_megatron.embedded.folder import write_tiny

    return write_tiny(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def chat(tiny):
    from hpt_megatron.data.chat import Chat

    return Chat.open(tiny)


@pytest.fixture
def installed(tmp_path):
    """Installs a real distribution, one module and its metadata, into a folder that it answers."""

    def install(module, code, entry_points):
        (tmp_path / f"{module}.py").write_text(code)
        metadata = tmp_path / f"{module}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module.replace('_', '-')}\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(entry_points)
        return tmp_path

    return install


@pytest.fixture
def with_plugin(installed):
    """Runs a program in a fresh process beside an installed distribution."""

    def run(module, code, entry_points, program, *arguments):
        folder = installed(module, code, entry_points)
        whole = f"import sys; sys.path.append({str(folder)!r})\n{program}"
        command = [sys.executable, "-c", whole, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
