"""The engines that the tests of this folder share."""

import pytest

from hpt_megatron.embedded.folder import write_tiny


@pytest.fixture(scope="package")
def folder(tmp_path_factory):
    return str(write_tiny(tmp_path_factory.mktemp("model") / "tiny", seed=0))


@pytest.fixture(scope="package")
def processor(folder):
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(folder)


@pytest.fixture(scope="package")
def picture():
    """Not one colour: each of the four visual tokens sees something else."""
    from PIL import Image

    image = Image.new("RGB", (56, 56), (255, 255, 255))
    for place, colour in (((0, 0), (255, 0, 0)), ((28, 0), (0, 0, 255)), ((0, 28), (0, 128, 0))):
        image.paste(colour, (*place, place[0] + 28, place[1] + 28))
    return image


@pytest.fixture(scope="package")
def forbidden(folder):
    """Half of the bytes, so that without the mask any response would hold some; and what stands for images."""
    from hpt_megatron.config.load import load_run

    model = load_run([f"model.path={folder}"]).model
    return (*range(128), model.image_token_id, model.video_token_id)


@pytest.fixture(scope="package")
def shared_engine(folder, forbidden):
    """The engine as a run has it, in processes of its own; test_engine_role.py ends with killing it."""
    from hpt_megatron.config.load import load_run
    from hpt_megatron.rollout.engine.vllm_engine import VllmEngine

    run = load_run(
        [
            *(f"model.path={folder}", "layout=tp2", "rollout.max_num_seqs=8", "rollout.max_images=2"),
            *("rollout.max_model_len=1024", "data.max_response_length=512", "data.max_prompt_length=512"),
            *("data.max_prefix_len=512", "rollout.temperature=0.7"),
        ]
    )
    engine = VllmEngine(run, folder, forbidden)
    engine.start()
    yield engine
    engine.stop()


@pytest.fixture(scope="package")
def engine(folder):
    """vLLM on the tiny model, in this process, so that it ends with it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        patch.setenv("VLLM_LOGGING_LEVEL", "ERROR")
        from vllm import LLM
        from vllm.distributed import cleanup_dist_env_and_memory

        yield LLM(
            folder,
            dtype="float32",
            max_model_len=512,
            max_num_seqs=8,
            enforce_eager=True,
            limit_mm_per_prompt={"image": 1, "video": 0},
            enable_prefix_caching=False,
            logprobs_mode="processed_logprobs",  # under the temperature and the mask that sampled
            seed=0,
        )
        cleanup_dist_env_and_memory()  # the next folder may start an engine or a process group of its own
