"""Files written aside and renamed, and read without trusting them."""

import json
import os
import stat
import tempfile
from pathlib import Path

import pytest

from decentralizepy import files
from decentralizepy.errors import ConfigError
from decentralizepy.files import (
    UnfitFileError,
    cache_home,
    ends_within_a_line,
    expanded,
    read_regular,
    read_text_file,
    replacing,
    temporary_home,
    write_all,
    write_atomic,
    write_json,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# ---------------------------------------------------------------- written


def test_files_are_replaced_whole(tmp_path):
    path = tmp_path / "deep" / "status.json"
    write_json(path, {"a": [1, None, "ä"]})
    assert json.loads(path.read_text()) == {"a": [1, None, "ä"]}
    write_atomic(path, "second")
    assert path.read_text() == "second" and names(path.parent) == ["status.json"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize("owner, failing", [(os, "fsync"), (Path, "replace"), (Path, "chmod")])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, owner, failing):
    path = tmp_path / "run.json"
    write_atomic(path, "old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(owner, failing, fail)
    with pytest.raises(OSError, match="No space left") as error:
        write_atomic(path, "new")
    assert error.value.filename == str(path), "a full disk does not say which file it was"
    assert path.read_text() == "old" and names(tmp_path) == ["run.json"]


def test_what_is_no_json_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "x", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "x", object())
    assert names(tmp_path) == ["x"] and (tmp_path / "x").read_text() == "1\n"


def test_a_block_that_fails_leaves_the_old_file(tmp_path):
    write_atomic(tmp_path / "x", "old")
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "x") as aside:
        aside.write_text("new")
        raise KeyboardInterrupt
    assert names(tmp_path) == ["x"] and (tmp_path / "x").read_text() == "old"


def test_all_is_written_though_a_disk_takes_a_part_at_a_time(tmp_path, monkeypatch):
    handle = os.open(tmp_path / "x", os.O_WRONLY | os.O_CREAT)
    write = os.write
    monkeypatch.setattr(files.os, "write", lambda fd, data: write(fd, data[:3]))
    write_all(handle, b"0123456789")
    os.close(handle)
    assert (tmp_path / "x").read_bytes() == b"0123456789"


@pytest.mark.parametrize(("content", "cut"), [(b"", False), (b"a\n", False), (b"a\nb", True)])
def test_a_line_that_was_cut_is_seen(tmp_path, content, cut):
    (tmp_path / "x").write_bytes(content)
    handle = os.open(tmp_path / "x", os.O_RDWR)
    assert ends_within_a_line(handle) == cut
    os.close(handle)


# ---------------------------------------------------------------- read


def test_a_file_is_read_up_to_its_limit(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"a" * (1 << 20))
    assert len(read_regular(path, 1 << 20)) == 1 << 20
    with pytest.raises(UnfitFileError, match=f"{path} has more than 0 MiB"):
        read_regular(path, (1 << 20) - 1)


def test_a_pipe_and_a_device_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(UnfitFileError, match="not a regular file"):
            read_regular(path, 100)
        with pytest.raises(ConfigError, match=r"not a regular file .* \(-cf\)"):
            read_text_file(path, "-cf")


def test_text_has_no_mark_and_one_kind_of_line_end(tmp_path):
    (tmp_path / "x").write_bytes(b"\xef\xbb\xbfa\r\nb\rc\n")
    assert read_text_file(tmp_path / "x") == "a\nb\nc\n"


@pytest.mark.parametrize(
    ("name", "words"),
    [("absent", "cannot read .*absent: No such file"), ("bytes", "not UTF-8"),
     ("a\0b", "cannot read .*null")],
)  # fmt: skip
def test_what_cannot_be_read_is_told_with_the_flag(tmp_path, name, words):
    (tmp_path / "bytes").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=f"{words}.*\\(--simulate\\)"):
        read_text_file(tmp_path / name, "--simulate")


# ---------------------------------------------------------------- folders


def nobody_is_at_home():
    raise RuntimeError("Could not determine home directory.")


def test_caches_are_where_the_user_says_else_at_home_else_among_temporary_files(
    tmp_path, monkeypatch
):
    assert cache_home({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "decentralizepy"
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert cache_home({}) == tmp_path / ".cache" / "decentralizepy"
    monkeypatch.setattr(Path, "home", nobody_is_at_home)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ours = tmp_path / f"decentralizepy-{os.getuid()}"
    assert cache_home({}) == ours / "cache" and not ours.exists()
    ours.mkdir()
    assert cache_home({}) == ours / "cache"


@pytest.mark.parametrize("there", ["a link", "somebody else's"])
def test_a_folder_that_others_may_have_laid_is_not_used(tmp_path, monkeypatch, there):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / f"decentralizepy-{os.getuid()}"
    if there == "a link":
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        folder.mkdir()
        mine = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: mine + 1)
        folder.rename(tmp_path / f"decentralizepy-{mine + 1}")
    with pytest.raises(ConfigError, match="not a folder of ours: remove it, or set TMPDIR"):
        temporary_home()


def test_a_home_that_nobody_knows_is_not_looked_for(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert expanded(Path("~/data")) == Path("/home/me/data")
    assert expanded(Path("~no.such.user/data")) == Path("~no.such.user/data")
