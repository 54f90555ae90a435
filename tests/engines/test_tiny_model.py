"""Real vLLM on a CPU loads the tiny model and says what transformers says: greedy tokens and log-probabilities."""

import pytest
from prompts import QUESTIONS, prompt_of

pytestmark = pytest.mark.slow
NEW_TOKENS = 12
VARIED = "<think>red blue 3 + 5 = 8 k07</think><search>k12</search> zoom \u00e9 <answer>none of 42</answer>"


@pytest.fixture(scope="module")
def model(folder):
    from transformers import Qwen2_5_VLForConditionalGeneration

    loaded = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder)
    loaded.generation_config.eos_token_id = None  # the same number of tokens from both
    return loaded


def greedy(model, inputs) -> tuple[list[int], list[float]]:
    """Greedy tokens of transformers and their log-probabilities."""
    import torch

    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "repetition_penalty": 1.0, "output_logits": True}
    with torch.no_grad():
        made = model.generate(**inputs, **options, return_dict_in_generate=True)
    ids = made.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    return ids, [float(step.log_softmax(-1)[0, token]) for step, token in zip(made.logits, ids, strict=True)]


@pytest.mark.parametrize("kind", list(QUESTIONS))
def test_vllm_gives_the_greedy_tokens_and_log_probabilities_of_transformers(engine, model, processor, picture, kind):
    """One prompt of each kind, float32; batches, bfloat16 and new weights are not covered here."""
    from vllm import SamplingParams

    text, images = prompt_of(processor, kind), [picture] if kind == "image" else None
    expected, logprobs = greedy(model, processor(text=[text], images=images, return_tensors="pt"))
    request = {"prompt": text} | ({"multi_modal_data": {"image": picture}} if images else {})
    how = SamplingParams(temperature=0.0, repetition_penalty=1.0, max_tokens=NEW_TOKENS, ignore_eos=True, logprobs=0)
    served = engine.generate([request], how, use_tqdm=False)[0].outputs[0]
    assert list(served.token_ids) == expected
    assert len(expected) == NEW_TOKENS
    told = [step[token].logprob for step, token in zip(served.logprobs, expected, strict=True)]
    assert told == pytest.approx(logprobs, abs=1e-3)


@pytest.mark.parametrize("kind", list(QUESTIONS))
def test_vllm_gives_every_token_of_a_varied_answer_the_log_probability_of_transformers(
    engine, model, processor, picture, kind
):
    """Random weights repeat one token when greedy; here a varied sequence is given."""
    import torch
    from vllm import SamplingParams

    text, images = prompt_of(processor, kind) + VARIED, [picture] if kind == "image" else None
    inputs = processor(text=[text], images=images, return_tensors="pt")
    with torch.no_grad():
        logprobs = model(**inputs).logits[0, :-1].log_softmax(-1)
    ids = inputs["input_ids"][0]
    request = {"prompt": text} | ({"multi_modal_data": {"image": picture}} if images else {})
    how = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0)
    made = engine.generate([request], how, use_tqdm=False)[0]
    assert made.prompt_token_ids == ids.tolist()
    told = [step[token].logprob for step, token in zip(made.prompt_logprobs[1:], ids[1:].tolist(), strict=True)]
    assert told == pytest.approx(logprobs.gather(-1, ids[1:, None])[:, 0].tolist(), abs=1e-3)


def test_the_image_decides_what_the_model_says(engine, processor, picture):
    """Without this the image test above could pass with a vision tower that both engines leave out."""
    from PIL import Image
    from vllm import SamplingParams

    text, how = prompt_of(processor, "image"), SamplingParams(temperature=0.0, max_tokens=1, logprobs=0)
    pictures = (picture, Image.new("RGB", (56, 56), (0, 0, 0)))
    requests = [{"prompt": text, "multi_modal_data": {"image": image}} for image in pictures]
    first = [
        next(iter(made.outputs[0].logprobs[0].values())).logprob
        for made in engine.generate(requests, how, use_tqdm=False)
    ]
    assert abs(first[0] - first[1]) > 1e-3


def test_sampling_parameters_left_out_are_those_of_the_checkpoint(engine):
    """Why every consumer passes its own: the checkpoint penalises repetition and is all but greedy, as Qwen's are.

    The temperature is not the 1e-6 of the file: vLLM raises what is below 0.01 to that.
    """
    defaults = engine.get_default_sampling_params()
    assert defaults.repetition_penalty == 1.05
    assert defaults.temperature == 0.01
