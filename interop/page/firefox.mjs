// Uses the page of `whyrelay serve` in a headless Firefox and prints what came of it as a line of JSON, as run.mjs does
// in Chromium.
//
//   firefox.mjs --url URL [--side a|b] [--relay-only] [--shot DIRECTORY] [--dark] [--width PIXELS]
//
// Environment: WHYRELAY_INTEROP_FIREFOX.

import { writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";

import { launch } from "./marionette.mjs";

const { values: flags } = parseArgs({
  options: {
    url: { type: "string" },
    side: { type: "string", default: "auto" },
    "relay-only": { type: "boolean", default: false },
    shot: { type: "string" },
    dark: { type: "boolean", default: false },
    width: { type: "string" },
    timeout: { type: "string", default: "45" },
  },
});
if (!flags.url) {
  console.error("usage: firefox.mjs --url URL [--side a|b]");
  process.exit(2);
}
const timeout = Number(flags.timeout) * 1000;
// Whatever hangs, this process ends.
setTimeout(() => {
  console.log(JSON.stringify({ ok: false, error: "Firefox hangs" }));
  process.exit(1);
}, timeout + 60_000).unref();

// Once the page is there; what its policy forbids and what goes wrong is collected.
function begin(side, relayOnly) {
  window.faults = [];
  addEventListener("error", ({ message }) => window.faults.push(`error: ${message}`));
  addEventListener("unhandledrejection", ({ reason }) => window.faults.push(`rejection: ${reason}`));
  document.addEventListener("securitypolicyviolation", ({ violatedDirective, blockedURI }) =>
    window.faults.push(`${violatedDirective} ${blockedURI}`));
  document.querySelector(`input[name=side][value=${side}]`).checked = true;
  document.querySelector("#relay-only").checked = relayOnly;
  document.querySelector("#start").click();
}

function outcome() {
  const all = (selector, what) => [...document.querySelectorAll(selector)].map(what);
  const text = (node) => node.textContent;
  if (document.querySelector("#account").hidden) return null;
  return {
    verdict: text(document.querySelector("#verdict")),
    path: document.querySelector("#verdict").dataset.path,
    reason: text(document.querySelector("#reason")),
    findings: all("#findings .finding p", text),
    pairs: all("#pairs tbody tr", (row) => [...row.cells].map(text)),
    candidates: all("#candidates tbody tr", (row) => [...row.cells].map(text)),
    missing: all("#missing li", text),
    facts: all("#facts dt, #facts dd", text),
    plot: document.querySelector("#plot-caption").textContent,
    faults: window.faults,
    width: innerWidth,
    wide: document.documentElement.scrollWidth > document.documentElement.clientWidth,
  };
}

async function use(browser) {
  if (flags.width) await browser.ask("WebDriver:SetWindowRect", { width: Number(flags.width), height: 900 });
  await browser.goTo(flags.url);
  const shoot = async (name) => flags.shot && writeFile(`${flags.shot}/firefox-${name}.png`, await browser.screenshot());
  await shoot("start");
  await browser.evaluate(begin, flags.side, flags["relay-only"]);
  for (const until = Date.now() + timeout; Date.now() < until; await new Promise((resolve) => setTimeout(resolve, 100))) {
    const result = await browser.evaluate(outcome);
    if (!result) continue;
    await shoot("end");
    return { ok: true, ...result };
  }
  await shoot("hung");
  return { ok: false, error: await browser.evaluate(() => document.querySelector("#status").textContent) };
}

let result;
let browser;
try {
  browser = await launch(flags.dark ? { "layout.css.prefers-color-scheme.content-override": 0 } : {});
  result = await use(browser);
} catch (error) {
  result = { ok: false, error: String(error.stack ?? error) };
}
console.log(JSON.stringify(result));
await browser?.close();
process.exitCode = result.ok ? 0 : 1;
