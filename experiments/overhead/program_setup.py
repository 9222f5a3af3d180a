"""A program set up as ours are, so that every rival of a comparison has the same."""

from __future__ import annotations

import asyncio
import gc

import torch

from splitnn.graph.allocator import keep_freed_memory


def set_up_program() -> None:
    """One thread for torch, freed memory kept, uvloop where it is installed, no visits to torch's many objects."""
    keep_freed_memory()
    gc.collect()
    gc.freeze()
    torch.set_num_threads(1)
    try:
        import uvloop
    except ImportError:
        return
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
