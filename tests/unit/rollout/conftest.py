"""A corpus, once for all tests of this folder."""

import pytest
from lookup_world import write_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))
