import gzip
import hashlib
import io
import os
import socket
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pooch
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.layouts import python2_pickle, write_archive, write_binary, write_python
from tinygrad_cifar.data import CifarUnavailableError, Split, cifar10, load_cifar10, load_or_synthesise, synthesise
from tinygrad_cifar.data.cifar10 import BINARY_FOLDER, FILES, PYTHON_FOLDER, RECORD, VARIABLE
from tinygrad_cifar.errors import ConfigError, DataError

SMALL = 6  # images in a file, where the published ones have 10,000
CIFAR = synthesise(train=5 * SMALL, test=SMALL)
RETRIEVE = pooch.retrieve


@pytest.fixture(autouse=True, scope="module")
def _small_files():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cifar10, "BATCH", SMALL)
        yield


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch, tmp_path):
    """No test sees what this machine's user has, and none reaches the network."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    monkeypatch.setattr(pooch, "retrieve", _no_network)
    monkeypatch.setattr(cifar10, "synthesise", lambda: synthesise(train=20, test=10))
    return tmp_path / "cache" / "tinygrad_cifar"


def _no_network(*_args, **_kwargs):
    raise ConnectionError("no route to host")


@pytest.fixture(scope="module")
def layouts(tmp_path_factory):
    """A folder with both layouts, and the archive of each beside it."""
    folder = tmp_path_factory.mktemp("cifar")
    for write in (write_binary, write_python):
        write_archive(write(CIFAR, folder))
    return folder


@pytest.fixture
def binary(tmp_path):
    return write_binary(CIFAR, tmp_path)


@pytest.fixture
def python(tmp_path):
    return write_python(CIFAR, tmp_path)


def assert_is_cifar(loaded):
    for ours, theirs in ((loaded.train, CIFAR.train), (loaded.test, CIFAR.test)):
        np.testing.assert_array_equal(ours.images, theirs.images, strict=True)
        np.testing.assert_array_equal(ours.labels, theirs.labels, strict=True)
        assert ours.images.flags.c_contiguous
        assert ours.images.flags.writeable
    assert not loaded.is_synthetic


@pytest.mark.parametrize(
    "path", ["", BINARY_FOLDER, PYTHON_FOLDER, f"{BINARY_FOLDER}.tar.gz", f"{PYTHON_FOLDER}.tar.gz"]
)
def test_every_way_to_keep_it_loads_the_same(layouts, path, monkeypatch):
    loaded = load_cifar10(layouts / path)
    assert_is_cifar(loaded)
    assert loaded.source == str((layouts / path).resolve())
    monkeypatch.setenv(VARIABLE, str(layouts / path))
    assert_is_cifar(load_cifar10())


def test_the_argument_comes_before_the_variable(layouts, monkeypatch):
    monkeypatch.setenv(VARIABLE, "/nowhere")
    assert_is_cifar(load_cifar10(layouts))


def test_the_variable_comes_before_the_cache(binary, empty_cache, monkeypatch):
    (empty_cache / BINARY_FOLDER).mkdir(parents=True)
    monkeypatch.setenv(VARIABLE, str(binary))
    assert_is_cifar(load_cifar10())


def test_the_cache_comes_before_the_network(empty_cache):
    write_binary(CIFAR, empty_cache)
    assert_is_cifar(load_cifar10())


# Files that are not right


@given(st.integers(0, SMALL * RECORD - 1))
def test_a_binary_file_truncated_anywhere(length):
    raw = np.column_stack([CIFAR.test.labels, CIFAR.test.images]).tobytes()
    with pytest.raises(
        DataError, match=f"^x.bin: truncated: .* byte {length:,}, in record {length // RECORD}; .*Delete"
    ):
        cifar10._parse("x.bin", "x.bin", raw[:length])


@given(st.floats(0, 1, exclude_max=True))
def test_an_archive_truncated_anywhere(layouts, fraction):
    whole = (layouts / f"{BINARY_FOLDER}.tar.gz").read_bytes()
    cut = layouts / "cut.tar.gz"
    cut.write_bytes(whole[: int(fraction * len(whole))])
    with pytest.raises(DataError, match=r"cut\.tar\.gz"):
        load_cifar10(cut)


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_an_archive_with_a_wrong_byte_is_an_error_or_the_same_images(layouts, fraction, difference):
    raw = bytearray((layouts / f"{BINARY_FOLDER}.tar.gz").read_bytes())
    raw[int(fraction * len(raw))] ^= difference
    path = layouts / "damaged.tar.gz"
    path.write_bytes(raw)
    try:
        loaded = load_cifar10(path)
    except DataError as error:
        assert "damaged.tar.gz" in str(error)  # noqa: PT017 - a byte of gzip's header may be wrong without harm
    else:
        assert_is_cifar(loaded)


def test_a_file_truncated_on_disk(binary):
    file = binary / "data_batch_3.bin"
    os.truncate(file, 5000)
    with pytest.raises(DataError, match=rf"{file}: truncated.* byte 5,000, in record 1"):
        load_cifar10(binary)


def test_a_file_that_is_too_long(binary):
    with (binary / "test_batch.bin").open("ab") as file:
        file.write(b"x")
    with pytest.raises(
        DataError, match=rf"test_batch.bin: too long: .* byte {SMALL * RECORD:,} .* has {SMALL * RECORD + 1:,}"
    ):
        load_cifar10(binary)


@pytest.mark.parametrize("path", [BINARY_FOLDER, f"{BINARY_FOLDER}.tar.gz"])
def test_a_giant_file_is_not_read(binary, path):
    os.truncate(binary / "data_batch_2.bin", 3 * SMALL * RECORD)
    write_archive(binary)
    with pytest.raises(DataError, match=r"data_batch_2.bin: .* more than any CIFAR-10 file"):
        load_cifar10(binary.parent / path)


def test_a_wrong_label_in_the_binary_layout(binary):
    with (binary / "data_batch_4.bin").open("r+b") as file:
        file.seek(2 * RECORD)
        file.write(b"\x0a")
    with pytest.raises(DataError, match=rf"data_batch_4.bin: record 2 \(byte {2 * RECORD:,}\) has the label 10;"):
        load_cifar10(binary)


def test_a_wrong_label_in_the_python_layout(python):
    labels = CIFAR.test.labels.copy()
    labels[3] = 77
    raw = python2_pickle(Split(CIFAR.test.images, labels))
    (python / "data_batch_4").write_bytes(raw)
    with pytest.raises(
        DataError, match=rf"data_batch_4: record 3 \(byte {raw.index(b'K' + bytes([77])):,}\) has the label 77;"
    ):
        load_cifar10(python)


@pytest.mark.parametrize("label", [b"]", b"N", b"J\xff\xff\xff\xff", b"U\x011"])
def test_a_label_that_is_no_class(python, label):
    raw = python2_pickle(CIFAR.test)
    first = raw.index(b"(", raw.index(b"labels")) + 1
    (python / "test_batch").write_bytes(raw[:first] + label + raw[first + 2 :])
    with pytest.raises(DataError, match=r"test_batch: record 0 .*has the label"):
        load_cifar10(python)


def test_a_pickle_of_another_length(python):
    (python / "data_batch_1").write_bytes(python2_pickle(CIFAR.test.subset(2)))
    with pytest.raises(DataError, match="data_batch_1: wrong length: 2 images of 3,072 values and 2 labels"):
        load_cifar10(python)


def test_a_pickle_of_something_else(python):
    (python / "data_batch_1").write_bytes(b"\x80\x02].")
    with pytest.raises(DataError, match="data_batch_1: holds no b'data'"):
        load_cifar10(python)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file(binary, name):
    (binary / f"{name}.bin").unlink()
    with pytest.raises(DataError, match=f"{name} missing"):
        load_cifar10(binary.parent)


def test_a_missing_folder_names_where_the_path_came_from(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=rf"no file or folder {tmp_path}/gone \(path\)(.|\n)*Any of these helps"):
        load_cifar10(tmp_path / "gone")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "gone"))
    with pytest.raises(DataError, match=rf"gone \({VARIABLE}\)"):
        load_cifar10()


NAMES = [("", "with an empty name"), ("~no-such-user-here/x", "~no-such-user-here/x")]


@pytest.mark.parametrize(("path", "named"), NAMES)
def test_a_path_that_can_only_be_a_mistake(path, named):
    with pytest.raises(DataError, match=f"no file or folder {named} "):
        load_or_synthesise(path)


def test_a_folder_without_any_of_it(tmp_path):
    with pytest.raises(DataError, match=f"{tmp_path}: data_batch_1, .* missing"):
        load_cifar10(tmp_path)


def test_a_file_that_is_no_archive(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not an archive")
    with pytest.raises(DataError, match=r"notes.txt: not a readable .tar.gz"):
        load_cifar10(path)


@pytest.mark.parametrize("headers", [{"GNU.sparse.map": "a,b"}, {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}])
def test_an_archive_whose_headers_lie(tmp_path, headers):
    path = tmp_path / "odd.tar.gz"
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("data_batch_1.bin")
        member.size, member.pax_headers = 3, headers
        tar.addfile(member, io.BytesIO(b"xyz"))
    with pytest.raises(DataError, match=r"odd.tar.gz: not a readable .tar.gz"):
        load_cifar10(path)


def test_an_archive_of_headers_alone(tmp_path):
    path = tmp_path / "deep.tar.gz"
    name = tarfile.TarInfo("././@LongLink")
    name.type, name.size = tarfile.GNUTYPE_LONGNAME, 2
    with gzip.open(path, "wb") as zipped:
        zipped.write((name.tobuf(tarfile.GNU_FORMAT) + b"x".ljust(tarfile.BLOCKSIZE, b"\0")) * 2000)
    with pytest.raises(DataError, match=r"deep.tar.gz: not a readable .tar.gz"):
        load_cifar10(path)


def test_an_archive_cannot_write_or_link(tmp_path):
    path = tmp_path / "evil.tar.gz"
    with gzip.open(path, "wb") as zipped, tarfile.open(fileobj=zipped, mode="w|") as tar:
        link = tarfile.TarInfo("data_batch_1.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        outside = tarfile.TarInfo("../escaped")
        outside.size = 1
        tar.addfile(outside, io.BytesIO(b"x"))
    with pytest.raises(DataError, match="missing"):
        load_cifar10(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["evil.tar.gz"]
    assert not (tmp_path.parent / "escaped").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_that_may_not_be_read(binary):
    (binary / "data_batch_1.bin").chmod(0)
    with pytest.raises(DataError, match=r"data_batch_1.bin: cannot be read \(Permission denied\)"):
        load_cifar10(binary)


# Download and stand-in


def test_the_published_archive_is_asked_for(monkeypatch):
    asked = {}
    monkeypatch.setattr(pooch, "retrieve", lambda url, known_hash, **_: asked.update(url=url, known_hash=known_hash))
    with pytest.raises(TypeError):  # there is no archive
        load_cifar10()
    assert asked["url"] == "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
    assert asked["known_hash"] == "md5:c32a1d4ab5d03f1284b67883e8d87530"


@pytest.fixture
def server(layouts, monkeypatch):
    """A web server on this machine, which publishes the archive of the binary layout."""
    handler = partial(_Quiet, directory=layouts)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        try:
            socket.create_connection(web.server_address, timeout=5).close()
        except OSError as error:
            pytest.skip(f"this machine cannot reach itself: {error}")
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        archive = layouts / f"{BINARY_FOLDER}.tar.gz"
        monkeypatch.setattr(pooch, "retrieve", RETRIEVE)
        monkeypatch.setattr(cifar10, "URL", f"http://127.0.0.1:{web.server_address[1]}/{archive.name}")
        monkeypatch.setattr(cifar10, "HASH", f"md5:{hashlib.md5(archive.read_bytes()).hexdigest()}")
        yield web
        web.shutdown()
        thread.join()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_a_download_lands_in_the_cache_complete_and_alone(server, empty_cache, monkeypatch, capsys):
    loaded = load_cifar10()
    assert_is_cifar(loaded)
    assert loaded.source == str(empty_cache / BINARY_FOLDER)
    assert [entry.name for entry in empty_cache.iterdir()] == [BINARY_FOLDER]
    assert "CIFAR-10" in capsys.readouterr().err  # the progress bar
    server.shutdown()
    assert_is_cifar(load_cifar10())  # from the cache


@pytest.mark.usefixtures("server")
def test_a_download_with_another_checksum_leaves_nothing_behind(empty_cache, monkeypatch):
    monkeypatch.setattr(cifar10, "HASH", "md5:" + "0" * 32)
    with pytest.raises(CifarUnavailableError, match=r"does not match(.|\n)*synthetic"):
        load_cifar10()
    assert list(empty_cache.iterdir()) == []


@pytest.mark.usefixtures("server")
def test_a_download_of_what_is_not_there_says_so(empty_cache, monkeypatch):
    monkeypatch.setattr(cifar10, "URL", cifar10.URL.replace("cifar-10", "cifar-11"))
    with pytest.raises(CifarUnavailableError, match=r"404(.|\n)*synthetic"):
        load_cifar10()
    assert list(empty_cache.iterdir()) == []


def test_the_progress_bar_speaks_as_pooch_expects(capsys):
    bar = cifar10._ProgressBar()
    bar.total = 100
    bar.update(60)
    bar.update(40)
    bar.reset()
    bar.update(100)
    bar.close()
    assert bar.total == 100
    assert "CIFAR-10" in capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyboardInterrupt, ConnectionError])
def test_a_download_that_breaks_off_gives_the_terminal_back(monkeypatch, error):
    bars = []

    def breaks_off(*_args, downloader, **_kwargs):
        bars.append(downloader.progressbar)
        downloader.progressbar.total = 100  # pooch begins, and the bar hides the cursor
        raise error

    monkeypatch.setattr(pooch, "retrieve", breaks_off)
    with pytest.raises((KeyboardInterrupt, CifarUnavailableError)):
        load_cifar10()
    assert not bars[0]._progress.live.is_started


def test_without_download_nothing_is_fetched(monkeypatch):
    monkeypatch.setattr(pooch, "retrieve", lambda *_, **__: pytest.fail("it was fetched"))
    with pytest.raises(CifarUnavailableError, match="download is off"):
        load_cifar10(download=False)


def test_the_stand_in_is_announced(capsys):
    loaded = load_or_synthesise()
    assert loaded.is_synthetic
    assert "synthetic" in loaded.source
    message = capsys.readouterr().err
    assert "SYNTHETIC DATA, NOT CIFAR-10" in message
    assert "no route to host" in message


def test_the_stand_in_can_be_asked_for(capsys):
    assert load_cifar10(synthetic=True).is_synthetic
    assert "NOT CIFAR-10" in capsys.readouterr().err


def test_a_path_and_the_stand_in_contradict_each_other(layouts):
    with pytest.raises(ConfigError, match="contradict"):
        load_cifar10(layouts, synthetic=True)


def test_a_path_that_fails_is_never_replaced(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no file or folder"):
        load_or_synthesise(tmp_path / "gone")
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(DataError, match="missing"):
        load_or_synthesise()


def test_a_damaged_cache_is_never_replaced(empty_cache):
    write_binary(CIFAR, empty_cache)
    (empty_cache / BINARY_FOLDER / "test_batch.bin").unlink()
    with pytest.raises(DataError, match="test_batch missing"):
        load_or_synthesise()


def test_cifar10_is_loaded_when_it_is_there(layouts):
    assert_is_cifar(load_or_synthesise(layouts))
