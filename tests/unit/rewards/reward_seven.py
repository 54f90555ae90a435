"""Reward 7 with its own shares, as a composition in a file says it."""

from hpt_megatron.rewards.composition_file import read_composition

WRITTEN = {
    "components": [{"name": "format", "weight": 0.1}, {"name": "ndcg", "weight": 0.9}],
    "gate": ["format"],
    "success": {"all": [{"component": "score", "op": ">", "value": 0.1}]},
}
RETRIEVAL = read_composition(WRITTEN)
