// A peer that sends markup in every field that it controls.

import { readFile } from "node:fs/promises";
import { deflateSync } from "node:zlib";

export const MARKUP = "<img src=x onerror=alert(1)><script>alert(2)</script>\"'><svg onload=alert(3)>";

// Everything goes to side B, which waits in the room of `url`; `events` is the file of the recording that it gets, as a
// trace that goes on, then, when `shown` is over, as a whole.
export async function hostile(browser, url, events, shown) {
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
  const data = deflateSync(await readFile(events)).toString("base64");
  const bomb = deflateSync(Buffer.alloc(24 * 1024 * 1024)).toString("base64");
  for (const piece of [MARKUP, "null", "[]", "{}"]) await say("trace", piece);
  for (const piece of [{ index: MARKUP, data }, { index: 7, data }, { index: 0, data: MARKUP }, { index: 0, data: bomb }]) {
    await say("trace", JSON.stringify(piece));
  }
  // From 0 on it begins anew, whatever came before.
  await say("trace", JSON.stringify({ index: 0, more: false, data }));
  await shown();
  await say("recording", JSON.stringify({ index: 0, count: 1, data }));
  // The page may have ended by now.
  await say("bye", MARKUP).catch(() => {});
}
