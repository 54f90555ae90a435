"""The trainer's log-probabilities are those that vLLM's sampler reports as `processed_logprobs`.

The sampler itself runs, on drawn logits. Not covered: top-k, top-p and penalties, which change the distribution and
have no counterpart in the trainer; the model below the logits.
"""

import pytest

pytestmark = pytest.mark.slow
ROWS, VOCABULARY, HIDDEN, TOKENS, FORBIDDEN = 64, 61, 16, 33, (0, 7, 8, 60)


def metadata(torch, temperature: float, forbidden: tuple[int, ...]):
    """What the engine would hand to its sampler for requests with this temperature and these ids masked out."""
    from vllm.v1.sample.logits_processor import LogitsProcessors
    from vllm.v1.sample.metadata import SamplingMetadata

    nothing = torch.zeros(TOKENS)
    masked = torch.zeros(TOKENS, VOCABULARY, dtype=torch.bool)
    masked[:, list(forbidden)] = True
    return SamplingMetadata(
        temperature=torch.full((TOKENS,), temperature) if temperature else None,
        all_greedy=not temperature,
        all_random=bool(temperature),
        top_p=None,
        top_k=None,
        generators={row: torch.Generator().manual_seed(row) for row in range(TOKENS)},
        max_num_logprobs=0,
        no_penalties=True,
        prompt_token_ids=None,
        frequency_penalties=nothing,
        presence_penalties=nothing,
        repetition_penalties=nothing,
        output_token_ids=[[] for _ in range(TOKENS)],
        allowed_token_ids_mask=masked,  # true where a token is NOT allowed
        bad_words_token_ids={},
        logitsprocs=LogitsProcessors(),
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("forbidden", [(), FORBIDDEN], ids=["all", "masked"])
@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0, 2.0])
def test_log_probs_of_sampled_tokens_equal_what_the_sampler_reports(temperature, forbidden, dtype):
    """At the tokens that it samples. Greedy (0) is reported at temperature 1."""
    import torch
    from vllm.v1.sample.sampler import Sampler

    from hpt_megatron.mcore.model.log_probs import Sampling, log_probs

    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, HIDDEN, generator=generator).to(getattr(torch, dtype))
    weight = torch.randn(ROWS, HIDDEN, generator=generator).to(getattr(torch, dtype))
    logits = (hidden @ weight.t())[:, :VOCABULARY]
    said = Sampler(logprobs_mode="processed_logprobs")(logits, metadata(torch, temperature, forbidden))
    labels = said.sampled_token_ids.flatten().long()
    assert not set(labels.tolist()) & set(forbidden)
    how = Sampling(VOCABULARY, temperature or 1.0, forbidden, chunk=TOKENS)
    logp, _ = log_probs(hidden, weight, labels, how)
    torch.testing.assert_close(logp, said.logprobs_tensors.logprobs[:, 0], rtol=1e-6, atol=2e-6)
