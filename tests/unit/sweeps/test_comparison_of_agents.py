"""What the start of a comparison hands over to its methods, where there are pages to search."""

from hpt_megatron.config.comparison import START, read_comparison
from hpt_megatron.config.load import load_run
from hpt_megatron.data.tasks.make import make
from hpt_megatron.data.tasks.place import task_folder
from hpt_megatron.embedded.folder import write_tiny
from hpt_megatron.recipes.compare import HUB, handed_over
from hpt_megatron.recipes.side_by_side import Job


def test_prompts_pages_and_weights_of_the_start_are_those_of_every_method(tmp_path):
    shipped = read_comparison("tiny-vrag")
    start = Job(tmp_path / START / "seed_1", shipped.start_of(1, tmp_path))
    write_tiny(start.folder / HUB, seed=1)
    make("search", task_folder(start.folder, "search"), seed=1)
    handed = handed_over(start)
    runs = {name: load_run([*shipped.run_of(name, 1, tmp_path), *handed]) for name in shipped.methods}
    assert {name: run.rollout.agent for name, run in runs.items()} == {"agent": "vrag", "single_turn": "single_turn"}
    for run in runs.values():
        assert run.model.path == str(start.folder / HUB)
        assert run.data.train_files[0].startswith(str(start.folder))
        assert run.rollout.search_corpus_root == str(start.folder / "data" / "search" / "corpus")
