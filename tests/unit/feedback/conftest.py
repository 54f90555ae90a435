"""A recorded run, and evaluations, written by the product's own writers."""

import pytest


@pytest.fixture
def run_folder(tmp_path):
    from written_run import write_run

    return write_run(tmp_path / "run")
