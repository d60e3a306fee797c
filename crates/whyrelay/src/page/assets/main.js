// The page: a room, a button, and what the session shows.

import { Session } from "./session.js";
import { randomName } from "./signaling.js";
import {
  byId, element, liveCandidates, liveFacts, livePairs, showAccount, showAccountPairs, showCandidates, showFacts,
  showPairs, showPictures, showPlot, showSoFar,
} from "./view.js";

// The room's name stands behind the #, so that it is in no server's log and in no Referer.
const fragment = new URLSearchParams(location.hash.slice(1));
const wasInvited = fragment.has("room");
const room = (fragment.get("room") || randomName()).slice(0, 128);
history.replaceState(null, "", `#room=${encodeURIComponent(room)}`);

byId("invited").hidden = !wasInvited;
byId("link").textContent = location.href;
const argument = /^[\w.-]+$/.test(room) ? room : `'${room.replaceAll("'", "'\\''")}'`;
for (const verb of ["offer", "answer"]) {
  byId(`command-${verb}`).textContent = `whyrelay ${verb} --signal ${location.origin} --room ${argument}`;
}

for (const button of document.querySelectorAll("[data-copy]")) {
  const label = button.textContent;
  button.addEventListener("click", async () => {
    const source = byId(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
    } catch {
      // Pages without TLS have no clipboard: select it, so that Ctrl-C works.
      getSelection().selectAllChildren(source);
      button.textContent = "Selected: press Ctrl-C";
    }
    setTimeout(() => (button.textContent = label), 3000);
  });
}

byId("qr").addEventListener("toggle", async () => {
  if (byId("qr-code").childElementCount > 0) return;
  try {
    const response = await fetch("/qr", { method: "POST", body: location.href });
    if (!response.ok) throw new Error(await response.text());
    const url = URL.createObjectURL(await response.blob());
    byId("qr-code").replaceChildren(element("img", { src: url, alt: "QR code of the link to this room" }));
  } catch (error) {
    byId("qr-code").textContent = `No QR code: ${error.message}`;
  }
});

let session = null;
let isDrawing = false;
// The account so far that stands there: it changes seldom, and what is drawn of it is much.
let drawn = null;

function start() {
  session?.stop();
  session = new Session({
    room,
    side: document.querySelector("input[name=side]:checked").value,
    relayOnly: byId("relay-only").checked,
    stay: byId("stay").checked,
  });
  byId("account").hidden = true;
  byId("details").hidden = true;
  byId("live").hidden = false;
  byId("finish").hidden = false;
  byId("finish").textContent = "Stop";
  document.body.dataset.phase = "running";
  showFacts([]);
  showPlot([]);
  showSoFar(null);
  showPictures(null);
  byId("finish").focus();
  session.addEventListener("change", ({ detail }) => {
    if (detail === "status") showStatus();
    else if (detail === "account") showEnd();
    else if (detail === "ended") allowStart();
    else draw();
  });
  session.start();
}

function showStatus() {
  if (session.phase === "connected" || session.phase === "finishing") {
    document.body.dataset.phase = "connected";
    byId("finish").textContent = "Finish";
  }
  const status = byId("status");
  status.textContent = session.statusText;
  status.dataset.tone = session.statusTone;
}

// At most once a frame, however many candidates come.
function draw() {
  if (isDrawing || session.account) return;
  isDrawing = true;
  requestAnimationFrame(() => {
    isDrawing = false;
    if (session.account || session.phase === "done") return;
    byId("details").hidden = session.local.length + session.remote.length === 0;
    showFacts(liveFacts(session));
    showCandidates(liveCandidates(session));
    const soFar = session.following?.shown;
    if (!soFar) showPairs(livePairs(session), "What this browser counts. What the other side saw is added later.");
    else if (soFar !== drawn) {
      drawn = soFar;
      showAccountPairs(soFar.account, "What both sides recorded, until a moment ago.");
      showSoFar(soFar.account);
      showPictures(soFar);
    }
    showPlot(session.trips);
    byId("server-errors").replaceChildren(
      ...(session.serverErrors ?? []).map(({ server, text }) => element("li", {}, `${server}: ${text}`)),
    );
  });
}

function showEnd() {
  byId("finish").hidden = true;
  if (!session.account) {
    allowStart();
    return;
  }
  document.body.dataset.phase = "done";
  showSoFar(null);
  showAccount(session.account);
  showPictures(session.shown);
  // Their addresses are not pseudonyms.
  if (session.peerRedacts) byId("server-errors").replaceChildren();
  byId("details").hidden = false;
  byId("account").hidden = false;
  byId("account").focus();
  showFacts(liveFacts(session));
  showPlot(session.trips);
}

function allowStart() {
  document.body.dataset.phase = "ready";
  byId("finish").hidden = true;
  byId("live").hidden = session.trips.length === 0;
  byId("start").textContent = "Connect again";
  byId("start").focus();
}

function save(blob, name) {
  const url = URL.createObjectURL(blob);
  const link = element("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

byId("start").addEventListener("click", start);
byId("again").addEventListener("click", start);
byId("finish").addEventListener("click", () => {
  if (session.remoteDescribed) session.finish(session.phase === "connected" ? "finished" : "interrupted");
  else session.fail("Stopped before the other side came.");
});
byId("save-recording").addEventListener("click", () => {
  save(new Blob([session.recording], { type: "application/jsonl" }), "whyrelay.jsonl");
});
byId("save-report").addEventListener("click", async () => {
  try {
    const response = await fetch("/account?format=html", { method: "POST", body: session.recording });
    if (!response.ok) throw new Error((await response.text()).trim());
    save(await response.blob(), "whyrelay.html");
  } catch (error) {
    session.status(`The report could not be made: ${error.message}`, "bad");
  }
});
addEventListener("pagehide", () => session?.stop());
