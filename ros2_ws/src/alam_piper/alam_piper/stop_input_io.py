"""A hardware stop: a file, such as a GPIO's value, that reads 1 while motion is allowed."""

from __future__ import annotations

import os


class StopInput:
    """Opened once: the control loop looks at it each period."""

    def __init__(self, path: str) -> None:
        """Raises ValueError for a file that cannot be read."""
        self._path = path
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise ValueError(f"hardware_stop: wanted a file that can be read, got {path}: {error.strerror}") from None

    def pressed(self) -> str:
        """-> why motion is forbidden; "" while it is allowed."""
        try:
            if not os.fstat(self._fd).st_nlink:
                return f"the hardware stop has gone ({self._path})"
            return "" if os.pread(self._fd, 1, 0) == b"1" else f"the hardware stop is pressed ({self._path})"
        except OSError as error:
            return f"the hardware stop cannot be read ({self._path}: {error.strerror})"
