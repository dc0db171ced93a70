"""Every call by which Python code changes or reads files below a folder, seen before it is made: to be written down, or to fail.

The functions of `os`, `io.open` and the exchange of two names are replaced while `watched_calls` runs. Whatever goes another way to the
disk is not seen; `campaign.testing.power_cut` notices that, since its replay then differs from the folder.
"""

from __future__ import annotations

import builtins
import io
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeAlias
from unittest import mock

from campaign.store import publication


@dataclass(frozen=True, slots=True)
class Call:
    """One call. `path` and `other` are relative to the folder that is watched; the folder itself is "."."""

    name: str
    """open, create, write, truncate, fsync, close, read, rename, exchange, link, unlink, mkdir, rmdir or scan."""
    path: str
    other: str = ""
    offset: int = 0
    data: bytes = b""

    def __str__(self) -> str:
        return f"{self.name} {self.path}" + (f" → {self.other}" if self.other else "")


Handler: TypeAlias = "Callable[[Call], int | None]"
"""Is asked before each call. It may raise, and the call is not made (`close` is made, and fails after); of a write, it may return how many
bytes get through."""


@contextmanager
def watched_calls(folder: Path, handler: Handler) -> Iterator[list[Call]]:
    """Show `handler` each call on `folder` and what is below it while the block runs; yield the list of those that succeeded."""
    watcher = _Watcher(os.path.realpath(folder), handler)
    with ExitStack() as stack:
        for module, name, replacement in watcher.replacements():
            stack.enter_context(mock.patch.object(module, name, replacement))
        yield watcher.calls


class _Watcher:
    def __init__(self, root: str, handler: Handler) -> None:
        self.root, self.handler = root, handler
        self.calls: list[Call] = []
        # Also orders what threads do: the list is then what happened.
        self.lock = threading.RLock()
        self.open = io.open

    def relative(self, path: Any, dir_fd: int | None = None) -> str | None:
        """The path below the root, or None if it lies elsewhere."""
        if isinstance(path, int):
            try:
                full = os.readlink(f"/proc/self/fd/{path}")  # noqa: PTH115
            except OSError:
                return None
        else:
            start = os.getcwd() if dir_fd is None else os.readlink(f"/proc/self/fd/{dir_fd}")  # noqa: PTH109, PTH115
            full = os.path.normpath(os.path.join(start, os.fsdecode(path)))  # noqa: PTH118
        if full == self.root:
            return "."
        return full[len(self.root) + 1 :] if full.startswith(self.root + "/") else None

    def make(self, call: Call, action: Callable[[], Any]) -> Any:
        """Ask, call, write down."""
        with self.lock:
            self.handler(call)
            result = action()
            self.calls.append(call)
            return result

    def write(self, call: Call, action: Callable[[memoryview], int]) -> int:
        with self.lock:
            most = self.handler(call)
            done = action(memoryview(call.data)[:most])
            self.calls.append(replace(call, data=call.data[:done]))
            return done

    def close(self, path: str, action: Callable[[], Any]) -> None:
        with self.lock:
            try:
                self.handler(Call("close", path))
            finally:
                action()
            self.calls.append(Call("close", path))

    def replacements(self) -> Iterator[tuple[Any, str, Any]]:
        for name, kind in _ON_PATHS.items():
            yield os, name, self._on_path(getattr(os, name), kind)
        for name, kind in _ON_PAIRS.items():
            yield os, name, self._on_pair(getattr(os, name), kind)
        yield publication, "exchange", self._on_pair(publication.exchange, "exchange", lambda result: bool(result))
        for name, kind in _ON_DESCRIPTORS.items():
            yield os, name, self._on_descriptor(getattr(os, name), kind)
        yield os, "open", self._os_open(os.open)
        yield os, "close", self._os_close(os.close)
        yield os, "write", self._os_write(os.write)
        yield os, "pwrite", self._os_pwrite(os.pwrite)
        yield io, "open", self._io_open
        yield builtins, "open", self._io_open

    def _on_path(self, real: Callable[..., Any], kind: str) -> Callable[..., Any]:
        def call(path: Any = ".", *args: Any, **options: Any) -> Any:
            seen = self.relative(path, options.get("dir_fd"))
            if seen is None:
                return real(path, *args, **options)
            offset = args[0] if kind == "truncate" else 0
            return self.make(Call(kind, seen, offset=offset), lambda: real(path, *args, **options))

        return call

    def _on_pair(self, real: Callable[..., Any], kind: str, succeeded: Callable[[Any], bool] = lambda _: True) -> Callable[..., Any]:
        def call(source: Any, target: Any, **options: Any) -> Any:
            first, second = self.relative(source, options.get("src_dir_fd")), self.relative(target, options.get("dst_dir_fd"))
            if first is None or second is None:
                return real(source, target, **options)
            with self.lock:
                result = self.make(Call(kind, first, second), lambda: real(source, target, **options))
                if not succeeded(result):
                    self.calls.pop()
                return result

        return call

    def _on_descriptor(self, real: Callable[..., Any], kind: str) -> Callable[..., Any]:
        def call(descriptor: Any, *args: Any) -> Any:
            seen = self.relative(descriptor if isinstance(descriptor, int) else descriptor.fileno())
            if seen is None:
                return real(descriptor, *args)
            return self.make(Call(kind, seen, offset=args[0] if args else 0), lambda: real(descriptor, *args))

        return call

    def _os_open(self, real: Callable[..., int]) -> Callable[..., int]:
        def call(path: Any, flags: int, *args: Any, **options: Any) -> int:
            seen = self.relative(path, options.get("dir_fd"))
            if seen is None:
                return real(path, flags, *args, **options)
            creates = bool(flags & os.O_CREAT) and not os.path.lexists(path)
            with self.lock:
                descriptor: int = self.make(Call("create" if creates else "open", seen), lambda: real(path, flags, *args, **options))
                if flags & os.O_TRUNC and not creates:
                    self.calls.append(Call("truncate", seen))
            return descriptor

        return call

    def _os_close(self, real: Callable[[int], None]) -> Callable[[int], None]:
        def call(descriptor: int) -> None:
            seen = self.relative(descriptor)
            if seen is None:
                real(descriptor)
            else:
                self.close(seen, lambda: real(descriptor))

        return call

    def _os_write(self, real: Callable[..., int]) -> Callable[..., int]:
        def call(descriptor: int, data: Any) -> int:
            seen = self.relative(descriptor)
            if seen is None or not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return real(descriptor, data)
            offset = os.lseek(descriptor, 0, os.SEEK_CUR)
            return self.write(Call("write", seen, offset=offset, data=bytes(data)), lambda part: real(descriptor, part))

        return call

    def _os_pwrite(self, real: Callable[..., int]) -> Callable[..., int]:
        def call(descriptor: int, data: Any, offset: int) -> int:
            seen = self.relative(descriptor)
            if seen is None:
                return real(descriptor, data, offset)
            return self.write(Call("write", seen, offset=offset, data=bytes(data)), lambda part: real(descriptor, part, offset))

        return call

    def _io_open(self, file: Any, mode: str = "r", buffering: int = -1, *args: Any, **options: Any) -> Any:
        if isinstance(file, int) or self.relative(file) is None:
            return self.open(file, mode, buffering, *args, **options)
        raw = _File(self, file, "".join(letter for letter in mode if letter not in "bt"))
        if buffering == 0:
            return raw
        buffered: Any = io.BufferedRandom(raw) if "+" in mode else io.BufferedReader(raw) if "r" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, *args, **options)


class _File(io.FileIO):
    """A file whose calls are shown."""

    def __init__(self, watcher: _Watcher, file: Any, mode: str) -> None:
        self._watcher = watcher
        seen = watcher.relative(file) or "."
        creates = "r" not in mode and not os.path.lexists(file)
        with watcher.lock:
            watcher.make(Call("create" if creates else "open", seen), lambda: super(_File, self).__init__(file, mode))
            if "w" in mode and not creates:
                watcher.calls.append(Call("truncate", seen))

    @property
    def _seen(self) -> str:
        return self._watcher.relative(self.fileno()) or "."

    def write(self, data: Any) -> int:
        """Write, or fail as asked."""
        end = os.fstat(self.fileno()).st_size if "a" in self.mode else self.tell()
        return self._watcher.write(Call("write", self._seen, offset=end, data=bytes(data)), super().write)

    def truncate(self, size: int | None = None) -> int:
        """Cut, or fail as asked."""
        at = self.tell() if size is None else size
        return int(self._watcher.make(Call("truncate", self._seen, offset=at), lambda: super(_File, self).truncate(at)))

    def readinto(self, buffer: Any) -> int:
        """Read, or fail as asked."""
        return int(self._watcher.make(Call("read", self._seen), lambda: super(_File, self).readinto(buffer)))

    def readall(self) -> bytes:
        """Read, or fail as asked."""
        return bytes(self._watcher.make(Call("read", self._seen), lambda: super(_File, self).readall()))

    def read(self, size: int | None = -1) -> bytes:
        """Read, or fail as asked."""
        return bytes(self._watcher.make(Call("read", self._seen), lambda: super(_File, self).read(-1 if size is None else size)))

    def close(self) -> None:
        """Close, or close and fail as asked."""
        if not self.closed:
            self._watcher.close(self._seen, super().close)


_ON_PATHS: Final = {
    "unlink": "unlink",
    "remove": "unlink",
    "mkdir": "mkdir",
    "rmdir": "rmdir",
    "truncate": "truncate",
    "scandir": "scan",
    "listdir": "scan",
}
_ON_PAIRS: Final = {"rename": "rename", "replace": "rename", "link": "link"}
_ON_DESCRIPTORS: Final = {"fsync": "fsync", "fdatasync": "fsync", "ftruncate": "truncate", "posix_fallocate": "allocate"}
