"""`ray start` without Ray's client server: `python -m hpt_megatron.driver.ray.node_process start --head ...`.

Ray starts that server wherever it can, and has no option against it. Nobody here asks it anything; and it does not
start where the path of the environment has a space in it, which would end the whole node.
"""

from ray.scripts import scripts


def main() -> None:
    """Ray's own command, which is told that its client server could not run."""
    scripts.get_ray_client_dependency_error = lambda: "not wanted"
    scripts.main()


if __name__ == "__main__":
    main()
