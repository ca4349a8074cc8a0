"""A proxy before nodes that holds back what passes, in a process of its own.

``python -m bench.delay SECONDS HOST:PORT ...`` prints a port for each, in that order, and serves
until its stdin ends.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from sandbox import MARK, session

from bench.rig import Site

_HOST = "127.0.0.1"
_BLOCK = 1 << 16


@contextmanager
def delayed(site: Site, seconds: float) -> Iterator[Site]:
    """The nodes of a site, with everything ``seconds`` later in each direction."""
    targets = [f"{host}:{port}" for host, port in site.addresses]
    with subprocess.Popen(
        [sys.executable, "-m", "bench.delay", str(seconds), *targets],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, MARK: session().new_mark()},
    ) as process:
        assert process.stdout is not None
        ports = [int(process.stdout.readline()) for _ in targets]
        try:
            yield site.at([(_HOST, port) for port in ports], f"{seconds:g}")
        finally:
            process.kill()


async def _serve(seconds: float, targets: Sequence[str]) -> None:
    servers = []
    for target in targets:
        host, _, port = target.rpartition(":")
        welcome = partial(_welcome, seconds, host, int(port))
        servers.append(await asyncio.start_server(welcome, _HOST, 0))
    for server in servers:
        print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def _welcome(
    seconds: float,
    host: str,
    port: int,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    node_reader, node_writer = await asyncio.open_connection(host, port)
    await asyncio.gather(
        _pass_on(seconds, reader, node_writer), _pass_on(seconds, node_reader, writer)
    )


async def _pass_on(
    seconds: float, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Write each piece so many seconds after it was read, and the end after the last."""
    loop = asyncio.get_running_loop()
    while data := await reader.read(_BLOCK):
        loop.call_later(seconds, writer.write, data)
    loop.call_later(seconds, writer.close)


if __name__ == "__main__":
    asyncio.run(_serve(float(sys.argv[1]), sys.argv[2:]))
