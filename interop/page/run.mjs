// Uses the page of `whyrelay serve` as a person would, in a headless Chromium, and prints what came of it as a line of
// JSON.
//
//   run.mjs peer --url URL [--side a|b] [--relay-only] [--shot DIRECTORY]
//   run.mjs follow --url URL          stays until the other side's trace is seen live, then finishes, or waits for the
//                                     other side to die (--until-gone)
//   run.mjs pair --url URL            two pages in one room, one of them with a certificate that was not announced
//                                     (--wrong-fingerprint)
//   run.mjs keyboard --url URL        without a pointer, and with axe looking for what keeps people out
//   run.mjs report --url URL          a saved report: how it opens, and on a phone
//   run.mjs read --url URL            a saved report: what keeps people out of it, and on paper
//   run.mjs hostile --url URL --events FILE
//                                     against a peer that sends markup in every field it controls, and this recording
//
// Environment: WHYRELAY_INTEROP_NODE_DIR (a directory with node_modules), WHYRELAY_INTEROP_CHROMIUM.

import { parseArgs } from "node:util";

import { barriers, launch, open, outcome } from "./browser.mjs";
import { hostile, MARKUP } from "./hostile.mjs";

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    url: { type: "string" },
    side: { type: "string", default: "auto" },
    "relay-only": { type: "boolean", default: false },
    shot: { type: "string" },
    events: { type: "string" },
    recording: { type: "boolean", default: false },
    "until-gone": { type: "boolean", default: false },
    "wrong-fingerprint": { type: "boolean", default: false },
    timeout: { type: "string", default: "45" },
  },
});
const timeout = Number(flags.timeout) * 1000;
const scenarios = { peer, follow, pair, live, keyboard, report: openReport, read, hostile: against };
const scenario = scenarios[positionals[0]];
if (!scenario || !flags.url) {
  console.error("usage: run.mjs peer|follow|pair|live|keyboard|report|read|hostile --url URL");
  process.exit(2);
}
// Whatever hangs, this process ends.
setTimeout(() => {
  console.log(JSON.stringify({ ok: false, error: "the browser hangs" }));
  process.exit(1);
}, timeout + 20_000).unref();

async function start({ page }, side = flags.side, stays = false) {
  await page.click("#setup summary");
  await page.check(`input[name=side][value=${side}]`);
  if (stays) await page.check("#stay");
  if (flags["relay-only"]) await page.check("#relay-only");
  await page.click("#start");
}

async function shoot(opened, name) {
  if (flags.shot) await opened.page.screenshot({ path: `${flags.shot}/${name}.png`, fullPage: true });
}

async function peer(browser) {
  const opened = await open(browser, flags.url);
  await shoot(opened, "start");
  await start(opened);
  const result = await outcome(opened, timeout);
  await shoot(opened, "end");
  const report = await saved(opened, "#save-report");
  const body = await opened.page.textContent("body");
  const recording = flags.recording ? await saved(opened, "#save-recording") : "";
  return { ...result, reportBytes: report.length, reportIsHtml: report.startsWith("<!"), ...(flags.recording ? { report, recording, body } : {}) };
}

// What both sides saw stands there while the session lasts.
async function follow(browser) {
  const opened = await open(browser, flags.url);
  await start(opened, flags.side, true);
  const { page } = opened;
  await page.waitForFunction(() => !document.querySelector("#so-far").hidden
    && document.querySelector("#pairs-note").textContent.startsWith("What both sides recorded")
    && !document.querySelector("#pairs tbody tr.selected").textContent.includes("?"), undefined, { timeout })
    .catch(async (error) => {
      throw new Error(`${error.message}; the page says: ${await page.innerText("body")}`);
    });
  const seen = await page.evaluate(() => ({
    finished: !document.querySelector("#account").hidden,
    soFar: document.querySelector("#so-far").textContent,
    findings: [...document.querySelectorAll("#so-far-findings .finding p")].map((one) => one.textContent),
    fixes: document.querySelectorAll("#so-far-findings .finding li").length,
    pairs: [...document.querySelectorAll("#pairs tbody tr")].map((row) => [...row.cells].map((cell) => cell.textContent)),
  }));
  await shoot(opened, "follow");
  console.error("FOLLOWED");
  if (flags["until-gone"]) {
    await page.waitForFunction(() => /silent|broke/.test(document.querySelector("#status").textContent), undefined, { timeout });
  }
  await page.click("#finish");
  const result = await outcome(opened, timeout);
  await shoot(opened, "followed");
  return { ...result, seen };
}

// What a button saves.
async function saved({ page }, button) {
  const [download] = await Promise.all([page.waitForEvent("download"), page.click(button)]);
  let text = "";
  for await (const piece of await download.createReadStream()) text += piece;
  return text;
}

async function pair(browser) {
  const first = await open(browser, flags.url);
  await start(first);
  await first.page.waitForFunction(() => document.querySelector("#status").textContent.startsWith("Waiting"));
  await shoot(first, "waiting");
  const second = await open(browser, await first.page.textContent("#link"));
  if (flags["wrong-fingerprint"]) await second.page.evaluate(hearWrongFingerprint);
  await start(second);
  const [b, a] = await Promise.all([outcome(first, timeout), outcome(second, timeout)]);
  await shoot(first, "pair");
  return { a, b };
}

// As if somebody in between had exchanged the other side's certificate.
function hearWrongFingerprint() {
  const take = RTCPeerConnection.prototype.setRemoteDescription;
  RTCPeerConnection.prototype.setRemoteDescription = function ({ type, sdp }) {
    const other = (_, before, byte) => before + (byte === "00" ? "11" : "00");
    return take.call(this, { type, sdp: sdp.replace(/(a=fingerprint:\S+ )(\S\S)/, other) });
  };
}

// Two pages that stay connected until one of them is told to finish: what they show meanwhile.
async function live(browser) {
  const looks = [{ viewport: { width: 1280, height: 900 } }, { viewport: { width: 390, height: 800 }, colorScheme: "dark" }];
  const first = await open(browser, flags.url, looks[0]);
  await stay(first);
  await first.page.waitForFunction(() => document.querySelector("#status").textContent.startsWith("Waiting"));
  const second = await open(browser, await first.page.textContent("#link"), looks[1]);
  await stay(second);
  const both = [first, second];
  const seen = await Promise.all(both.map(watch));
  for (const [index, opened] of both.entries()) await shoot(opened, `live-${index}`);
  await first.page.click("#finish");
  const ended = await Promise.all(both.map((opened) => outcome(opened, timeout)));
  for (const [index, opened] of both.entries()) await shoot(opened, `account-${index}`);
  return { seen, ended };
}

async function stay({ page }) {
  await page.click("#setup summary");
  await page.check("#stay");
  await page.click("#start");
}

// What a page shows of a session that goes on, and that its plot moves.
async function watch({ page }) {
  const look = () =>
    page.evaluate(() => ({
      finished: !document.querySelector("#account").hidden,
      selected: document.querySelectorAll("#pairs tbody tr.selected").length,
      pairs: document.querySelectorAll("#pairs tbody tr").length,
      candidates: [...document.querySelectorAll("#candidates tbody tr")].map((row) => row.cells[0].textContent),
      facts: document.querySelector("#facts").textContent,
      caption: document.querySelector("#plot-caption").textContent,
      points: (document.querySelector("#plot polyline")?.getAttribute("points") ?? "").split(" ").filter(Boolean).length,
      wide: document.documentElement.scrollWidth > document.documentElement.clientWidth,
    }));
  await page.waitForFunction(() => document.querySelectorAll("#plot polyline").length > 0
    && document.querySelectorAll("#pairs tbody tr.selected").length > 0, undefined, { timeout });
  const before = await look();
  await page.waitForFunction(
    (points) => (document.querySelector("#plot polyline")?.getAttribute("points") ?? "").split(" ").length > points + 1,
    before.points,
    { timeout },
  );
  return { before, after: await look() };
}

async function keyboard(browser) {
  const first = await open(browser, flags.url);
  const faults = [];
  const look = async (when) => {
    faults.push(...(await barriers(first.page)).map((barrier) => `${when}: ${barrier}`));
  };
  const press = async (id) => {
    for (let tabs = 0; tabs < 40; tabs += 1) {
      if (await first.page.evaluate((wanted) => document.activeElement?.id === wanted, id)) {
        await first.page.keyboard.press("Enter");
        return;
      }
      await first.page.keyboard.press("Tab");
    }
    throw new Error(`#${id} cannot be reached with the keyboard`);
  };
  await look("start");
  await press("start");
  const second = await open(browser, await first.page.textContent("#link"));
  await start(second);
  const result = await outcome(first, timeout);
  await look("end");
  const [download] = await Promise.all([first.page.waitForEvent("download"), press("save-recording")]);
  return { ...result, faults: [...result.faults, ...faults], saved: download.suggestedFilename() };
}

// When something was to be seen, in ms from the navigation; the browser notes it once the frame is out.
function firstPaint(page) {
  return page.evaluate(() => new Promise((seen, never) => {
    new PerformanceObserver((list) => {
      const entry = list.getEntriesByName("first-contentful-paint")[0];
      if (entry) seen(entry.startTime);
    }).observe({ type: "paint", buffered: true });
    setTimeout(() => never(new Error("no first paint in 5 s")), 5000);
  }));
}

async function openReport(browser) {
  const sizes = {};
  for (const [name, options] of Object.entries({
    desktop: { viewport: { width: 1280, height: 900 } },
    phone: { viewport: { width: 390, height: 800 }, colorScheme: "dark" },
  })) {
    const opened = await open(browser, flags.url, options);
    const { page } = opened;
    const timing = await page.evaluate(() => {
      const [{ domContentLoadedEventEnd, loadEventEnd }] = performance.getEntriesByType("navigation");
      return { parsedMs: domContentLoadedEventEnd, loadedMs: loadEventEnd };
    });
    timing.paintedMs = await firstPaint(page);
    await shoot(opened, `report-${name}`);
    // As a reader would: open what is folded, and follow a link to evidence.
    const began = performance.now();
    for (const summary of await page.$$("main > details.more > summary, main > .pairs > details:nth-child(-n+3) > summary")) {
      await summary.click();
    }
    const unfoldedMs = performance.now() - began;
    const state = await page.evaluate(() => ({
      nodes: document.querySelectorAll("*").length,
      open: document.querySelectorAll("details[open]").length,
      wide: document.documentElement.scrollWidth > document.documentElement.clientWidth,
    }));
    sizes[name] = { ...timing, unfoldedMs, ...state, faults: opened.faults };
  }
  return sizes;
}

// A report that somebody reads whole: in the light, in the dark, with everything unfolded, and on paper.
async function read(browser) {
  const found = {};
  for (const colorScheme of ["light", "dark"]) {
    const opened = await open(browser, flags.url, { colorScheme, javaScriptEnabled: true });
    const { page } = opened;
    const folded = await barriers(page);
    await page.$$eval("details", (all) => all.forEach((one) => (one.open = true)));
    const unfolded = await barriers(page);
    await shoot(opened, `read-${colorScheme}`);
    found[colorScheme] = [...opened.faults, ...folded, ...unfolded];
  }
  const { page } = await open(browser, flags.url);
  const paper = await page.pdf({ format: "A4", ...(flags.shot ? { path: `${flags.shot}/report.pdf` } : {}) });
  return { ...found, paper: paper.subarray(0, 5).toString(), paperBytes: paper.length };
}

async function against(browser) {
  // Whoever sends a link names the room.
  const url = `${new URL(flags.url).origin}/#room=${encodeURIComponent(MARKUP)}`;
  const opened = await open(browser, url);
  await start(opened, "b");
  await opened.page.waitForFunction(() => document.querySelector("#status").textContent.startsWith("Waiting"));
  const foreign = () => opened.page.$$eval("img, script, iframe, svg:not(#plot svg, #pictures svg)", (all) => all.length);
  // What a drawing is made of, and nothing else.
  const parts = () => opened.page.$$eval("#pictures svg *", (all) => [...new Set(all.map(({ localName }) => localName))]);
  const before = await foreign();
  let live;
  await hostile(browser, url, flags.events, async () => {
    await opened.page.waitForSelector("#pictures:not([hidden]) svg", { state: "attached", timeout });
    live = { foreign: await foreign(), parts: await parts(), shownAsText: (await opened.page.textContent("body")).includes(MARKUP) };
    await shoot(opened, "hostile-live");
  });
  const result = await outcome(opened, timeout);
  await shoot(opened, "hostile");
  const after = await foreign();
  const drawn = [...live.parts, ...(await parts())];
  const report = await saved(opened, "#save-report");
  const shown = await opened.page.textContent("body");
  return { ...result, before, after, planted: MARKUP, live, drawn, shownAsText: shown.includes(MARKUP), report };
}

const browser = await launch();
let result;
try {
  result = { ok: true, ...(await scenario(browser)) };
} catch (error) {
  result = { ok: false, error: String(error.stack ?? error) };
}
console.log(JSON.stringify(result));
await browser.close();
process.exitCode = result.ok ? 0 : 1;
