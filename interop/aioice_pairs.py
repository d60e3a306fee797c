#!/usr/bin/env python3
"""Two aioice agents for each pair of hosts of the laboratory, without TURN.

The argument is a JSON list of {"name", "a", "b", "stun", "first"}: the pair's
name, the network namespaces of its hosts, the address of its STUN server, and
which of the two speaks first. The answer is one JSON object on stdout: "direct"
or "failed" for each name.
"""

import asyncio
import ctypes
import json
import os
import sys
import threading

import aioice

CLONE_NEWNET = 0x40000000
LIMIT = 40
# The second to speak does so when the first's checks have long been sent, and
# before they are given up.
SECOND = 1.5


def enter(namespace):
    """Moves this thread into a namespace; its sockets stay there."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        if libc.setns(handle, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"entering {namespace}")
    finally:
        os.close(handle)


class Pair:
    def __init__(self, order):
        self.order = order
        self.said = {}
        self.ready = threading.Barrier(2, timeout=LIMIT)
        self.outcome = {}

    async def agent(self, side, other):
        connection = aioice.Connection(
            ice_controlling=side == "a", stun_server=(self.order["stun"], 3478), use_ipv6=False
        )
        await connection.gather_candidates()
        self.said[side] = connection
        # Both have gathered before either checks.
        await asyncio.get_running_loop().run_in_executor(None, self.ready.wait)
        if side != self.order["first"]:
            await asyncio.sleep(SECOND)
        peer = self.said[other]
        connection.remote_username = peer.local_username
        connection.remote_password = peer.local_password
        for candidate in peer.local_candidates:
            await connection.add_remote_candidate(candidate)
        await connection.add_remote_candidate(None)
        try:
            await asyncio.wait_for(connection.connect(), LIMIT)
            await connection.send(b"greeting from " + side.encode())
            received = await asyncio.wait_for(connection.recv(), 10)
            self.outcome[side] = "direct" if received == b"greeting from " + other.encode() else "garbled"
        except (ConnectionError, asyncio.TimeoutError):
            self.outcome[side] = "failed"
        await asyncio.get_running_loop().run_in_executor(None, self.ready.wait)
        await connection.close()

    def run(self, side, other):
        try:
            enter(self.order[side])
            asyncio.run(self.agent(side, other))
        except Exception as error:  # said in the answer
            self.outcome[side] = f"error: {error!r}"
            self.ready.abort()


def main():
    pairs = [Pair(order) for order in json.loads(sys.argv[1])]
    threads = []
    for pair in pairs:
        for side, other in (("a", "b"), ("b", "a")):
            threads.append(threading.Thread(target=pair.run, args=(side, other), daemon=True))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answer = {}
    for pair in pairs:
        outcomes = set(pair.outcome.values())
        answer[pair.order["name"]] = outcomes.pop() if len(outcomes) == 1 else f"disputed: {pair.outcome}"
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
