"""The presets of `reward.preset`: compositions as plain values, in the words of a file of `reward.file`.

The four named for a share are accuracy, length and quality with the components' own settings, so accuracy needs gold
answers. `geometry3k` is what geometry problems are scored with, `exact` compares answers as text.

Example:
    >>> PRESETS["length"]["length_weight"], list(PRESETS)
    (0.7, ['balanced', 'accuracy', 'length', 'quality', 'geometry3k', 'exact'])
"""

from typing import Any


def _shares(accuracy: float, length: float, quality: float) -> dict[str, Any]:
    return {"accuracy_weight": accuracy, "length_weight": length, "quality_weight": quality}


PRESETS: dict[str, dict[str, Any]] = {
    "balanced": _shares(0.4, 0.2, 0.4),
    "accuracy": _shares(0.8, 0.1, 0.1),
    "length": _shares(0.15, 0.7, 0.15),
    "quality": _shares(0.15, 0.15, 0.7),
    "geometry3k": {
        "components": [
            {"name": "math", "as": "accuracy", "weight": 0.9},
            {"name": "boxed_format", "as": "format", "weight": 0.1},
        ],
        "success": {"all": ["accuracy"]},
    },
    "exact": {"components": [{"name": "exact_match", "as": "accuracy"}], "success": {"all": ["accuracy"]}},
}
