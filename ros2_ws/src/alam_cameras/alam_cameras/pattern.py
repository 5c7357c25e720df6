"""What a software camera sees: a running number, a square that moves, and a lamp that flashes. Pure.

The lamp belongs to the host's clock, not to a camera: every camera on this host sees the same flashes, about one a
second, their moments spread over the frame period so that offsets finer than a frame can be found
(tools/camera_offset.py)."""

from __future__ import annotations

import math

import numpy as np

SQUARE, BITS = 8, 16
SIZE, STEP, COLOUR = 24, 4, (40, 160, 220)  # of the square that moves [px]
DARK, BRIGHT = 60, 200  # grey level of the background without and with the lamp
EXPOSURE_S = 0.010  # one half-wave of lamps on 50 Hz mains
FLASH_S, SPREAD_S, GOLDEN = 0.15, 0.3, (math.sqrt(5) - 1) / 2


def lamp(time_s: float, exposure_s: float = EXPOSURE_S) -> float:
    """-> part, 0 to 1, of an exposure centred on time_s (time.monotonic()) during which the lamp was lit."""
    begin, end, lit = time_s - exposure_s / 2, time_s + exposure_s / 2, 0.0
    for second in {math.floor(begin), math.floor(end)}:
        on = second + SPREAD_S * (second * GOLDEN % 1.0)
        lit += max(0.0, min(end, on + FLASH_S) - max(begin, on))
    return lit / exposure_s


class Pattern:
    """Draws into one image that it keeps: only what changes is drawn."""

    def __init__(self, width: int, height: int) -> None:
        """width, height [px]. Narrower than 16 squares of 8 px, the number cannot be read again."""
        self._image = np.empty((height, width, 3), np.uint8)
        self._rows = self._image.reshape(height, width * 3)  # a view: whole pixels at once are slow to write
        self._square = np.broadcast_to(np.array(COLOUR, np.uint8), (SIZE, SIZE, 3)).reshape(SIZE, SIZE * 3).copy()
        self._background = -1
        self._left = 0

    def draw(self, number: int, lit: float = 0.0) -> np.ndarray:
        """number, part of the lamp's light 0 to 1 -> (height, width, 3) uint8, valid until the next call.

        The number modulo 2^16 is two rows of 16 black or white squares, the highest bit first, the second row
        inverted."""
        height, width, _ = self._image.shape
        middle, background = slice(height // 2, height // 2 + SIZE), DARK + round((BRIGHT - DARK) * lit)
        if background != self._background:
            self._image.fill(background)
            self._background = background
        else:
            self._rows[middle, self._left : self._left + 3 * SIZE] = background
        self._left = 3 * (number * STEP % max(1, width - SIZE))
        self._rows[middle, self._left : self._left + 3 * SIZE] = self._square
        bits = np.array([number >> (BITS - 1 - k) & 1 for k in range(BITS)], np.uint8) * 255
        row = np.repeat(bits, 3 * SQUARE)[: width * 3]
        self._rows[:SQUARE, : len(row)] = row
        self._rows[SQUARE : 2 * SQUARE, : len(row)] = 255 - row
        return self._image


def read_number(image: np.ndarray) -> int | None:
    """image (h, w, 3) uint8 -> the running number modulo 2^16; None when there is none to be read."""
    centres = np.arange(BITS) * SQUARE + SQUARE // 2
    first, second = (image[row, centres, 0] > 127 for row in (SQUARE // 2, SQUARE + SQUARE // 2))
    if (first == second).any():
        return None
    return int((first.astype(int) << np.arange(BITS - 1, -1, -1)).sum())
