// A headless Firefox as Debian ships it, which nothing drives: it is given a page that starts by itself, and the page
// tells the script that serves it what happens.

import { spawn } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

// Nothing but the page is to be asked for, and no first-run page comes before it.
const PREFERENCES = {
  "app.normandy.enabled": false,
  "app.update.enabled": false,
  "browser.aboutwelcome.enabled": false,
  "browser.newtabpage.enabled": false,
  "browser.safebrowsing.downloads.enabled": false,
  "browser.safebrowsing.malware.enabled": false,
  "browser.safebrowsing.phishing.enabled": false,
  "browser.shell.checkDefaultBrowser": false,
  "browser.startup.page": 0,
  "datareporting.policy.dataSubmissionEnabled": false,
  "extensions.update.enabled": false,
  "network.captive-portal-service.enabled": false,
  "network.connectivity-service.enabled": false,
  "network.dns.disablePrefetch": true,
  "services.settings.server": "",
  "toolkit.telemetry.enabled": false,
};

// Opens `url` in a fresh profile; answers where that is and how to end it.
export async function start(url, preferences = {}, more = []) {
  const profile = await mkdtemp(join(tmpdir(), "whyrelay-firefox-"));
  const lines = Object.entries({ ...PREFERENCES, ...preferences }).map(
    ([name, value]) => `user_pref(${JSON.stringify(name)}, ${JSON.stringify(value)});`,
  );
  await writeFile(join(profile, "user.js"), lines.join("\n"));
  const program = process.env.WHYRELAY_INTEROP_FIREFOX ?? "/usr/bin/firefox-esr";
  const child = spawn(program, ["--headless", "--no-remote", "--profile", profile, ...more, url], {
    // A user's own settings are not to be touched, and its helpers are to end with it.
    env: { ...process.env, HOME: profile, XDG_RUNTIME_DIR: profile, MOZ_CRASHREPORTER_DISABLE: "1" },
    stdio: ["ignore", "ignore", "ignore"],
    detached: true,
  });
  const ended = new Promise((resolve) => child.on("exit", resolve));
  child.on("error", (error) => console.error(`firefox: ${error.message}`));
  return {
    profile,
    ended,
    async close() {
      try {
        process.kill(-child.pid, "SIGKILL");
      } catch {
        // It has ended.
      }
      await ended;
      await rm(profile, { recursive: true, force: true, maxRetries: 5 });
    },
  };
}
