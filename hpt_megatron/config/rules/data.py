"""Files of prompts, their images, and the order in which they are taken."""

from collections.abc import Iterator
from os.path import isdir, isfile  # unlike Path's, they never raise
from pathlib import Path

from hpt_megatron.config.problem import Problem
from hpt_megatron.config.run import RunConfig

AUGMENTATIONS = ("brightness", "jitter", "crop_pad")


def check_data_files(run: RunConfig) -> Iterator[Problem]:
    """Files that are named exist and are of a kind that can be read."""
    data = run.data
    groups = {
        "train_files": data.train_files,
        "warmup_files": data.warmup_files,
        "val_files": data.val_files,
        "base_files": data.base_files,
    }
    for group, files in ((f"data.{name}", files) for name, files in groups.items()):
        for index, name in enumerate(files):
            path = f"{group}[{index}]"
            if Path(name).suffix not in (".parquet", ".jsonl"):
                yield Problem(path, name, "is neither parquet nor JSON lines", "a .parquet or .jsonl file")
            elif not isfile(name):
                yield Problem(
                    path, name, "no such file", "an existing file; relative paths start at the current folder"
                )


def check_image_sizes(run: RunConfig) -> Iterator[Problem]:
    """There is a size between the limits, and a folder that images are looked for in."""
    data = run.data
    least, most = data.image_min_pixels, data.image_max_pixels
    if least is not None and most is not None and least > most:
        yield Problem("data.image_min_pixels", least, f"is above image_max_pixels {most}", f"at most {most}, or null")
    if data.image_cache_mb < 0:
        yield Problem("data.image_cache_mb", data.image_cache_mb, "must not be negative", "512, or 0 for no cache")
    if data.image_root is not None and not isdir(data.image_root):
        yield Problem("data.image_root", data.image_root, "no such folder", "an existing folder, or null")


def check_augmentations(run: RunConfig) -> Iterator[Problem]:
    """Only changes that are known."""
    for index, name in enumerate(run.data.augment):
        if name not in AUGMENTATIONS:
            yield Problem(f"data.augment[{index}]", name, "no such change of an image", ", ".join(AUGMENTATIONS))


def check_sampler(run: RunConfig) -> Iterator[Problem]:
    """A curriculum has something to go by, and can be climbed."""
    data = run.data
    if data.sampler in ("staged", "by_success"):
        if not data.difficulty:
            why = f"{data.sampler} orders prompts by a number that each brings"
            yield Problem("data.difficulty", data.difficulty, why, "a name in extra_info, such as -PassRate_7BBase")
    elif data.difficulty:
        why = f"is not read by data.sampler={data.sampler}"
        yield Problem("data.difficulty", data.difficulty, why, "null, or sampler=staged", "warning")
    if not 0 < data.promote_at <= 1:
        yield Problem("data.promote_at", data.promote_at, "is a share of successful rollouts", "above 0, at most 1")
