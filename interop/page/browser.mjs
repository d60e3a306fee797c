// Chromium for the tests of the page, and what every test wants to know of it.

import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";

const from = createRequire(`${process.env.WHYRELAY_INTEROP_NODE_DIR ?? import.meta.dirname}/`);
const { chromium } = from("playwright-core");

// What keeps people out of a page, as axe finds it; its policy forbids foreign scripts, so the debugger brings axe in.
export async function barriers(page) {
  await page.evaluate(await readFile(from.resolve("axe-core/axe.min.js"), "utf8"));
  const { violations } = await page.evaluate(() => globalThis.axe.run(document));
  return violations
    .filter(({ impact }) => impact === "serious" || impact === "critical")
    .map(({ id, nodes }) => `${id} ${nodes.map(({ html }) => html).join(" ")}`);
}

export function launch(more = []) {
  return chromium.launch({
    executablePath: process.env.WHYRELAY_INTEROP_CHROMIUM ?? "/usr/bin/chromium",
    headless: true,
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      ...more,
    ],
  });
}

// A page of the server. What it must never do is collected: errors, violations of its policy, requests elsewhere.
export async function open(browser, url, options = {}) {
  const context = await browser.newContext({ acceptDownloads: true, ...options });
  const page = await context.newPage();
  const faults = [];
  const origin = new URL(url).origin;
  page.on("pageerror", (error) => faults.push(`error: ${error}`));
  page.on("console", (message) => {
    const text = message.text();
    if (message.type() === "error") faults.push(`console: ${text}`);
    console.error(`[page] ${text}`);
  });
  page.on("request", (request) => {
    const to = new URL(request.url());
    if (to.protocol !== "blob:" && to.origin !== origin && to.host !== new URL(url).host) {
      faults.push(`request to ${request.url()}`);
    }
  });
  await page.addInitScript(() => {
    globalThis.violations = [];
    document.addEventListener("securitypolicyviolation", (event) => {
      globalThis.violations.push(`${event.violatedDirective} ${event.blockedURI}`);
    });
  });
  await page.goto(url);
  return { page, faults };
}

export async function outcome({ page, faults }, timeout) {
  await page.waitForSelector("#account:not([hidden])", { timeout });
  return {
    verdict: await page.textContent("#verdict"),
    path: await page.getAttribute("#verdict", "data-path"),
    reason: await page.textContent("#reason"),
    findings: await page.$$eval("#findings .finding p", (all) => all.map((one) => one.textContent)),
    pairs: await page.$$eval("#pairs tbody tr", (all) => all.map((row) => [...row.cells].map((cell) => cell.textContent))),
    candidates: await page.$$eval("#candidates tbody tr", (all) =>
      all.map((row) => [...row.cells].map((cell) => cell.textContent))),
    missing: await page.$$eval("#missing li", (all) => all.map((one) => one.textContent)),
    faults: [...faults, ...(await page.evaluate(() => globalThis.violations))],
  };
}
