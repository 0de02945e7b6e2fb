"""Locks: one holder at a time, and free when the holder is gone."""

import os
import subprocess
import sys
import time

import pytest

from decentralizepy.locks import lock, lock_within, try_lock

HOLDER = """
import os, sys
from decentralizepy.locks import lock
lock(os.open(sys.argv[1], os.O_RDONLY))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of a folder until its input is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "held\n"
    yield process
    process.stdin.close()
    process.wait()
    process.stdout.close()


@pytest.fixture
def handle(tmp_path):
    handle = os.open(tmp_path, os.O_RDONLY)
    yield handle
    os.close(handle)


def test_a_lock_that_somebody_holds_is_not_given(handle, holder):
    assert not try_lock(handle)
    began = time.monotonic()
    assert not lock_within(handle, 0.2)
    assert time.monotonic() - began >= 0.2


def test_a_lock_is_waited_for_and_that_is_said_once(handle, holder):
    said = []

    def waiting():
        said.append("waiting")
        holder.stdin.close()

    lock(handle, waiting)
    assert said == ["waiting"]


def test_the_lock_of_who_was_killed_is_free(handle, holder):
    holder.kill()
    assert lock_within(handle, 30)


def test_a_free_lock_is_given_without_a_word(handle):
    lock(handle, lambda: pytest.fail("nobody holds it"))
    assert try_lock(handle), "it is ours"
