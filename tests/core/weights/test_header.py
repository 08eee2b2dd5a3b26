"""The one reader of safetensors headers: whatever a file says, the answer is a header that is so, or one sentence."""

import json
import struct

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from causalcine_core.errors import InputError
from causalcine_core.weights.header import TYPES, TensorEntry, read_header
from causalcine_core.weights.tensors import read_tensors


def entry(**changes) -> dict:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes


def write(path, header, data: bytes = bytes(8)) -> None:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)


def without(field: str) -> dict:
    return {name: value for name, value in entry().items() if name != field}


TWO = {"a": entry(), "b": entry(data_offsets=[8, 16])}
BROKEN = {
    "no JSON": (b"{" + bytes(20), "broken safetensors header"),
    "JSON cut short": (b'{"a": {"dtype": ', "broken safetensors header"),
    "not UTF-8": (b'{"\xff": 1}', "broken safetensors header"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "broken safetensors header"),
    "a list": ([1], "no JSON object"),
    "a number": (b"12345678", "no JSON object"),
    "null": (b"null      ", "no JSON object"),
    "nested without end": (b'{"a":' + b"[" * 200_000, "nested too deeply"),
    "nested without end, whole": (b'{"a":' + b"[" * 99_999 + b"]" * 99_999 + b"}", "nested too deeply"),
    "a key twice": (f'{{"a":{json.dumps(entry())},"a":{json.dumps(entry())}}}'.encode(), "key 'a' twice"),
    "a field twice": (b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', "'dtype' twice"),
    "half a character pair as a name": (
        rb'{"\ud800":' + json.dumps(entry()).encode() + b"}",
        "cannot be written as text",
    ),
    "half a character pair in the metadata": (rb'{"__metadata__":{"a":"\udfff"}}', "__metadata__.'a' is no text"),
    "metadata that is a list": ({"__metadata__": ["a"]}, "__metadata__ is no JSON object"),
    "metadata that is null": ({"__metadata__": None}, "__metadata__ is no JSON object"),
    "metadata of a number": ({"__metadata__": {"format": 1}}, "__metadata__.'format' is no text"),
    "metadata of an object": ({"__metadata__": {"causalcine": {}}}, "__metadata__.'causalcine' is no text"),
    "an entry that is null": ({"a": None}, "'a' has no entry"),
    "an entry that is a number": ({"a": 3}, "'a' has no entry"),
    "no dtype": ({"a": without("dtype")}, "has no dtype"),
    "no shape": ({"a": without("shape")}, "has no shape"),
    "no offsets": ({"a": without("data_offsets")}, "has no data_offsets"),
    "a dtype that is no name": ({"a": entry(dtype="float32")}, "the dtype 'float32'"),
    "a dtype that is a number": ({"a": entry(dtype=32)}, "the dtype 32"),
    "a dtype that is a list": ({"a": entry(dtype=["F32"])}, "the dtype"),
    "a shape that is a number": ({"a": entry(shape=2)}, "a shape that"),
    "a shape that is text": ({"a": entry(shape="2")}, "a shape that"),
    "a shape with a fraction": ({"a": entry(shape=[2.0])}, "a shape that"),
    "a shape with truth": ({"a": entry(shape=[2, True])}, "a shape that"),
    "a negative shape": ({"a": entry(shape=[-2, -1])}, "a shape that"),
    "a shape beyond any machine": ({"a": entry(shape=[2**70, 0], data_offsets=[0, 0])}, "a shape that"),
    "a shape of infinity": (b'{"a":{"dtype":"F32","shape":[Infinity],"data_offsets":[0,8]}}', "a shape that"),
    "a thousand axes": ({"a": entry(shape=[1] * 1000 + [2])}, "a shape that"),
    "a number of ten thousand digits": (f'{{"a":{{"shape":[{"9" * 10_000}]}}}}'.encode(), "broken safetensors header"),
    "one offset": ({"a": entry(data_offsets=[8])}, "data_offsets that"),
    "three offsets": ({"a": entry(data_offsets=[0, 4, 8])}, "data_offsets that"),
    "falling offsets": ({"a": entry(data_offsets=[8, 0])}, "data_offsets that"),
    "negative offsets": ({"a": entry(data_offsets=[-8, 0])}, "data_offsets that"),
    "offsets of text": ({"a": entry(data_offsets=["0", "8"])}, "data_offsets that"),
    "offsets too few for the shape": ({"a": entry(shape=[3])}, "needs 12 bytes, its data_offsets hold 8"),
    "offsets too many for the shape": ({"a": entry(shape=[1])}, "needs 4 bytes, its data_offsets hold 8"),
    "half a byte": ({"a": entry(dtype="F4", shape=[15])}, "needs 7.5 bytes"),
    "overlapping": (TWO | {"b": entry(data_offsets=[4, 12])}, "'b' overlaps another"),
    "in one place": (TWO | {"b": entry()}, "overlaps another"),
    "a hole": (TWO | {"b": entry(data_offsets=[12, 20])}, "'b' does not begin where"),
    "a hole before the first": ({"a": entry(data_offsets=[8, 16])}, "'a' does not begin where"),
    "beyond the file": (TWO, "incomplete download"),
    "bytes behind the last": ({}, "accounts for 0 of the 8 bytes"),
}

STRICTER = ("a key twice", "a thousand axes")


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_header_is_one_sentence_that_names_the_file(tmp_path, kind):
    header, says = BROKEN[kind]
    path = tmp_path / "a.safetensors"
    write(path, header)
    for read in (read_header, read_tensors):
        with pytest.raises(InputError) as raised:
            read(path, "state file")
        text = str(raised.value)
        assert text.startswith(f"state file {path} ")
        assert says in text.replace('"', "'")
        assert len(text) < 500 and len(text.splitlines()) == 1
        text.encode()  # it can be shown
    if kind not in STRICTER:  # the format's own reader agrees
        with pytest.raises(SafetensorError), safe_open(path, "pt"):
            pass


def test_what_the_format_allows_is_read(tmp_path):
    path = tmp_path / "a.safetensors"
    held = {"": torch.ones(2, 3), "ä.weight": torch.zeros(0, 4), "one": torch.tensor(7)}
    save_file(held, path, metadata={"note": "größer"})
    header = read_header(path)
    assert header.metadata == {"note": "größer"}
    assert header.shapes == {name: tuple(tensor.shape) for name, tensor in held.items()}
    assert sum(entry.numel for entry in header.tensors.values()) == 7
    tensors, again = read_tensors(path)
    assert again == header
    assert all(torch.equal(tensors[name], tensor) for name, tensor in held.items())
    assert list(read_tensors(path, names=["one"])[0]) == ["one"]
    save_file({}, path)
    assert read_header(path).tensors == {}


@pytest.mark.parametrize("dtype", TYPES)
def test_every_type_of_number_is_known(tmp_path, dtype):
    path = tmp_path / "a.safetensors"
    write(path, {"a": entry(dtype=dtype, shape=[8], data_offsets=[0, TYPES[dtype]])}, bytes(TYPES[dtype]))
    assert read_header(path).tensors == {"a": TensorEntry(dtype, (8,), (0, TYPES[dtype]))}
    try:
        read_tensors(path)
    except InputError as error:  # torch has no such type
        assert str(error).startswith(f"checkpoint {path} cannot be read")


@pytest.mark.parametrize("name", ["gone", "a\0b", "a" * 300, "."])
def test_what_is_no_file_is_one_sentence(tmp_path, name):
    with pytest.raises(InputError, match=r"^VAE file"):
        read_header(tmp_path / name, "VAE file")


def test_many_keys_take_no_time(tmp_path):
    """A name that stands twice among very many is found without comparing each with each."""
    raw = "{" + ",".join(f'"{i}":0' for i in range(300_000)) + ',"299999":0}'
    write(tmp_path / "a.safetensors", raw.encode())
    with pytest.raises(InputError, match='"299999" twice'):
        read_header(tmp_path / "a.safetensors")
