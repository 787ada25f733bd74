"""Board buffers are used again, and not more of them are kept than asked for."""

from __future__ import annotations

import mmap

import numpy as np

from platevault.services.forwarder.buffers import BoardBuffers


def test_a_buffer_comes_back() -> None:
    buffers = BoardBuffers(count=1)
    first = buffers.take(100)
    buffers.give_back(first)
    assert buffers.take(80) is first


def test_a_buffer_begins_on_a_page_and_can_be_written() -> None:
    buffer = BoardBuffers(count=1).take(5000)
    assert len(buffer) == 5000
    assert buffer.ctypes.data % mmap.PAGESIZE == 0
    buffer[:] = 7
    assert int(buffer.sum()) == 35_000


def test_two_that_are_lent_are_not_the_same() -> None:
    buffers = BoardBuffers(count=2)
    one, two = buffers.take(100), buffers.take(100)
    assert not np.shares_memory(one, two)


def test_the_smallest_that_fits_is_taken() -> None:
    buffers = BoardBuffers(count=2)
    small, large = np.empty(10, np.uint8), np.empty(100, np.uint8)
    buffers.give_back(large)
    buffers.give_back(small)
    assert buffers.take(10) is small


def test_one_too_small_makes_way() -> None:
    buffers = BoardBuffers(count=1)
    small = buffers.take(10)
    buffers.give_back(small)
    large = buffers.take(100)
    buffers.give_back(large)
    assert len(large) == 100
    assert buffers.take(10) is large


def test_no_more_are_kept_than_asked_for() -> None:
    buffers = BoardBuffers(count=1)
    one, two = buffers.take(10), buffers.take(10)
    buffers.give_back(one)
    buffers.give_back(two)
    assert buffers.take(10) is one
    assert buffers.take(10) is not two


def test_prepared_buffers_are_ready_and_no_more_than_asked_for() -> None:
    buffers = BoardBuffers(count=2)
    lent = buffers.take(10)
    buffers.give_back(lent)
    buffers.prepare(100)
    assert buffers.take(5) is lent
    ready = buffers.take(80)
    assert len(ready) == 100
    assert ready.ctypes.data % mmap.PAGESIZE == 0
    assert len(buffers.take(80)) == 80
