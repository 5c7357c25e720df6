"""How a command of this folder begins and ends: a sentence for what the user can put right, no traceback on Ctrl-C."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INTERRUPTED = 130


def guarded(name: str, body: Callable[[], int]) -> int:
    """-> the exit code of body; 1 after a sentence that says what was wrong, 130 after Ctrl-C or SIGTERM."""
    for number in (signal.SIGTERM, signal.SIGINT):  # SIGINT too: a shell's background job inherits it ignored
        signal.signal(number, signal.default_int_handler)
    try:
        from alam_common.refusal import Refusal
    except ImportError:
        print(f"{name}: wanted this repository's environment, got another; run `source tools/env.sh`", file=sys.stderr)
        return 1
    try:
        return body()
    except Refusal as refusal:
        print(f"{name}: {refusal}", file=sys.stderr)
        return 1
    except ImportError as error:
        print(
            f"{name}: wanted its packages, got: {error}; run `make setup`, then `source tools/env.sh`", file=sys.stderr
        )
        return 1
    except OSError as error:  # a folder that cannot be written, a full disk
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted; everything it started has ended", file=sys.stderr)
        return INTERRUPTED
