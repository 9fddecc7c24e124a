"""A WebSocket server that sends every message back. Argument: the port."""

import asyncio
import sys

from websockets.asyncio.server import serve


async def echo(connection):
    async for message in connection:
        await connection.send(message)
    # The client has closed; `serve` answers it.


async def main():
    # No host: both IPv4 and IPv6.
    async with serve(echo, None, int(sys.argv[1]), max_size=16 << 20) as server:
        await server.serve_forever()


asyncio.run(main())
