#!/usr/bin/env python3
"""Two aioice agents for each pair of places in the laboratory, without TURN.

The argument is a JSON object: "stun", the address of the STUN server;
"hosts", a network namespace for each host; "pairs", a list of {"a", "b",
"first"}: the hosts of its controlling and its controlled agent, and which of
the two speaks first. The answer is a JSON list on stdout, in the order of the
pairs: "direct" or "failed" for each.

All pairs are tried at the same time, each with sockets of its own: a thread
for each host has all agents there, and they mostly wait.
"""

import asyncio
import ctypes
import json
import os
import resource
import sys
import threading

import aioice

CLONE_NEWNET = 0x40000000
# The second to speak does so when the first's checks have long been sent, and
# before they are given up.
SECOND = 1.5
# From then on: three more transmissions of every check, the last 4 s after
# the one before.
CHECKING = 11
# A greeting over a pair that works.
GREETING = 5
# Gathering waits 5 s for a STUN server.
GATHERING = 30


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
        self.agents = {}
        self.outcome = {}


async def connect(pair, side, gathered):
    """Lets one agent of a pair try to reach the other."""
    connection, other = pair.agents[side], "b" if side == "a" else "a"
    peer = pair.agents[other]
    begins = gathered + (0 if pair.order["first"] == side else SECOND)
    await asyncio.sleep(begins - asyncio.get_running_loop().time())
    connection.remote_username = peer.local_username
    connection.remote_password = peer.local_password
    for candidate in peer.local_candidates:
        await connection.add_remote_candidate(candidate)
    await connection.add_remote_candidate(None)
    try:
        left = gathered + SECOND + CHECKING - asyncio.get_running_loop().time()
        await asyncio.wait_for(connection.connect(), left)
        await connection.send(b"greeting from " + side.encode())
        received = await asyncio.wait_for(connection.recv(), GREETING)
        pair.outcome[side] = "direct" if received == b"greeting from " + other.encode() else "garbled"
    except (ConnectionError, asyncio.TimeoutError):
        pair.outcome[side] = "failed"


async def host(stun, roles, barrier):
    """All agents of one host: (pair, side) each."""
    for pair, side in roles:
        pair.agents[side] = aioice.Connection(
            ice_controlling=side == "a", stun_server=(stun, 3478), use_ipv6=False
        )
    own = [pair.agents[side] for pair, side in roles]
    await asyncio.gather(*(agent.gather_candidates() for agent in own))
    loop = asyncio.get_running_loop()
    # All have gathered before any checks.
    await loop.run_in_executor(None, barrier.wait)
    gathered = loop.time()
    await asyncio.gather(*(connect(pair, side, gathered) for pair, side in roles))
    # What one side has sent the other may still have to get.
    await loop.run_in_executor(None, barrier.wait)
    await asyncio.gather(*(agent.close() for agent in own))


def run(namespace, stun, roles, barrier):
    try:
        enter(namespace)
        asyncio.run(host(stun, roles, barrier))
    except Exception as error:  # said in the answer
        barrier.abort()
        for pair, side in roles:
            pair.outcome[side] = f"error: {error!r}"


def main():
    wanted = json.loads(sys.argv[1])
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    pairs = [Pair(order) for order in wanted["pairs"]]
    roles = {name: [] for name in wanted["hosts"]}
    for pair in pairs:
        for side in ("a", "b"):
            roles[pair.order[side]].append((pair, side))
    barrier = threading.Barrier(len(roles), timeout=GATHERING)
    threads = [
        threading.Thread(target=run, args=(namespace, wanted["stun"], roles[name], barrier), daemon=True)
        for name, namespace in wanted["hosts"].items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answer = []
    for pair in pairs:
        outcomes = set(pair.outcome.values())
        answer.append(outcomes.pop() if len(outcomes) == 1 else f"disputed: {pair.outcome}")
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
