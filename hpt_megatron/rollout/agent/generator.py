"""The frozen generator of the searcher mode: another model, behind an OpenAI-compatible address, answers from what
was found.

Decision: its answer is data. It is kept beside the trajectory, or behind it with mask 0 where that is asked for; it
is never trained on.

Invariants
    1. It sees the question and the last `max_images` images, and nothing that the policy wrote.
    2. It answers a text or None; it never raises for what the address does, and tries at most `retries` times more.

Example: await Generator(GeneratorSettings(url="http://127.0.0.1:8001/v1", model="qwen")).answer("how many?", views)
"""

import asyncio
import base64
import io
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from hpt_megatron.rewards.turns import first_action
from hpt_megatron.rollout.agent.views import View

LOG = logging.getLogger(__name__)
LONGEST_ANSWER = 4000
ASK = "Answer the question from the images. Give the short answer alone, inside <answer> and </answer>.\nQuestion: "
AGAIN = (429, 500, 502, 503, 504)


@dataclass(frozen=True, kw_only=True)
class GeneratorSettings:
    """Where it is and how it is asked."""

    url: str
    model: str
    max_tokens: int = 256
    max_images: int = 8
    workers: int = 16
    retries: int = 3
    backoff_base_s: float = 0.5
    timeout_s: float = 120.0


class Generator:
    """Belongs to one event loop."""

    def __init__(self, settings: GeneratorSettings) -> None:
        self.settings = settings
        self._limit = asyncio.Semaphore(settings.workers)
        self._http: httpx.AsyncClient | None = None
        self._rng = random.Random(0)

    async def answer(self, question: str, views: Sequence[View]) -> str | None:
        """Its answer, or None where it gave none."""
        shown = [view for view in views if view.image is not None][-self.settings.max_images :]
        images = await asyncio.to_thread(lambda: [_data_url(view.image) for view in shown])
        parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in images]
        parts.append({"type": "text", "text": f"{ASK}{question}"})
        body = {
            "model": self.settings.model,
            "max_tokens": self.settings.max_tokens,
            "temperature": 0,
            "messages": [{"role": "user", "content": parts}],
        }
        for attempt in range(self.settings.retries + 1):
            async with self._limit:
                text, why = await self._once(body)
            if text is not None or why is None:
                return text
            LOG.warning("generator: %s", why)
            if attempt < self.settings.retries:
                await asyncio.sleep(self.settings.backoff_base_s * 2**attempt * self._rng.uniform(0.75, 1.25))
        return None

    async def _once(self, body: Any) -> tuple[str | None, str | None]:
        """The answer; or why there is none, where another try may help."""
        url = f"{self.settings.url.rstrip('/')}/chat/completions"
        try:
            answer = await self._client().post(url, json=body)
        except httpx.TransportError as error:
            return None, f"{type(error).__name__} {error}"
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            LOG.warning("generator: %s", error)
            return None, None
        if answer.status_code in AGAIN:
            return None, f"status {answer.status_code}"
        try:
            text = answer.json()["choices"][0]["message"]["content"] if answer.status_code == 200 else None
        except (ValueError, LookupError, TypeError, RecursionError):
            text = None
        if not isinstance(text, str):
            LOG.warning("generator: status %d, %r", answer.status_code, answer.text[:200])
            return None, None
        return answer_in(text), None

    def _client(self) -> httpx.AsyncClient:
        if self._http is None:
            self._http = httpx.AsyncClient(timeout=self.settings.timeout_s, trust_env=False)
        return self._http

    async def close(self) -> None:
        """Gives its connections back."""
        if self._http is not None:
            await self._http.aclose()
            self._http = None


def answer_in(text: str) -> str:
    """What stands between the tags; all of it without tags.

    >>> answer_in("so <answer> 4 </answer>"), answer_in(" 4 ")
    ('4', '4')
    """
    action = first_action(text)
    found = action.body if action is not None and action.name == "answer" else text.strip()
    return found[:LONGEST_ANSWER]


def _data_url(image: Any) -> str:
    file = io.BytesIO()
    image.save(file, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
