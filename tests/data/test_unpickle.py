import os
import pickle
import pickletools
import struct
import sys
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.layouts import array, integer, python2_pickle, string
from tinygrad_cifar.data import synthesise
from tinygrad_cifar.data.unpickle import restricted_loads
from tinygrad_cifar.errors import DataError

SPLIT = synthesise(train=3, test=1).train
GOOD = python2_pickle(SPLIT)
WHERE = "data_batch_1"


def test_reads_what_python_2_wrote_as_pickle_does():
    ours, theirs = restricted_loads(GOOD, WHERE), pickle.loads(GOOD, encoding="bytes")
    assert ours.keys() == theirs.keys() == {b"batch_label", b"labels", b"data", b"filenames"}
    np.testing.assert_array_equal(ours.pop(b"data"), theirs.pop(b"data"), strict=True)
    assert ours == theirs


def test_a_fortran_array_keeps_its_order():
    table = np.arange(6, dtype=np.uint8).reshape(2, 3)
    raw = b"\x80\x02" + array(table, content=table.tobytes("F")).replace(b"\x89", b"\x88") + b"."
    np.testing.assert_array_equal(restricted_loads(raw, WHERE), table)


@given(st.integers(0, len(GOOD) - 1))
def test_truncated_anywhere_is_a_data_error(length):
    with pytest.raises(DataError, match=WHERE):
        restricted_loads(GOOD[:length], WHERE)


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_one_wrong_byte_is_a_data_error_or_builds_plain_data(position, value):
    raw = GOOD[:position] + bytes([value]) + GOOD[position + 1 :]
    try:
        built = restricted_loads(raw, WHERE)
    except DataError as error:
        assert WHERE in str(error)  # noqa: PT017 - both outcomes are right
    else:
        assert_plain(built)


@given(st.binary(max_size=200))
def test_noise_is_a_data_error_or_builds_plain_data(noise):
    with suppress(DataError):
        assert_plain(restricted_loads(b"\x80\x02" + noise + b".", WHERE))


@given(st.lists(st.sampled_from(sorted(op.code for op in pickletools.opcodes)), max_size=60))
def test_any_opcodes_are_a_data_error_or_build_plain_data(codes):
    raw = "".join(codes).encode("latin-1") + b"\x00\x01\n\x02numpy\nndarray\n."
    with suppress(DataError):
        assert_plain(restricted_loads(raw, WHERE))


def assert_plain(value):
    if isinstance(value, dict):
        assert_plain(list(value))
        assert_plain(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            assert_plain(item)
    elif isinstance(value, np.ndarray):
        assert value.dtype == np.uint8
    elif type(value).__module__ != "tinygrad_cifar.data.unpickle":  # a name or an unfinished array: inert words
        assert value is None or isinstance(value, bytes | int)


class Hostile:
    """Pickles itself as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_call_is_refused_in_every_protocol(tmp_path, protocol):
    victim = tmp_path / "victim"
    raw = pickle.dumps({b"data": Hostile(os.mkdir, str(victim))}, protocol)
    with pytest.raises(DataError, match="no CIFAR-10 file needs"):
        restricted_loads(raw, WHERE)
    assert not victim.exists()
    pickle.loads(raw)  # the attack is real: pickle itself falls for it
    assert victim.exists()


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
U1 = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
U1_STATE = b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
SHAPE = b"K\x02K\x02\x86"

HOSTILE = {
    "system": b"cos\nsystem\nU\x04true\x85R",
    "eval": b"c__builtin__\neval\nU\x011\x85R",
    "inst": b"(U\x04trueios\nsystem\n",
    "obj": b"(cos\nsystem\nU\x04trueo",
    "newobj": b"cnumpy\nndarray\n)\x81",
    "extension registry": b"\x82\x01",
    "persistent id": b"Pname\n",
    "stack global": b"\x8c\x02os\x8c\x06system\x93",
    "attribute through a dot": b"cnumpy\nndarray.tofile\n",
    "name with a space": b"cnumpy ndarray\n\n",
    "other numpy name": b"cnumpy\nload\nU\x01x\x85R",
    "_reconstruct of another class": ARRAY.replace(b"cnumpy\nndarray", b"cnumpy\ndtype"),
    "_reconstruct with a shape": ARRAY.replace(b"K\x00\x85", b"J\xff\xff\xff\x7f\x85"),
    "_reconstruct of objects": ARRAY.replace(b"U\x01b", b"U\x01O"),
    "calling ndarray": b"cnumpy\nndarray\nK\x02\x85R",
    "calling a string": b"U\x0dnumpy ndarray)\x85R",
    "dtype object": U1.replace(b"u1", b"O8"),
    "dtype with a metadata dict": U1.replace(b"K\x00K\x01\x87", b"}K\x01\x87"),
    "dtype of a list": b"cnumpy\ndtype\n]K\x00K\x01\x87R",
    "dtype with a subarray": U1 + U1_STATE.replace(b"NNN", U1 + b"NN"),
    "dtype with objects flagged": U1 + U1_STATE.replace(b"K\x00tb", b"K\x3ftb"),
    "array of objects": array(np.zeros((1, 8), np.uint8), dtype=b"O8"),
    "array of floats": array(np.zeros((1, 8), np.uint8), dtype=b"f8"),
    "array longer than its bytes": array(np.zeros((200, 200), np.uint8), content=b"short"),
    "array with a list for bytes": ARRAY + b"(K\x01" + SHAPE + U1 + b"\x89]tb",
    "array whose dtype is a name": ARRAY + b"(K\x01" + SHAPE + b"cnumpy\ndtype\n\x89U\x04abcdtb",
    "array with a negative shape": ARRAY + b"(K\x01" + integer(-2) + integer(-2) + b"\x86" + U1 + b"\x89U\x04abcdtb",
    "array with a giant shape": ARRAY + b"(K\x01" + 2 * integer(2**31 - 1) + b"\x86" + U1 + b"\x89U\x04abcdtb",
    "attributes of a name": b"cnumpy\nndarray\n}U\x01a" + b"K\x01sb",
    "slots of a name": b"cnumpy\nndarray\nN}U\x01aK\x01s\x86b",
    "attributes of an array": array(np.zeros((1, 1), np.uint8)) + b"}b",
    "array as a key": b"}" + array(np.zeros((1, 1), np.uint8)) + b"K\x01s",
    "deep key, whose hash would overflow the stack": b"}K\x00" + b"\x85" * 200_000 + b"K\x01s",
    "list that holds itself as a key": b"}]q\x01h\x01aK\x01s",
    "odd number of items": b"}(U\x01au",
    "append to an array": array(np.zeros((1, 1), np.uint8)) + b"K\x01a",
    "memo that was never written": b"h\x63",
    "string longer than the file": b"T" + struct.pack("<i", 2**31 - 1) + b"abc",
    "string of negative length": b"T" + struct.pack("<i", -1) + b"abc",
    "mark without end": b"((",
    "two results": b"K\x01K\x02",
    "nothing": b"",
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_pickle_runs_nothing(body, monkeypatch):
    def trap(*arguments):
        raise AssertionError(f"called with {arguments}")

    for module, name in ((os, "system"), (np, "load"), (pickle, "loads"), (sys.modules["builtins"], "eval")):
        monkeypatch.setattr(module, name, trap)
    with pytest.raises(DataError, match=WHERE) as raised:
        restricted_loads(b"\x80\x02" + body + b".", WHERE)
    assert len(str(raised.value)) < 500
    assert "byte" in str(raised.value)


def test_what_follows_the_pickle_is_refused():
    with pytest.raises(DataError, match=f"ends at byte {len(GOOD) - 1:,}"):
        restricted_loads(GOOD + b"\x00", WHERE)


def test_the_message_names_the_byte_and_the_name_asked_for():
    raw = b"\x80\x02" + string(b"x" * 10) + b"cposix\nsystem\n."
    with pytest.raises(DataError, match=r"byte 14 of 29 \(it asks for 'posix.system'"):
        restricted_loads(raw, WHERE)
