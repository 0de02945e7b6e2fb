"""Downloads an archive, checks it, unpacks it: each written aside and renamed when whole."""

import hashlib
import http.client
import os
import shutil
import tarfile
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from decentralizepy.datasets.locks import beside
from decentralizepy.datasets.prepare import Progress, sync

_CHUNK = 1 << 20
_TIMEOUT_S = 30


def fetch(url: str, md5: str, archive: Path, progress: Progress) -> None:
    """Put the file at `url` into `archive`, unless a file with that checksum is there already.

    Raises ValueError when it cannot be reached or is not the file that is expected.
    """
    if archive.is_file() and _md5(archive) == md5:
        return
    part = beside(archive)
    try:
        _download(url, part, progress)
        _check(part, md5, url)
        part.replace(archive)
        sync(archive.parent)
    except (OSError, http.client.HTTPException) as error:
        raise ValueError(f"cannot download {url} to {archive} ({error})") from error
    finally:
        part.unlink(missing_ok=True)


def extract(archive: Path, folder: str, into: Path) -> None:
    """Unpack the folder of that name from a tar archive to `into/folder`.

    If another machine is done before, its folder stays and ours is discarded. Raises ValueError
    for a damaged archive, or one with links or with paths outside `folder`.
    """
    aside = beside(into / folder)
    try:
        aside.mkdir()
        _unpack(archive, folder, aside)
        _publish(aside, into / folder)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise ValueError(f"cannot unpack {archive} ({error}); delete it and try again") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _publish(aside: Path, folder: Path) -> None:
    sync(aside)
    try:
        aside.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
    sync(folder.parent)


def _download(url: str, part: Path, progress: Progress) -> None:
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as reply, part.open("wb") as file:
        total = int(reply.headers.get("Content-Length") or 0)
        done, said = 0, 0
        progress(f"downloading {url} ({total / 1e6:.0f} MB)")
        while chunk := reply.read(_CHUNK):
            file.write(chunk)
            done += len(chunk)
            percent = 100 * done // total if total else 0
            if percent >= said + 10:
                said = percent
                progress(f"downloading {url}: {percent} %")
        file.flush()
        os.fsync(file.fileno())


def _check(part: Path, md5: str, url: str) -> None:
    found = _md5(part)
    if found != md5:
        raise ValueError(
            f"the file at {url} has the MD5 checksum {found}, not {md5}: the download was cut "
            "short or the file was replaced; it was deleted"
        )


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _unpack(archive: Path, folder: str, aside: Path) -> None:
    with tarfile.open(archive, "r:*") as tar:
        for member, path in _members(tar, archive, folder):
            content = tar.extractfile(member)
            assert content is not None, "only regular files are listed"
            (aside / path).parent.mkdir(parents=True, exist_ok=True)
            with content, (aside / path).open("wb") as file:
                shutil.copyfileobj(content, file)
                os.fsync(file.fileno())


def _members(
    tar: tarfile.TarFile, archive: Path, folder: str
) -> Iterator[tuple[tarfile.TarInfo, PurePosixPath]]:
    """The regular files, with their paths inside `folder`; anything else is refused."""
    for member in tar:
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts or path.parts[:1] != (folder,):
            raise ValueError(f"{archive} holds {member.name!r}, outside {folder}: not unpacked")
        if not (member.isfile() or member.isdir()):
            raise ValueError(f"{archive} holds {member.name!r}, not a plain file: not unpacked")
        if member.isfile():
            yield member, path.relative_to(folder)
