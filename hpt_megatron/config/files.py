"""Where the configuration files are: inside the installed package, or beside it in a checkout.

Example:
    >>> (configs_folder() / "train.yaml").is_file()
    True
"""

from pathlib import Path

from hpt_megatron.errors import HptError

PACKAGE = Path(__file__).resolve().parent.parent


def configs_folder() -> Path:
    """The folder that holds `train.yaml` and the groups."""
    for folder in (PACKAGE / "configs", PACKAGE.parent / "configs"):
        if (folder / "train.yaml").is_file():
            return folder
    raise HptError("the configuration files are missing", where=str(PACKAGE), mend="install hpt_megatron again")


def groups(folder: Path | None = None) -> dict[str, list[str]]:
    """Every group with its choices, in the order of the alphabet; `base` files are not choices."""
    root = folder or configs_folder()
    return {
        group.name: sorted(path.stem for path in group.glob("*.yaml") if path.stem != "base")
        for group in sorted(root.iterdir())
        if group.is_dir() and any(group.glob("*.yaml"))
    }


def describe(group: str, choice: str, folder: Path | None = None) -> str:
    """The first comment line of a choice's file: what it is, in one line."""
    for line in ((folder or configs_folder()) / group / f"{choice}.yaml").read_text(encoding="utf-8").splitlines():
        text = line.lstrip("# ").strip()
        if line.startswith("#") and text and not text.startswith("@package"):
            return text
    return ""
