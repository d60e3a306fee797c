// Runs peer.mjs in a headless Chromium or Firefox and prints its result as a line of JSON.
//
// The page, /send and /receive have one origin: this script serves the page and
// passes the rest on to the signaling server.
//
// Environment: WHYRELAY_INTEROP_NODE_DIR (a directory with node_modules),
// WHYRELAY_INTEROP_CHROMIUM, WHYRELAY_INTEROP_FIREFOX, TURN_PASSWORD.

import { readFile } from "node:fs/promises";
import { createServer, request } from "node:http";
import { parseArgs } from "node:util";

import { start } from "./firefox.mjs";

const started = performance.now();
const log = (text) => console.error(`${((performance.now() - started) / 1000).toFixed(3).padStart(8)} ${text}`);

const { values: flags } = parseArgs({
  options: {
    browser: { type: "string", default: "chromium" },
    role: { type: "string" },
    signal: { type: "string" },
    id: { type: "string" },
    peer: { type: "string" },
    stun: { type: "string" },
    turn: { type: "string" },
    "turn-user": { type: "string", default: "" },
    "relay-only": { type: "boolean", default: false },
    "any-certificate": { type: "boolean", default: false },
    blind: { type: "boolean", default: false },
    echo: { type: "boolean", default: false },
    timeout: { type: "string", default: "30" },
    hold: { type: "string", default: "0" },
  },
});
if (!["offerer", "answerer"].includes(flags.role) || !flags.signal) {
  console.error("usage: run.mjs --role offerer|answerer --signal URL [--stun URL] [--turn URL --turn-user NAME]");
  process.exit(2);
}

const files = { "/": ["peer.html", "text/html"], "/peer.mjs": ["peer.mjs", "text/javascript"] };

// `tell` gets what a page says that nothing drives.
function serve(signal, tell) {
  const server = createServer(async (incoming, outgoing) => {
    const path = new URL(incoming.url, "http://page").pathname;
    if (files[path]) {
      const [name, type] = files[path];
      outgoing.setHeader("content-type", type);
      outgoing.end(await readFile(new URL(name, import.meta.url)));
    } else if (path === "/log" || path === "/result") {
      let body = "";
      for await (const chunk of incoming) body += chunk;
      outgoing.end();
      tell(path, body);
    } else if (path === "/send" || path === "/receive") {
      const onward = request(signal + incoming.url, { method: incoming.method }, (response) => {
        outgoing.writeHead(response.statusCode, { "content-type": "application/json" });
        outgoing.flushHeaders();
        response.pipe(outgoing);
      });
      onward.on("error", (error) => {
        log(`signaling server: ${error.message}`);
        if (outgoing.headersSent) outgoing.destroy();
        else outgoing.writeHead(502).end(error.message);
      });
      outgoing.on("close", () => onward.destroy());
      incoming.pipe(onward);
    } else {
      outgoing.writeHead(404).end();
    }
  });
  return new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(server)));
}

const timeoutMs = Number(flags.timeout) * 1000;
const holdMs = Number(flags.hold) * 1000;
// Whatever hangs (a browser that does not start, a page that does not load), this process ends.
setTimeout(() => {
  console.log(JSON.stringify({ ok: false, state: "new", selected: null, received: "", error: "the browser hangs" }));
  process.exit(1);
}, timeoutMs + holdMs + 20_000).unref();

let resultTold;
const undriven = new Promise((resolve) => (resultTold = resolve));
const server = await serve(flags.signal.replace(/\/$/, ""), (path, body) => {
  if (path === "/log") log(body);
  else resultTold(JSON.parse(body));
});
const url = `http://127.0.0.1:${server.address().port}/`;
const iceServers = [];
if (flags.stun) iceServers.push({ urls: flags.stun.split(",") });
if (flags.turn) {
  const credential = process.env.TURN_PASSWORD ?? "";
  iceServers.push({ urls: flags.turn.split(","), username: flags["turn-user"], credential });
}
const offerer = flags.role === "offerer";
const options = {
  role: flags.role,
  id: flags.id ?? (offerer ? "offer-peer-1" : "answer-peer-1"),
  peer: flags.peer ?? (offerer ? "answer-peer-1" : "offer-peer-1"),
  iceServers,
  relayOnly: flags["relay-only"],
  blind: flags.blind,
  echo: flags.echo,
  timeoutMs,
  holdMs,
};

async function runInChromium() {
  const { launch } = await import("../page/browser.mjs");
  const browser = await launch(flags["any-certificate"] ? ["--ignore-certificate-errors"] : []);
  try {
    const page = await browser.newPage();
    page.on("console", (message) => log(message.text()));
    page.on("pageerror", (error) => log(`page: ${error}`));
    await page.goto(url);
    await page.waitForFunction(() => globalThis.runPeer);
    return await page.evaluate((options) => globalThis.runPeer(options), options);
  } finally {
    await browser.close();
  }
}

async function runInFirefox() {
  const firefox = await start(`${url}#${encodeURIComponent(JSON.stringify(options))}`);
  try {
    const ended = firefox.ended.then((status) => Promise.reject(new Error(`firefox ended: ${status}`)));
    return await Promise.race([undriven, ended]);
  } finally {
    await firefox.close();
  }
}

let result = { ok: false, state: "new", selected: null, received: "" };
try {
  result = await (flags.browser === "firefox" ? runInFirefox() : runInChromium());
} catch (error) {
  result.error = String(error);
}
console.log(JSON.stringify(result));
server.closeAllConnections();
server.close();
process.exitCode = result.ok ? 0 : 1;
