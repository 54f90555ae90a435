"""Images ready for the engine and the trainer: decoded, brought to their shown size, in threads, with a cache.

    sources --(threads, in order)--> RGB image of the shown size  --> the engine      --patches()--> the trainer
                    |  a cache of such images by content, the least recently used go first

Decision: the cache holds images and not patches. Patches are eight times as large, and making them is a look-up.

Invariants
    1. The order of what comes out is that of what goes in, whatever the number of threads.
    2. The cache never holds more bytes than it may; `stream` holds at most two images a thread beyond it.
    3. A file that changes on disk is another image.
    4. An image that cannot be used raises at its place; those before it were given. Where a row is given, the error
       names it.

Example:
    >>> preparer = Preparer(PictureRules(), threads=2, cache_bytes=2**20)
    >>> [image.size for image in preparer.images([])]
    []
"""

import hashlib
import os
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hpt_megatron.config.run import DataConfig
from hpt_megatron.data.augment import augmented
from hpt_megatron.data.pictures import MOST_PIXELS, PictureRules, open_source, patches, show, shown_size
from hpt_megatron.data.record import Record, Source
from hpt_megatron.errors import UserError

T = TypeVar("T")


class Preparer:
    """Makes images ready; close it, or use it in a `with`."""

    def __init__(
        self,
        rules: PictureRules,
        threads: int = 2,
        cache_bytes: int = 0,
        limits: tuple[int | None, int | None] = (None, None),
        pixel_limit: int = MOST_PIXELS,
        augment: tuple[str, ...] = (),
    ) -> None:
        self.rules, self.limits, self.pixel_limit, self.augment = rules, limits, pixel_limit, augment
        self.threads, self.cache_bytes = threads, cache_bytes
        self.hits = self.misses = self.held_bytes = 0
        self._pool = ThreadPoolExecutor(threads, "images")
        self._lock = Lock()
        self._held: OrderedDict[str, Image.Image] = OrderedDict()

    @classmethod
    def of(cls, data: DataConfig, rules: PictureRules) -> "Preparer":
        """As the run says."""
        limits = (data.image_min_pixels, data.image_max_pixels)
        size = data.image_cache_mb * 2**20
        return cls(rules, data.image_threads, size, limits, data.image_limit, data.augment)

    def __enter__(self) -> "Preparer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the threads; what they have begun is finished first."""
        self._pool.shutdown(cancel_futures=True)

    def frame(self, width: int, height: int) -> tuple[int, int]:
        """The size at which the model sees an image of this size."""
        return shown_size(width, height, self.rules, *self.limits)

    def images(self, sources: Sequence[Source], row: str = "") -> list[Image.Image]:
        """The images at their shown sizes, in order; `row`: the name of the row they are of."""
        with _named(row):
            return list(self.stream(sources))

    def patches(self, sources: Sequence[Source], row: str = "") -> list[NDArray[np.float32]]:
        """The same as patches."""
        with _named(row):
            return list(self._ahead(lambda source: patches(self.image(source), self.rules), sources))

    def stream(self, sources: Iterable[Source]) -> Iterator[Image.Image]:
        """The images one after the other, while the threads work ahead."""
        return self._ahead(self.image, sources)

    def _ahead(self, work: Callable[[Source], T], sources: Iterable[Source]) -> Iterator[T]:
        ahead: deque[Future[T]] = deque()
        try:
            for source in sources:
                ahead.append(self._pool.submit(work, source))
                if len(ahead) >= 2 * self.threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for waiting in ahead:
                waiting.cancel()

    def image(self, source: Source) -> Image.Image:
        """One image at its shown size, from the cache if it is there."""
        key = _key(source) if self.cache_bytes else ""
        with self._lock:
            if key in self._held:
                self.hits += 1
                self._held.move_to_end(key)
                return self._held[key]
        original = open_source(source, self.pixel_limit)
        shown = show(original, self.frame(*original.size))
        with self._lock:
            self.misses += 1
            if key:
                self._keep(key, shown)
        return shown

    def augmented(self, record: Record, seed: str) -> Record:
        """The record with the changes that the run asks for; the same ones for the same seed."""
        with _named(record.index):
            return augmented(record, self.augment, seed, self.frame, self.pixel_limit)

    def _keep(self, key: str, image: Image.Image) -> None:
        size = _bytes(image)
        if size > self.cache_bytes or key in self._held:
            return
        self._held[key] = image
        self.held_bytes += size
        while self.held_bytes > self.cache_bytes:
            _, gone = self._held.popitem(last=False)
            self.held_bytes -= _bytes(gone)


@contextmanager
def _named(row: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(str(error), where=f"row {row}" if row else "") from error


def _bytes(image: Image.Image) -> int:
    return image.size[0] * image.size[1] * 4  # PIL keeps RGB in four bytes


def _key(source: Source) -> str:
    if source.data is not None:
        return hashlib.blake2b(source.data, digest_size=16).hexdigest()
    try:
        found = os.stat(source.path or "")
    except (OSError, ValueError):
        return ""  # reading it finds the words
    return f"{source.path}/{found.st_mtime_ns}/{found.st_size}"
