# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What C code prints while it works: cuCIM's JPEG decoder prints what it found wrong, and makes up the pixels.

It prints to the C library's own ``stdout``, which is a pointer to a file. While cuCIM reads, it points to a file in
memory. Python's ``sys.stdout``, file descriptor 1 and other processes are not touched; what is not about JPEG is passed
on. Threads may read at the same time: then each hears all of them, so that one that hears something asks again alone.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

__all__ = ["Heard", "listen"]

_MESSAGE = re.compile(rb"ERROR in line \d+ while [^\n]*JPEG[^\n]*:\n([^\n]*)\n")
_UNBUFFERED = 2  # _IONBF
_MOST_BYTES = 1 << 16  # of messages at a time; more are lost
_PATIENCE = 0.0005  # seconds

T = TypeVar("T")


class Heard(NamedTuple):
    """What was printed while a function ran.

    Attributes:
        messages: of JPEG decoders, such as "Corrupt JPEG data: premature end of data segment".
        was_alone: whether no other thread listened meanwhile, so that they are of this function.
    """

    messages: tuple[str, ...]
    was_alone: bool


_SILENCE = Heard((), was_alone=True)


class _Stdout:
    """The C library's ``stdout`` of this process. System calls are avoided: some hundred windows a second are read."""

    def __init__(self) -> None:
        self._pointer = _find_pointer()
        self._real = None if self._pointer is None else self._pointer.value
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._must_be_alone = False  # the one that is inside
        self._num_inside = 0
        self._num_entered = 0
        self._memory = ctypes.create_string_buffer(_MOST_BYTES)  # text, then zeros
        self._file: int | None = None  # pointer to the file in it

    def forget_parent(self) -> None:
        """In a forked process: the threads of the parent are not here, and it has a file of its own."""
        if self._pointer is not None:
            self._pointer.value = self._real
        self._begin()

    def listen(self, function: Callable[[], T], *, alone: bool) -> tuple[T, Heard]:
        pointer = self._pointer
        if pointer is None:
            return function(), _SILENCE
        number, begin = self._enter(pointer, alone)
        heard = _SILENCE
        try:
            result = function()
        finally:
            heard = self._leave(pointer, number, begin)
        return result, heard

    def _enter(self, pointer: ctypes.c_void_p, alone: bool) -> tuple[int, int]:
        """Number of this entry, 0 if others are inside, and where in the memory its messages begin."""
        while True:
            with self._lock:
                is_free = self._num_inside == 0
                if is_free or not (alone or self._must_be_alone):
                    self._num_inside += 1
                    self._num_entered += 1
                    self._must_be_alone = alone
                    if not is_free:
                        return 0, len(self._memory.value)
                    if self._file is None:
                        self._file = _open_memory(self._memory)
                    pointer.value = self._file
                    return self._num_entered, 0
            time.sleep(_PATIENCE)

    def _leave(self, pointer: ctypes.c_void_p, number: int, begin: int) -> Heard:
        with self._lock:
            was_alone = number == self._num_entered
            self._num_inside -= 1
            if not self._num_inside:
                pointer.value = self._real
            if self._memory[0] == b"\0":
                return _SILENCE

            text = self._memory.value
            if not self._num_inside:
                self._pass_on(text)
        messages = tuple(message.decode("latin-1") for message in _MESSAGE.findall(text[begin:]))
        return Heard(messages, was_alone)

    def _pass_on(self, text: bytes) -> None:
        """Empty the memory, and print what is not about JPEG."""
        ctypes.memset(self._memory, 0, len(text))
        ctypes.CDLL(None).rewind(ctypes.c_void_p(self._file))
        others = _MESSAGE.sub(b"", text)
        if others:
            os.write(1, others)


def _find_pointer() -> ctypes.c_void_p | None:
    """The variable ``stdout`` of the C library; None of other libraries than GNU's, in which it is none."""
    if platform.libc_ver()[0] != "glibc":
        return None
    try:
        return ctypes.c_void_p.in_dll(ctypes.CDLL(None), "stdout")
    except (OSError, ValueError):
        return None


def _open_memory(memory: ctypes.Array[ctypes.c_char]) -> int:
    """Pointer to a file, as C has it, whose content is in memory without delay."""
    library = ctypes.CDLL(None)
    library.fmemopen.restype = ctypes.c_void_p
    library.fmemopen.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    file = library.fmemopen(memory, len(memory), b"w")
    library.setvbuf(ctypes.c_void_p(file), None, _UNBUFFERED, 0)
    return file


_STDOUT = _Stdout()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_STDOUT.forget_parent)


def listen(function: Callable[[], T], *, alone: bool = False) -> tuple[T, Heard]:
    """Run a function that may print messages of a JPEG decoder, and hear them.

    Args:
        function: what to run; it may raise, then nothing is heard. It may not listen itself.
        alone: whether to wait until no other thread listens, and let none begin meanwhile.
    """
    return _STDOUT.listen(function, alone=alone)
