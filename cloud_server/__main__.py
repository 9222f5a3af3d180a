"""``python -m cloud_server``, also installed as ``splitnn-server``: serve models at any cut."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from splitnn.errors import SplitnnError
from splitnn.graph.allocator import keep_freed_memory
from splitnn.runtime import process
from splitnn.runtime.settings import BAD_INPUT, read


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; the exit status. What it cannot use is one line on stderr and status 2."""
    try:
        from cloud_server.config import Config

        config = read(Config, arguments, program="splitnn-server", purpose="Serve PyTorch models, whole or at any cut.")
        keep_freed_memory()
        process.start_log(config.log_level)

        from cloud_server.program import serve  # torch, with all that it takes to load

        return process.leave(process.run(lambda told: serve(config, told)))
    except (SplitnnError, ValueError, OSError) as error:
        print(f"splitnn-server: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        return process.leave(BAD_INPUT)


if __name__ == "__main__":
    sys.exit(main())
