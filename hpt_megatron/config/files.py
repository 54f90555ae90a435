"""Where the configuration files are: inside the installed package, or beside it in a checkout.

Example:
    >>> (configs_folder() / "train.yaml").is_file()
    True
"""

from pathlib import Path
from typing import Any

import yaml

from hpt_megatron.config.problem import one_line
from hpt_megatron.errors import HptError, UserError

PACKAGE = Path(__file__).resolve().parent.parent
COMPARISONS, PIPELINES, CLUSTERS, SWEEPS = "comparison", "pipeline", "cluster", "sweep"
CONSTITUTIONS = "constitution"
NO_PART_OF_A_RUN = (COMPARISONS, PIPELINES, CLUSTERS, SWEEPS, CONSTITUTIONS)
"""Folders of files that stand for several runs, for where they run, or for principles (`comparison.py`, `cluster.py`,
`sweep.py`, `feedback/constitution.py`)."""


def configs_folder() -> Path:
    """The folder that holds `train.yaml` and the groups."""
    for folder in (PACKAGE / "configs", PACKAGE.parent / "configs"):
        if (folder / "train.yaml").is_file():
            return folder
    raise HptError("the configuration files are missing", where=str(PACKAGE), mend="install hpt_megatron again")


def slurm_folder() -> Path:
    """The folder of job templates, which travels beside the configurations."""
    return configs_folder().parent / "slurm"


def groups(folder: Path | None = None, own: str | None = None) -> dict[str, list[str]]:
    """Every group of a run with its choices, in the order of the alphabet, or the group `own`; `base` is no choice."""
    root = folder or configs_folder()
    return {
        group.name: sorted(path.stem for path in group.glob("*.yaml") if path.stem != "base")
        for group in sorted(root.iterdir())
        if group.is_dir() and any(group.glob("*.yaml"))
        if group.name == own or (own is None and group.name not in NO_PART_OF_A_RUN)
    }


def all_groups(own: Path | None) -> dict[str, list[str]]:
    """The shipped groups, each with the choices that the user's own folder adds to it.

    Hydra would let ours win silently where both have a name, so that is refused.
    """
    choices = groups()
    if own is None:
        return choices
    try:
        found = groups(own)
    except OSError as error:
        raise UserError(error.strerror or "cannot be read", where=f"--config-dir {one_line(str(own))}") from error
    for name in choices.keys() & found.keys():
        for choice in sorted({*choices[name]} & {*found[name]}):
            theirs, ours = (root / name / f"{choice}.yaml" for root in (own, configs_folder()))
            raise UserError(f"has the name of the shipped {ours}", where=str(theirs), mend="give it another name")
        choices[name] = sorted([*choices[name], *found[name]])
    return choices


def check_folder(folder: Path | None) -> Path | None:
    """The user's own folder, if it is one that can be searched."""
    if folder is None:
        return None
    named = f"--config-dir {one_line(str(folder))}"
    if not folder.is_dir():
        raise UserError("no such folder", where=named, mend="give a folder with groups in it")
    whole = str(folder.resolve())
    if set(whole) & set("\\$") or not whole.isprintable():
        raise UserError("a backslash, a dollar or an invisible character in it", where=named, mend="rename the folder")
    return folder.resolve()


def read_named(asked: str, group: str) -> tuple[Path, Any]:
    """A file that ships in a group, by its name, or one of the user's own: where it is and what it says."""
    path = Path(asked)
    if not asked.endswith((".yaml", ".yml")):
        path = configs_folder() / group / f"{asked}.yaml"
    if not path.is_file():
        shipped = ", ".join(sorted(each.stem for each in (configs_folder() / group).glob("*.yaml")))
        raise UserError(f"no such {group}", where=one_line(asked), mend=f"one of {shipped}, or a file of your own")
    try:
        return path, yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"cannot be read: {one_line(str(error))}", where=str(path), mend="a file of YAML") from error


def describe(group: str, choice: str, folder: Path | None = None) -> str:
    """The first comment line of a choice's file: what it is, in one line."""
    file = (folder or configs_folder()) / group / f"{choice}.yaml"
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        text = line.lstrip("# ").strip()
        if line.startswith("#") and text and not text.startswith("@package"):
            return text
    return ""
