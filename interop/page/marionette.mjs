// As much of Marionette, Firefox's own remote protocol, as it takes to use a page: it needs no driver beside Firefox.
//
// Messages are JSON with their length in front (`12:[0,1,"X",{}]`): [0, id, command, parameters] there, [1, id, error,
// result] back.

import { readFile } from "node:fs/promises";
import { createConnection } from "node:net";
import { join } from "node:path";

import { start } from "../browser/firefox.mjs";

// A headless Firefox on an empty page, with a session.
export async function launch(preferences = {}) {
  const firefox = await start("about:blank", { "marionette.port": 0, ...preferences }, ["--marionette"]);
  try {
    const browser = new Marionette(await connected(firefox.profile), () => firefox.close());
    await browser.ask("WebDriver:NewSession", { capabilities: {} });
    return browser;
  } catch (error) {
    await firefox.close();
    throw error;
  }
}

// Firefox writes the port that it chose into its profile.
async function connected(profile) {
  for (const until = Date.now() + 60_000; Date.now() < until; await new Promise((resolve) => setTimeout(resolve, 50))) {
    const port = Number(await readFile(join(profile, "MarionetteActivePort"), "utf8").catch(() => ""));
    if (!port) continue;
    const socket = createConnection({ host: "127.0.0.1", port });
    const result = await new Promise((resolve) => {
      socket.once("connect", () => resolve(socket));
      socket.once("error", () => resolve(null));
    });
    if (result) return result;
  }
  throw new Error("Firefox does not answer");
}

class Marionette {
  #socket;
  #close;
  #received = Buffer.alloc(0);
  #waiting = new Map();
  #last = 0;

  constructor(socket, close) {
    this.#socket = socket;
    this.#close = close;
    socket.on("data", (bytes) => this.#take(bytes));
    socket.on("close", () => {
      for (const { reject } of this.#waiting.values()) reject(new Error("Firefox has gone"));
    });
    socket.on("error", () => {});
  }

  #take(bytes) {
    this.#received = Buffer.concat([this.#received, bytes]);
    for (;;) {
      const colon = this.#received.indexOf(":");
      if (colon < 0) return;
      const end = colon + 1 + Number(this.#received.subarray(0, colon).toString());
      if (this.#received.length < end) return;
      const message = JSON.parse(this.#received.subarray(colon + 1, end).toString());
      this.#received = this.#received.subarray(end);
      // The first message only greets.
      if (!Array.isArray(message)) continue;
      const [, id, error, result] = message;
      const waiting = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (error) waiting?.reject(new Error(`${error.error}: ${error.message}`));
      else waiting?.resolve(result);
    }
  }

  ask(command, parameters = {}) {
    const id = ++this.#last;
    const json = JSON.stringify([0, id, command, parameters]);
    this.#socket.write(`${Buffer.byteLength(json)}:${json}`);
    return new Promise((resolve, reject) => this.#waiting.set(id, { resolve, reject }));
  }

  // What a function answers in the page; it must say everything in itself.
  async evaluate(inside, ...given) {
    const script = `return (${inside})(...arguments);`;
    return (await this.ask("WebDriver:ExecuteScript", { script, args: given, sandbox: null })).value;
  }

  goTo(url) {
    return this.ask("WebDriver:Navigate", { url });
  }

  async screenshot() {
    return Buffer.from((await this.ask("WebDriver:TakeScreenshot", { full: true })).value, "base64");
  }

  async close() {
    this.#socket.destroy();
    await this.#close();
  }
}
