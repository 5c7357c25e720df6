"""What tests of cameras share: a size, and waiting for frames. The fixture `software` is in conftest.py."""

import time

from alam_cameras.frame import Settings

SIZE = Settings(320, 240, 30)


def frames(camera, count, patience_s=20.0):
    """-> the next `count` frames. Fails the test when they do not come."""
    found, end = [], time.monotonic() + patience_s
    while len(found) < count:
        assert time.monotonic() < end, f"waited for {count} frames, got {len(found)}"
        if (frame := camera.read(0.2)) is not None:
            found.append(frame)
    return found
