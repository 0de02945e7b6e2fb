"""The downloader, against a server of this machine."""

import hashlib
import io
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cifar10_files import NAMES, batch_bytes, content

from decentralizepy.datasets import cifar10
from decentralizepy.datasets.cifar10 import CIFAR10
from decentralizepy.datasets.download import extract, fetch

FOLDER = "cifar-10-batches-py"


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(data)
    return info, io.BytesIO(data)


def write_archive(path: Path, members: list[tuple]) -> str:
    """A tar.gz with these members; returns its MD5 checksum."""
    with tarfile.open(path, "w:gz") as tar:
        for info, data in members:
            tar.addfile(info, data)
    return hashlib.md5(path.read_bytes()).hexdigest()


def whole_archive(path: Path) -> str:
    files = [member(FOLDER, kind=tarfile.DIRTYPE)]
    files += [member(f"{FOLDER}/{n}", batch_bytes(*content(n), title=n)) for n in NAMES]
    return write_archive(path, files)


class Quiet(SimpleHTTPRequestHandler):
    requests: list[str]

    def log_message(self, *_args) -> None:
        self.requests.append(self.path)


class Cut(Quiet):
    """Promises more than it sends."""

    def copyfile(self, source, outputfile) -> None:
        outputfile.write(source.read()[:1_000])


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Starts a server of `tmp_path/www`; returns its address and the list of requests."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "www").mkdir()
    servers = []

    def start(handler=Quiet):
        bound = type("Bound", (handler,), {"requests": []})
        server = ThreadingHTTPServer(
            ("127.0.0.1", 0), partial(bound, directory=str(tmp_path / "www"))
        )
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}", bound.requests

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def published(tmp_path, serve, monkeypatch):
    """CIFAR-10 at a local address; returns the list of requests."""
    md5 = whole_archive(tmp_path / "www" / "cifar.tar.gz")
    address, requests = serve()
    monkeypatch.setattr(cifar10, "URL", f"{address}/cifar.tar.gz")
    monkeypatch.setattr(cifar10, "MD5", md5)
    return requests


def both(root: Path, **options) -> CIFAR10:
    return CIFAR10(train_dir=str(root), test_dir=str(root), **options)


def test_missing_data_is_downloaded_once(tmp_path, published):
    root, said = tmp_path / "data" / "deep", []
    both(root).prepare(tmp_path / "cache", said.append)
    assert "100 %" in "".join(said)
    data = both(root)
    data.prepare(tmp_path / "cache")
    assert data.counts() == (100, 20)
    assert published == ["/cifar.tar.gz"]
    assert sorted(path.name for path in (root / FOLDER).iterdir()) == sorted(NAMES)
    left = sorted(path.name for path in root.iterdir())
    assert left == [FOLDER, "cifar-10-python.tar.gz"]


def test_four_at_once_download_once(tmp_path, published):
    with ThreadPoolExecutor(4) as pool:
        sets = [both(tmp_path / "data") for _ in range(4)]
        list(pool.map(lambda data: data.prepare(tmp_path / "cache"), sets))
    assert [data.counts() for data in sets] == [(100, 20)] * 4
    assert published == ["/cifar.tar.gz"]


def test_an_archive_that_is_there_is_used(tmp_path, published, monkeypatch):
    root = tmp_path / "data"
    root.mkdir()
    monkeypatch.setattr(cifar10, "MD5", whole_archive(root / "cifar-10-python.tar.gz"))
    data = both(root)
    data.prepare(tmp_path / "cache")
    assert data.counts() == (100, 20)
    assert published == []


def test_nothing_is_downloaded_when_that_is_switched_off(tmp_path, published):
    with pytest.raises(ValueError, match="Put the folder"):
        both(tmp_path / "data", download=False).prepare(tmp_path / "cache")
    assert published == []


def test_a_wrong_checksum_is_refused_and_leaves_nothing(tmp_path, published, monkeypatch):
    monkeypatch.setattr(cifar10, "MD5", "0" * 32)
    with pytest.raises(ValueError, match=r"Put the folder .*MD5 checksum .* not 0000"):
        both(tmp_path / "data").prepare(tmp_path / "cache")
    assert list((tmp_path / "data").iterdir()) == []


def test_no_network_gives_the_remedy(tmp_path, serve, monkeypatch):
    address, _ = serve()
    monkeypatch.setattr(cifar10, "URL", f"{address}/absent.tar.gz")
    with pytest.raises(ValueError, match=r"Put the folder cifar-10-batches-py.*404"):
        both(tmp_path / "data").prepare(tmp_path / "cache")
    monkeypatch.setattr(cifar10, "URL", "http://127.0.0.1:9/cifar.tar.gz")
    with pytest.raises(ValueError, match=r"Put the folder .*The download failed: .*refused"):
        both(tmp_path / "data").prepare(tmp_path / "cache")


def test_a_connection_that_breaks_is_refused(tmp_path, serve):
    (tmp_path / "www" / "file").write_bytes(b"x" * 5_000)
    address, _ = serve(Cut)
    with pytest.raises(ValueError, match=r"cannot download|cut short"):
        fetch(f"{address}/file", hashlib.md5(b"x" * 5_000).hexdigest(), tmp_path / "f", print)
    assert not list(tmp_path.glob("f*"))


def test_a_folder_that_cannot_be_made_gives_the_remedy(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match=r"Put the folder .*cannot make the folder"):
        both(tmp_path / "file" / "data").prepare(tmp_path / "cache")


@pytest.mark.parametrize(
    "bad",
    [
        member("../evil", b"x"),
        member(f"{FOLDER}/../../evil", b"x"),
        member("/tmp/evil", b"x"),
        member("elsewhere/evil", b"x"),
        member(f"{FOLDER}/evil", kind=tarfile.SYMTYPE, link="/etc/passwd"),
        member(f"{FOLDER}/evil", kind=tarfile.LNKTYPE, link="../../evil"),
        member(f"{FOLDER}/evil", kind=tarfile.FIFOTYPE),
    ],
    ids=lambda item: f"{item[0].name} {item[0].type!r}",
)
def test_an_archive_that_reaches_outside_is_refused(tmp_path, bad):
    into = tmp_path / "a" / "b"
    into.mkdir(parents=True)
    bad[1].seek(0)
    write_archive(tmp_path / "bad.tar.gz", [member(f"{FOLDER}/data_batch_1", b"x"), bad])
    with pytest.raises(ValueError, match="not unpacked"):
        extract(tmp_path / "bad.tar.gz", FOLDER, into)
    assert list(into.iterdir()) == []
    assert not list(tmp_path.rglob("evil"))


def test_whoever_unpacks_second_keeps_the_first_folder(tmp_path):
    whole_archive(tmp_path / "whole.tar.gz")
    extract(tmp_path / "whole.tar.gz", FOLDER, tmp_path)
    (tmp_path / FOLDER / "mark").touch()
    extract(tmp_path / "whole.tar.gz", FOLDER, tmp_path)
    assert (tmp_path / FOLDER / "mark").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [FOLDER, "whole.tar.gz"]


def test_a_damaged_archive_is_refused(tmp_path):
    whole_archive(tmp_path / "whole.tar.gz")
    for cut in (0, 10, 2_000):
        (tmp_path / "cut.tar.gz").write_bytes((tmp_path / "whole.tar.gz").read_bytes()[:cut])
        with pytest.raises(ValueError, match="cannot unpack"):
            extract(tmp_path / "cut.tar.gz", FOLDER, tmp_path)
    assert not (tmp_path / FOLDER).exists()
