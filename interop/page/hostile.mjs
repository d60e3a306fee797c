// A peer that sends markup in every field that it controls.

import { deflateSync } from "node:zlib";

const MARKUP = "<img src=x onerror=alert(1)><script>alert(2)</script>\"'><svg onload=alert(3)>";

// Everything goes to side B, which waits in the room of `url`. Answers the markup.
export async function hostile(browser, url) {
  const { origin, hash } = new URL(url);
  const room = new URLSearchParams(hash.slice(1)).get("room");
  const from = "offer-peer-1";
  const say = async (type, content) => {
    const body = JSON.stringify({ type, content, to: "answer-peer-1", from });
    const response = await fetch(`${origin}/send?room=${encodeURIComponent(room)}`, { method: "POST", body });
    if (!response.ok) throw new Error(`${type}: ${response.status} ${await response.text()}`);
  };
  await say("hello", JSON.stringify({ implementation: MARKUP, version: MARKUP, features: ["recording"] }));
  await say(MARKUP, MARKUP);
  await say("candidate", `candidate:1 1 udp 1 ${MARKUP} 9 typ host`);
  await say("candidate", MARKUP);
  // An offer that is in order, from a browser that never hears the answer.
  const page = await (await browser.newContext()).newPage();
  const sdp = await page.evaluate(async () => {
    const connection = new RTCPeerConnection();
    connection.createDataChannel("testChannel");
    return (await connection.createOffer()).sdp;
  });
  await say("offer", sdp.replace(/^s=.*$/m, `s=${MARKUP}`));
  await say("candidate", `candidate:2 1 udp 2 ${MARKUP.replaceAll(" ", "/").toLowerCase()} 9 typ host`);
  await new Promise((resolve) => setTimeout(resolve, 500));

  const pair = { transport: "udp", local: "10.0.0.1:1", remote: "10.0.0.2:2" };
  const events = [
    { kind: "recording-started", version: 1, program: MARKUP, id: MARKUP, options: { interfaces: [MARKUP] } },
    { kind: "signaling", server: MARKUP, state: { state: "failed", detail: MARKUP } },
    { kind: "signal-refused", message: MARKUP, detail: MARKUP },
    { kind: "server-known", url: MARKUP, announced: true },
    { kind: "interface", name: MARKUP, index: 1, addresses: ["10.0.0.1"], used: "used" },
    { kind: "socket-failed", transport: "udp", local: "10.0.0.1:1", errno: 1, detail: MARKUP },
    { kind: "send-failed", transport: "udp", local: "10.0.0.1:1", remote: "10.0.0.2:2", errno: 1, detail: MARKUP },
    {
      kind: "local-candidate",
      candidate: { foundation: "1", component: 1, transport: "udp", priority: 1, address: { name: MARKUP, port: 9 }, type: "host" },
      base: "10.0.0.1:1",
      interface: MARKUP,
      server: MARKUP,
    },
    { kind: "name-resolved", name: MARKUP, addresses: [], took_us: 1, error: MARKUP },
    { kind: "server-failed", server: MARKUP, method: MARKUP, failure: { why: "connection-failed", detail: MARKUP } },
    { kind: "pair-formed", pair, priority: 1, foundation: MARKUP, state: "failed" },
    { kind: "dtls", state: { state: "failed", detail: MARKUP } },
    { kind: "channel-closed", detail: MARKUP },
    { kind: "recording-ended", reason: "failed" },
  ];
  const lines = events.map((event, index) => `${JSON.stringify({ seq: index * 2, at: 1e15 + index, vantage: "a", ...event })}\n`);
  const data = deflateSync(lines.join("")).toString("base64");
  await say("recording", JSON.stringify({ index: 0, count: 1, data }));
  // The page may have ended by now.
  await say("bye", MARKUP).catch(() => {});
  return MARKUP;
}
