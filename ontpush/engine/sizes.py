"""Which files there are and how large each is, in one figure: in whatever order they are met."""

from ontpush.engine.sums import new_md5


class Sizes:
    """Counts files and bytes, and sums up a figure of each path with its size, modulo 2^128."""

    def __init__(self) -> None:
        self.files = 0
        self.bytes = 0
        self._sum = 0

    def add(self, path: bytes, size: int) -> None:
        """Count a file once: `path` relative to its run, `size` in bytes."""
        self.files += 1
        self.bytes += size
        self._sum += int.from_bytes(new_md5(b"%b\0%d" % (path, size)).digest(), "big")

    def digest(self) -> str:
        """In 32 hexadecimal digits; another one where any file is gone, new or of another size."""
        return f"{self._sum % (1 << 128):032x}"
