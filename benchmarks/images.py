"""Images per second: from JPEG bytes to patches, by threads and with a warm cache.

python benchmarks/images.py --count 64 --size 1024x768
"""

import argparse
import io
import time

import numpy as np
from PIL import Image

from hpt_megatron.data.pictures import PictureRules, grid, tokens
from hpt_megatron.data.prepared import Preparer
from hpt_megatron.data.record import Source


def photographs(count: int, width: int, height: int) -> list[Source]:
    """Different pictures with some structure, as JPEG."""
    found = []
    for seed in range(count):
        small = np.random.default_rng(seed).integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
        held = io.BytesIO()
        Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(held, "JPEG", quality=90)
        found.append(Source(data=held.getvalue()))
    return found


def main() -> None:
    """Prints one line for each way."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--count", type=int, default=64)
    options.add_argument("--size", default="1024x768")
    options.add_argument("--max-pixels", type=int, default=512 * 28 * 28)
    given = options.parse_args()
    width, height = map(int, given.size.split("x"))
    sources, rules = photographs(given.count, width, height), PictureRules()
    for threads, cache, rounds in ((1, 0, 1), (2, 0, 1), (1, 2**30, 2)):
        with Preparer(rules, threads, cache, limits=(None, given.max_pixels)) as preparer:
            for _ in range(rounds):
                started, used = time.perf_counter(), time.process_time()
                preparer.patches(sources)
                seconds, used = time.perf_counter() - started, time.process_time() - used
            shown = preparer.image(sources[0]).size
        name = f"{threads} thread{'s' * (threads > 1)}" + (", from the cache" if rounds > 1 else "")
        count = tokens(grid(*shown, rules), rules)
        each = f"{given.count / seconds:7.0f} images/s, {1000 * used / given.count:6.1f} ms of processor time each"
        print(f"{name:<28}{each}   {given.size} shown at {shown[0]}x{shown[1]}, {count} tokens")


if __name__ == "__main__":
    main()
