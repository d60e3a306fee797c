// Drawing. Everything that comes from the other side enters as text, never as markup.

export const byId = (id) => document.getElementById(id);

export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "data") for (const [field, text] of Object.entries(value)) made.dataset[field] = text;
    else made[key] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const cell = (text, className = "", label = "") => element("td", { className, data: { label } }, text);

export function showCandidates(rows) {
  byId("candidates").tBodies[0].replaceChildren(
    ...rows.map(({ side, type, address, transport, server }) =>
      element("tr", {}, cell(side), cell(type), cell(address, "mono"), cell(transport), cell(server, "mono"))),
  );
}

export function showPairs(rows, note) {
  byId("pairs").tBodies[0].replaceChildren(
    ...rows.map((row) =>
      element(
        "tr",
        { className: row.selected ? "selected" : "" },
        cell(row.a, "mono", "A"),
        cell(row.b, "mono", "B"),
        cell(row.state, "", "state"),
        chainCell(row.aToB, "A to B"),
        chainCell(row.bToA, "B to A"),
      )),
  );
  byId("pairs-note").textContent = note;
}

function chainCell(chain, label) {
  const { text, broken } = chain ?? {};
  return element("td", { data: { label } }, text ?? "", broken ? element("span", { className: "broken" }, broken) : null);
}

export function showFacts(facts) {
  byId("facts").replaceChildren(
    ...facts.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]),
  );
}

// ---- what a session knows while it runs --------------------------------------------------------------------------

export function liveCandidates(session) {
  const own = session.side.toUpperCase();
  const other = own === "A" ? "B" : "A";
  const row = (side) => ({ type, address, transport, server }) => ({
    side,
    type,
    address: typeof address === "string" ? address : `${address.name}:${address.port}`,
    transport,
    server: server ?? "",
  });
  return [...session.local.map(row(own)), ...session.remote.map(row(other))].toSorted((x, y) => x.side.localeCompare(y.side));
}

export function livePairs(session) {
  const isA = session.side === "a";
  const { rows, selected } = session.pairs;
  return [...rows.values()]
    .toSorted((x, y) => Number(y === selected) - Number(x === selected))
    .map((row) => {
      const local = `${row.localType} ${shown(row.pair.local)}`;
      const remote = `${row.remoteType} ${shown(row.pair.remote)}`;
      const { counts } = row;
      const out = { text: `sent ${known(counts.requests_sent)} > answer seen ${known(counts.responses_received)}` };
      const into = { text: `seen ${known(counts.requests_received)} > answered ${known(counts.responses_sent)}` };
      return {
        a: isA ? local : remote,
        b: isA ? remote : local,
        state: [row === selected ? "selected" : null, counts.state].filter(Boolean).join(", "),
        selected: row === selected,
        aToB: isA ? out : into,
        bToA: isA ? into : out,
      };
    });
}

const known = (number) => (number === undefined || number === null ? "?" : String(number));

// An address that the browser hides is recorded as the unspecified one.
const shown = (address) => String(address).replace(/^(0\.0\.0\.0|\[::\]):/, "hidden:");

export function liveFacts(session) {
  const facts = [["This side", session.side === "a" ? "A, the offerer" : "B, the answerer"]];
  if (session.peerProgram) facts.push(["Other side", session.peerProgram]);
  if (session.iceState) facts.push(["ICE", session.iceState]);
  const selected = session.pairs?.selected;
  if (selected && !(session.peerRedacts && session.account)) {
    const { pair, localType, remoteType } = selected;
    const relayed = localType === "relay" || remoteType === "relay";
    facts.push(["Path", `${relayed ? "relayed" : "direct"}: ${localType} ${shown(pair.local)} to ${remoteType} ${shown(pair.remote)}`]);
  }
  const last = session.trips.at(-1);
  if (last !== undefined) facts.push(["Round trip", `${last.toFixed(1)} ms`]);
  return facts;
}

// What both sides' records come to so far. A verdict stands there only once there is one.
export function showSoFar(account) {
  const { decided, heading, note, reason, findings } = account ?? {};
  byId("so-far").hidden = !decided;
  byId("so-far-findings").replaceChildren(...(decided ? (findings ?? []).map(finding) : []));
  if (!decided) return;
  const verdict = element("strong", {}, `So far: ${[heading, note].filter(Boolean).join(" ")}. `);
  byId("so-far").replaceChildren(verdict, reason ?? "");
}

// ---- the account --------------------------------------------------------------------------------------------------

export function showAccount(account) {
  const verdict = byId("verdict");
  verdict.textContent = account.heading;
  // Over TCP alone is not what was wanted either.
  verdict.dataset.path = account.over_tcp ? "relayed" : account.path;
  if (account.note) verdict.append(element("small", {}, ` ${account.note}`));
  byId("reason").textContent = account.reason ?? "";
  byId("findings").replaceChildren(...(account.findings ?? []).map(finding));
  showCandidates((account.candidates ?? []).map((row) => ({
    side: String(row.side ?? row.vantage ?? "").toUpperCase(),
    type: row.type ?? row.kind ?? "",
    address: addressText(row.address),
    transport: row.transport ?? "",
    server: row.server ?? "",
  })));
  showAccountPairs(account, "");
  const missing = account.not_measured ?? [];
  byId("not-measured").hidden = missing.length === 0;
  byId("missing").replaceChildren(...missing.map(({ what, why }) => element("li", {}, `${what}: ${why}`)));
}

export function showAccountPairs(account, note) {
  const pairs = (account.pairs ?? []).filter((pair) => pair.checked || pair.selected);
  const hidden = (account.pairs ?? []).length - pairs.length + (account.pairs_left_out ?? 0);
  showPairs(pairs.map(accountPair), [note, hidden > 0 ? `${hidden} more not checked.` : ""].filter(Boolean).join(" "));
}

// The pictures of the report file. Their texts are text there already; what else stands in them the server drew.
export function showPictures(shown) {
  for (const name of ["networks", "timeline"]) {
    const pictures = (shown?.[name] ?? []).map((text) => new DOMParser().parseFromString(text, "image/svg+xml").documentElement);
    byId(name).replaceChildren(...pictures.filter(({ localName }) => localName === "svg"));
  }
  const clock = shown?.account.clock;
  byId("clock").textContent = clock?.summary ?? "Only one side was recorded: all times are on its clock.";
  byId("pictures").hidden = byId("networks").childElementCount === 0;
}

const BLAME = { a: "on side A", b: "on side B", both: "on both sides", relay: "at the relay", signaling: "in signaling", path: "on the way" };

function finding({ code, name, blame, severity, summary, advice }) {
  return element(
    "article",
    { className: "finding", data: { severity: String(severity) } },
    element("h3", {}, `${summary}.`.replace(/\.\.$/, ".")),
    element("p", { className: "faint" }, `${severity} ${code} ${name}, ${BLAME[blame] ?? blame}`),
    element("ul", {}, ...(advice ?? []).map((text) => element("li", {}, text))),
  );
}

function addressText(address) {
  if (address === null || address === undefined) return "";
  return typeof address === "object" ? `${address.name}:${address.port}` : shown(address);
}

// The words are the account's own.
function accountPair({ words, selected }) {
  const chain = ({ steps, broken }) => ({ text: steps ?? "", broken });
  return {
    a: words.a,
    b: words.b,
    state: words.marks.join(", "),
    selected,
    aToB: chain(words.a_to_b),
    bToA: chain(words.b_to_a),
  };
}

// ---- the plot -----------------------------------------------------------------------------------------------------

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 600;
const HEIGHT = 100;
const SHOWN = 120;

export function showPlot(trips) {
  const recent = trips.slice(-SHOWN);
  const most = Math.max(1, ...recent);
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  for (const part of [0, 0.5, 1]) {
    const grid = document.createElementNS(SVG, "line");
    const y = HEIGHT - 4 - part * (HEIGHT - 8);
    for (const [name, value] of Object.entries({ class: "grid", x1: 0, x2: WIDTH, y1: y, y2: y })) grid.setAttribute(name, value);
    svg.append(grid);
  }
  const points = recent.map((trip, index) => {
    const x = (index / Math.max(1, recent.length - 1)) * WIDTH;
    return `${x.toFixed(1)},${(HEIGHT - 4 - (trip / most) * (HEIGHT - 8)).toFixed(1)}`;
  });
  const line = document.createElementNS(SVG, "polyline");
  line.setAttribute("class", "line");
  line.setAttribute("points", points.join(" "));
  svg.append(line);
  byId("plot").replaceChildren(svg);
  const sorted = recent.toSorted((a, b) => a - b);
  const median = sorted[sorted.length >> 1];
  byId("plot-caption").textContent = recent.length === 0
    ? "Round trip over the data channel: not measured yet"
    : `Round trip over the data channel: ${recent.at(-1).toFixed(1)} ms now, ${median.toFixed(1)} ms median, scale 0 to ${most.toFixed(1)} ms`;
}
