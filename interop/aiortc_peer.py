#!/usr/bin/env python3
"""The aiortc peer of the interop tests.

Speaks the long-poll signaling of `whyrelay serve`, exchanges one greeting over
the data channel `testChannel` and ends with one line of JSON on stdout.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sys
import time

import aiohttp
from aiortc import (
    RTCConfiguration,
    RTCIceServer,
    RTCIceTransportPolicy,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.sdp import candidate_from_sdp

STARTED = time.monotonic()


def log(text):
    print(f"{time.monotonic() - STARTED:8.3f} {text}", file=sys.stderr, flush=True)


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--role", choices=["offerer", "answerer"], required=True)
    parser.add_argument("--signal", required=True, help="base URL of the signaling server")
    parser.add_argument("--id", help="own id (offer-peer-1 or answer-peer-1 by role)")
    parser.add_argument("--peer", help="the other's id")
    parser.add_argument("--stun", help="a STUN URL")
    parser.add_argument("--turn", help="a TURN URL; the password is TURN_PASSWORD")
    parser.add_argument("--turn-user", default="")
    parser.add_argument("--relay-only", action="store_true")
    parser.add_argument("--loopback", action="store_true", help="offer 127.0.0.1 too")
    parser.add_argument("--echo", action="store_true", help="send back what the channel receives")
    parser.add_argument("--trickle", action="store_true", help="send candidates apart from the SDP")
    parser.add_argument("--timeout", type=float, default=30)
    parser.add_argument("--hold", type=float, default=0, help="seconds to stay after the first message")
    args = parser.parse_args()
    own, other = "offer-peer-1", "answer-peer-1"
    if args.role == "answerer":
        own, other = other, own
    args.id = args.id or own
    args.peer = args.peer or other
    return args


class Peer:
    def __init__(self, args, http):
        self.args = args
        self.http = http
        self.received = asyncio.get_running_loop().create_future()
        self.early = []
        self.closed = asyncio.Event()
        servers = []
        if args.stun:
            servers.append(RTCIceServer(args.stun))
        if args.turn:
            servers.append(RTCIceServer(args.turn, args.turn_user, os.environ.get("TURN_PASSWORD", "")))
        policy = RTCIceTransportPolicy.RELAY if args.relay_only else RTCIceTransportPolicy.ALL
        # An empty list, never None: None means a public STUN server.
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=servers, iceTransportPolicy=policy))
        self.connection.on("connectionstatechange", self.state_changed)
        self.connection.on("datachannel", self.use_channel)

    def state_changed(self):
        state = self.connection.connectionState
        log(f"connection: {state}")
        if state == "failed" and not self.received.done():
            self.received.set_exception(RuntimeError("the connection failed"))

    def use_channel(self, channel):
        def opened():
            log(f"channel {channel.label!r} is open")
            channel.send(f"greeting from {self.args.id}")

        def message(data):
            if len(data) < 200:
                log(f"received {data!r}")
            if self.args.echo:
                channel.send(data)
            if not self.received.done():
                self.received.set_result(data if isinstance(data, str) else data.hex())

        channel.on("message", message)
        channel.on("close", self.closed.set)
        if channel.readyState == "open":
            opened()
        else:
            channel.on("open", opened)

    async def send(self, kind, content):
        body = {"type": kind, "content": content, "to": self.args.peer, "from": self.args.id}
        while True:
            async with self.http.post(f"{self.args.signal}/send", json=body) as response:
                text = await response.text()
                if response.status == 200:
                    return
                if response.status != 404:
                    raise RuntimeError(f"send {kind}: {response.status} {text.strip()}")
            # The other is not there yet; the timeout of the whole run ends this.
            await asyncio.sleep(0.05)

    async def receive(self):
        """Hands every message for us to `handle`, reopening an ended response."""
        url = f"{self.args.signal}/receive"
        while True:
            async with self.http.get(url, params={"id": self.args.id}) as response:
                if response.status not in (200, 204):
                    raise RuntimeError(f"receive: {response.status} {await response.text()}")
                async for line in response.content:
                    if line.strip():
                        await self.handle(json.loads(line))
            await asyncio.sleep(0.1)

    async def describe(self, kind):
        """Sends our own description, with the candidates inside or apart."""
        sdp = self.connection.localDescription.sdp
        lines, candidates = [], []
        for line in sdp.splitlines():
            if self.args.trickle and line.startswith("a=candidate:"):
                candidates.append(line[2:])
            elif not (self.args.trickle and line.startswith("a=end-of-candidates")):
                lines.append(line)
        await self.send(kind, "\r\n".join(lines) + "\r\n")
        for candidate in candidates:
            await self.send("candidate", candidate)

    async def handle(self, message):
        kind, content = message["type"], message["content"]
        if kind == "candidate":
            log(f"candidate: {content}")
            if self.connection.remoteDescription is None:
                self.early.append(content)
            else:
                await self.add_candidate(content)
        elif kind == ("answer" if self.args.role == "offerer" else "offer"):
            log(f"{kind} from {message['from']}")
            await self.connection.setRemoteDescription(RTCSessionDescription(content, kind))
            for candidate in self.early:
                await self.add_candidate(candidate)
            self.early = []
            if kind == "offer":
                await self.connection.setLocalDescription(await self.connection.createAnswer())
                await self.describe("answer")

    async def add_candidate(self, line):
        if not line:
            await self.connection.addIceCandidate(None)
            return
        candidate = candidate_from_sdp(line.removeprefix("candidate:"))
        candidate.sdpMLineIndex = 0
        await self.connection.addIceCandidate(candidate)

    async def run(self):
        """Connects and waits for the first message."""
        listening = asyncio.ensure_future(self.receive())
        try:
            if self.args.role == "offerer":
                self.use_channel(self.connection.createDataChannel("testChannel"))
                await self.connection.setLocalDescription(await self.connection.createOffer())
                await self.describe("offer")
            done, _ = await asyncio.wait([listening, self.received], return_when=asyncio.FIRST_COMPLETED)
            if self.received not in done:
                listening.result()
            text = self.received.result()
            await asyncio.sleep(self.args.hold)
            return text
        finally:
            listening.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await listening

    def selected(self):
        # Nothing public tells the selected pair; aioice keeps the nominated pair per component.
        transport = self.connection.sctp.transport.transport if self.connection.sctp else None
        pair = transport._connection._nominated.get(1) if transport else None
        if pair is None:
            return None
        return {
            side: {"type": candidate.type, "address": f"{candidate.host}:{candidate.port}"}
            for side, candidate in (("local", pair.local_candidate), ("remote", pair.remote_candidate))
        }


async def main():
    args = arguments()
    if args.loopback:
        import aioice.ice

        # aioice leaves loopback out; it asks this function for the addresses.
        real = aioice.ice.get_host_addresses
        aioice.ice.get_host_addresses = lambda *a, **k: ["127.0.0.1", *real(*a, **k)]

    result = {"ok": False, "state": "new", "selected": None, "received": ""}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
    async with aiohttp.ClientSession(timeout=timeout) as http:
        peer = Peer(args, http)
        try:
            result["received"] = await asyncio.wait_for(peer.run(), args.timeout)
            result["ok"] = True
        except asyncio.TimeoutError:
            result["error"] = f"no message within {args.timeout:g} s"
        except Exception as error:
            result["error"] = f"{type(error).__name__}: {error}"
        result["state"] = peer.connection.connectionState
        result["selected"] = peer.selected()
        print(json.dumps(result), flush=True)
        # A browser may drop a message that is followed at once by a close: stay until the other
        # has closed, or long enough for it to have read our greeting.
        if result["ok"]:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(peer.closed.wait(), 2)
        with contextlib.suppress(Exception):
            await asyncio.wait_for(peer.connection.close(), 5)
    sys.exit(0 if result["ok"] else 1)


asyncio.run(main())
