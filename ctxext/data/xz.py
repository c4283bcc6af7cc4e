"""Read .xz files in bounded memory; under lzma.open the file decides how much it takes."""

import io
import lzma
from pathlib import Path
from typing import IO, Any, cast

from ctxext.errors import BadInput

_MOST = 256 * 1024 * 1024  # bytes; `xz -9` needs 65 MiB to unpack, a dictionary can have 4 GiB
_BLOCK = 64 * 1024  # packed bytes read at once


def open_xz(path: Path) -> IO[bytes]:
    """Open a file for reading; damage is an LZMAError or EOFError when it is met.

    Raises:
        BadInput: when it is read, of a file that needs more than 256 MiB to be unpacked.
    """
    return cast(IO[bytes], io.BufferedReader(_Unpacked(path), 1024 * 1024))


class _Unpacked(io.RawIOBase):
    """A reader of one stream or several, zeros between and behind them, as `xz --decompress`."""

    def __init__(self, path: Path) -> None:
        self._file, self._name = path.open("rb"), path.name
        self._stream: lzma.LZMADecompressor | None = None
        self._rest = b""
        self._streams = 0

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        while True:
            if self._stream is None and not self._next_stream():
                return 0
            data = self._unpack(len(buffer))
            if data:
                buffer[: len(data)] = data
                return len(data)

    def _next_stream(self) -> bool:
        rest = self._rest.lstrip(b"\0") if self._streams else self._rest
        while not rest:
            block = self._file.read(_BLOCK)
            if not block:
                if self._streams:
                    return False
                raise EOFError("the file is empty")
            rest = block.lstrip(b"\0") if self._streams else block
        self._stream = lzma.LZMADecompressor(memlimit=_MOST)
        self._streams += 1
        self._rest = rest
        return True

    def _unpack(self, most: int) -> bytes:
        stream = cast(lzma.LZMADecompressor, self._stream)
        packed = b""
        if stream.needs_input:
            packed = self._rest or self._file.read(_BLOCK)
            self._rest = b""
            if not packed:
                raise EOFError("it ends in the middle")
        try:
            data = stream.decompress(packed, most)
        except lzma.LZMAError as error:
            if "limit" not in str(error):
                raise
            raise BadInput(
                f"--data {self._name} needs more than 256 MiB of memory to be unpacked",
                "pack it again: xz -9 needs 65 MiB",
            ) from error
        if stream.eof:
            self._stream, self._rest = None, stream.unused_data
        return data
