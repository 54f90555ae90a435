"""Reads a configuration file of the user's own before Hydra does, because Hydra drops a whole file for one bad entry.

What Hydra would stop at is reported and taken out: entries of `defaults` that name no group or no choice, a list
where a group of keys belongs. What is left is written to a folder that Hydra searches first, so that the other
mistakes of the same file are found too.

Example of a problem's line (the file itself stays as it is):

    error: mine.yaml: defaults = override /modle: tiny: no such group; right would be: override /model
"""

from dataclasses import dataclass, field
from pathlib import Path

import yaml

from hpt_megatron.config.files import configs_folder
from hpt_megatron.config.problem import Problem, nearest


@dataclass
class Own:
    """What a file says: `text` is what Hydra can take of it, or None when nothing of it can be read."""

    text: str | None
    problems: list[Problem] = field(default_factory=list)


def read_own(file: Path, groups: dict[str, list[str]]) -> Own:
    """Reads one file; `groups` are all groups with all choices, shipped and own."""
    group, name = file.parent.name, str(file)
    try:
        text = file.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        yaml.safe_load(text)
    except yaml.YAMLError as error:
        return Own(None, [Problem(group, file.stem, yaml_line(error, name), "a file in YAML")])
    except UnicodeDecodeError:
        return Own(None, [Problem(group, file.stem, f"{name} is not UTF-8", "a file in YAML, saved as UTF-8")])
    except (OSError, ValueError) as error:
        return Own(None, [Problem(group, file.stem, f"{name}: {error}", "a file in YAML that can be read")])
    if root is None:
        return Own(text)
    if not isinstance(root, yaml.MappingNode):
        return Own(None, [Problem(group, file.stem, f"{name} is no group of keys", "key: value")])
    own = Own(text)
    kept = []
    for key, value in root.value:
        if key.value == "defaults" and isinstance(value, yaml.SequenceNode):
            value.value = [entry for entry in value.value if _entry_holds(entry, file, groups, own.problems)]
        elif group == "experiment" and key.value in groups and isinstance(value, yaml.SequenceNode):
            right = f"{key.value}: with its keys below"
            own.problems.append(Problem(key.value, f"a list in {name}", "must be a group of keys", right))
            continue
        kept.append((key, value))
    if own.problems:
        root.value = kept
        header = "".join(line for line in text.splitlines(keepends=True) if line.startswith("# @package"))
        own.text = header + yaml.serialize(root, Dumper=yaml.SafeDumper)
    return own


def yaml_line(error: yaml.YAMLError, file: str = "") -> str:
    """One line of what a YAML reader says: file, line and problem."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None:
        return f"{file}: {str(error).splitlines()[0]}"
    return f"{file or mark.name}:{mark.line + 1}: {problem or 'is not YAML'}"


def _entry_holds(entry: yaml.Node, file: Path, groups: dict[str, list[str]], problems: list[Problem]) -> bool:
    """Whether an entry of `defaults` names a group and a choice of it; if not, its problem is added."""
    if isinstance(entry, yaml.ScalarNode):
        written, named, choice = entry.value, "", entry.value
        if choice == "_self_":
            return True
    elif isinstance(entry, yaml.MappingNode) and len(entry.value) == 1 and isinstance(entry.value[0][1].value, str):
        key, value = entry.value[0]
        written, named, choice = f"{key.value}: {value.value}", key.value, value.value
    else:
        return True  # lists of choices are Hydra's to judge
    *words, target = named.split() or [""]
    group, where = target.removeprefix("/"), f"{file}: defaults"
    inside = groups.get(group or file.parent.name, [])
    if group and group not in groups:
        near = nearest(group, groups)
        right = f"override /{near}" if near else f"override / and one of {', '.join(groups)}"
        problems.append(Problem(where, written, "no such group", right))
    elif group and (words != ["override"] or target == group):
        problems.append(Problem(where, written, "does not choose a group anew", f"override /{group}: {choice}"))
    elif not _exists(choice, group or file.parent.name, file):
        near = nearest(choice, inside)
        right = f"{near} (the nearest of: {', '.join(inside)})" if near else f"one of {', '.join(inside)}"
        problems.append(Problem(where, written, "no such choice", right))
    else:
        return True
    return False


def _exists(choice: str, group: str, file: Path) -> bool:
    group, _, name = choice[1:].rpartition("/") if choice.startswith("/") else (group, "", choice)
    return any(
        (root / group / f"{name.removesuffix('.yaml')}.yaml").is_file()
        for root in (file.parent.parent, configs_folder())
    )
