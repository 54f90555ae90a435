"""Headers of safetensors files: damaged ones are refused, and files that are laid out here are read by the library."""

import json

import pytest

from hpt_megatron.errors import UserError
from hpt_megatron.weights.safetensors_file import Info, lay_out, read_header

pytestmark = pytest.mark.fast


def written(path, tensors):
    """A file with zeros."""
    header, places = lay_out(tensors)
    path.write_bytes(header + bytes(max((end for _, end in places.values()), default=0)))
    return path


def test_every_tensor_lies_at_a_multiple_of_its_own_size(tmp_path):
    """Three numbers of two bytes come before one of four in the list, and after it in the file."""
    tensors = [("odd", Info("BF16", (3,))), ("wide", Info("F32", (1,))), ("none", Info("BF16", (0, 4)))]
    infos, places = read_header(written(tmp_path / "a.safetensors", tensors))
    assert infos == dict(tensors)
    header = len(lay_out(tensors)[0])
    assert places["wide"] == (header, header + 4)
    assert places["odd"] == (header + 4, header + 10)


def damaged(content, kind):
    """The file's bytes after an accident."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    if kind == "cut off":
        return content[:-1]
    if kind == "empty":
        return b""
    if kind == "longer":
        return content + b"x"
    if kind == "half a header":
        return content[: 8 + length // 2]
    if kind == "a length beyond everything":
        return b"\xff" * 8 + content[8:]
    if kind == "overlap":
        header["b"]["data_offsets"] = header["a"]["data_offsets"]
    if kind == "dtype":
        header["a"]["dtype"] = "Q4"
    if kind == "shape":
        header["a"]["shape"] = [-2, -3]
    if kind == "no shape":
        del header["a"]["shape"]
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


KINDS = (
    "cut off",
    "empty",
    "longer",
    "half a header",
    "a length beyond everything",
    "overlap",
    "dtype",
    "shape",
    "no shape",
)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_refused_in_one_line_with_its_name(tmp_path, kind):
    path = written(tmp_path / "a.safetensors", [("a", Info("F32", (2, 3))), ("b", Info("F32", (2, 3)))])
    path.write_bytes(damaged(path.read_bytes(), kind))
    with pytest.raises(UserError, match=r"a\.safetensors") as told:
        read_header(path)
    assert len(str(told.value).splitlines()) == 1
