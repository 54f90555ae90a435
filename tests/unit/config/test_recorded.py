"""A run's configuration from its record: the same run again, also where the record is older than a key."""

import json
from dataclasses import asdict

import pytest

from hpt_megatron.config.load import load_run
from hpt_megatron.config.recorded import run_of
from hpt_megatron.errors import UserError

pytestmark = pytest.mark.fast


def written(*given):
    run = load_run(list(given))
    return run, json.loads(json.dumps(asdict(run)))


@pytest.mark.parametrize("given", ["experiment=tiny-hpt", "experiment=hpt-7b", "model=llama-3.1-8b"])
def test_a_run_comes_back_as_it_was(given):
    run, values = written(*([given] if "=tiny" in given or "=hpt" in given else ["experiment=hpt-7b", given]))
    assert run_of(values, "run.json") == run


def test_a_key_that_the_run_did_not_have_yet_has_its_default():
    run, values = written()
    del values["trainer"]["record_freq"], values["reward"]["judge"]["votes"]
    assert run_of(values, "run.json") == run


def test_what_does_not_fit_and_what_nobody_knows_is_refused_with_the_file():
    for change, says in (({"lr": "fast"}, "trainer.lr"), ({"lrr": 1.0}, "trainer.lrr")):
        _, values = written()
        values["trainer"] |= change
        with pytest.raises(UserError, match=f"run.json: is no run of this version: error: {says}"):
            run_of(values, "run.json")
