"""What every handler of a server is wrapped in: its errors become the statuses that the near side understands."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from splitnn.transport.status import status_of

logger = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext


def guarded(end: Callable[[Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
    """The handler of a unary call for a function of its request."""

    async def handler(request: Any, context: Context[Any, Any]) -> Any:
        try:
            return await end(request)
        except Exception as error:  # noqa: BLE001 -- each one is answered
            await abort(context, error)

    return handler


async def abort(context: Context[Any, Any], error: Exception) -> None:
    """End a call with the error's status; logs what is no error of the tree."""
    status = status_of(error)
    if status.code is grpc.StatusCode.INTERNAL:
        logger.error("a request failed inside", exc_info=error)
    await context.abort(status.code, status.message, status.metadata())
