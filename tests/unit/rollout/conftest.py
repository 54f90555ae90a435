"""The tiny tokenizer and a corpus, once for all tests of this folder."""

import pytest
from lookup_world import write_corpus


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    from hpt_megatron.embedded.folder import write_tiny

    return write_tiny(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def chat(tiny):
    from hpt_megatron.data.chat import Chat

    return Chat.open(tiny)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))
