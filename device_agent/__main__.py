"""``python -m device_agent``, also installed as ``splitnn-agent``: the whole model for applications on this device."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from splitnn.errors import SplitnnError
from splitnn.graph.allocator import keep_freed_memory
from splitnn.runtime import process
from splitnn.runtime.settings import BAD_INPUT, read

_PURPOSE = "Run a model on this device and a server, cut where the link makes it fastest."


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; the exit status. What it cannot use is one line on stderr and status 2."""
    try:
        from device_agent.settings import Settings

        settings = read(Settings, arguments, program="splitnn-agent", purpose=_PURPOSE)
        keep_freed_memory()
        process.start_log(settings.log_level)

        from device_agent.program import serve  # torch, with all that it takes to load

        return process.leave(process.run(lambda told: serve(settings, told)))
    except (SplitnnError, ValueError, OSError) as error:
        print(f"splitnn-agent: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        return process.leave(BAD_INPUT)


if __name__ == "__main__":
    sys.exit(main())
