// The status page's script: refreshes what changes, and runs the chat box. Nothing is stored anywhere.
"use strict";

const REFRESH_MS = 3000;
const byId = (id) => document.getElementById(id);

// --- refreshing -------------------------------------------------------------------------------------------------

const shown = new Map(); // a section's id -> its markup as the gateway sent it
let timer = null;

function replace(section) {
  const old = byId(section.id);
  if (!old || shown.get(section.id) === section.outerHTML) return;
  shown.set(section.id, section.outerHTML);
  if (old.outerHTML === section.outerHTML) return;
  const selection = document.getSelection();
  const focused = old.contains(document.activeElement) ? document.activeElement : null;
  if ((focused && !focused.id) || (!selection.isCollapsed && old.contains(selection.anchorNode))) {
    shown.delete(section.id); // somebody reads or copies here: the next time, then
    return;
  }
  for (const details of section.querySelectorAll("details[id]")) details.open = Boolean(byId(details.id)?.open);
  old.replaceWith(section);
  if (focused) byId(focused.id)?.focus({ preventScroll: true });
}

async function refresh() {
  try {
    const answer = await fetch("status/fragment", { cache: "no-store", signal: AbortSignal.timeout(10 * REFRESH_MS) });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const section of [...fresh.body.children]) replace(document.adoptNode(section));
    byId("freshness").textContent = "";
  } catch {
    if (!byId("freshness").textContent) {
      byId("freshness").textContent = `No answer from the gateway since ${new Date().toLocaleTimeString()}: what you see is old.`;
    }
  }
  schedule();
}

function schedule() {
  clearTimeout(timer);
  timer = document.hidden ? null : setTimeout(refresh, REFRESH_MS);
}

document.addEventListener("visibilitychange", () => (document.hidden ? schedule() : refresh()));
schedule();

// --- the chat box -----------------------------------------------------------------------------------------------

let stopping = null; // of the request that runs

byId("ask").hidden = false;
byId("ask").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
byId("ask").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("ask").requestSubmit();
});
byId("stop").addEventListener("click", () => stopping?.abort());

function request() {
  const headers = { "content-type": "application/json", "x-aerie-include": "speculation" };
  if (byId("key").value) headers.authorization = `Bearer ${byId("key").value.trim()}`;
  const body = {
    model: byId("model").value,
    messages: [{ role: "user", content: byId("prompt").value }],
    max_tokens: Number(byId("limit").value),
    temperature: Number(byId("temperature").value),
    stream: true,
    stream_options: { include_usage: true, continuous_usage_stats: true },
  };
  return { method: "POST", headers, body: JSON.stringify(body) };
}

async function ask() {
  if (stopping) return;
  const told = { tokens: 0, pieces: 0, begun: performance.now(), first: null, last: null, firstTokens: 0, usage: null, speculates: true };
  stopping = new AbortController();
  running(true);
  try {
    const answer = await fetch("v1/chat/completions", { ...request(), signal: stopping.signal });
    if (!answer.ok) return say(await refusal(answer));
    told.speculates = poolSpeculates(answer.headers.get("x-aerie-pool"));
    byId("meaning").hidden = byId("shades").hidden = !told.speculates;
    for await (const event of events(answer.body)) take(event, told);
    if (told.failure) say(told.failure);
    else if (!told.done) say("The answer broke off before its end.");
  } catch (error) {
    say(error.name === "AbortError" ? "Stopped." : `The request failed: ${error.message}.`);
  } finally {
    stopping = null;
    running(false);
    summarise(told);
  }
}

function running(now) {
  byId("send").disabled = now;
  byId("stop").disabled = !now;
  byId("answer").setAttribute("aria-busy", now);
  if (!now) return;
  byId("reply").hidden = false;
  byId("answer").replaceChildren();
  byId("result").replaceChildren();
  say("");
}

const say = (words) => { byId("outcome").textContent = words; };

async function refusal(answer) {
  const error = (await answer.json().catch(() => ({}))).error ?? {};
  const id = answer.headers.get("x-request-id");
  return `${error.message ?? "The gateway gave no reason."} (${answer.status} ${error.code ?? ""}${id ? `, request ${id}` : ""})`;
}

function poolSpeculates(header) {
  const pool = [...document.querySelectorAll("[data-pool]")].find((card) => card.dataset.pool === header?.split(";")[0]);
  return pool?.dataset.kind !== "baseline";
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield part.slice(6);
  }
}

function take(event, told) {
  if (event === "[DONE]") { told.done = true; return; }
  const document_ = JSON.parse(event);
  if (document_.error) { told.failure = `The answer broke off: ${document_.error.message}`; return; }
  if (!document_.choices?.length) { told.usage = document_.usage ?? told.usage; return; }
  const { delta, finish_reason: finish } = document_.choices[0];
  if (finish === "length") say("The answer ended at the most tokens that it was allowed.");
  const thought = delta?.reasoning_content, text = thought || delta?.content;
  if (text) show(text, Boolean(thought), document_.usage?.completion_tokens, told);
}

function show(text, thought, total, told) {
  const tokens = total === undefined ? null : total - told.tokens;
  told.tokens = total ?? told.tokens;
  told.last = performance.now();
  if (told.first === null) { told.first = told.last; told.firstTokens = told.tokens; }
  const piece = document.createElement("span");
  piece.textContent = text;
  const drafts = told.pieces > 0 && told.speculates && tokens !== null ? tokens - 1 : 0;
  piece.className = `pass d${Math.min(Math.max(drafts, 0), 3)}`;
  if (thought) piece.classList.add("thought");
  else if (byId("answer").lastChild?.classList.contains("thought")) byId("answer").append("\n\n");
  if (tokens !== null) piece.title = describe(tokens, drafts, told);
  told.pieces += 1;
  byId("answer").append(piece);
}

function describe(tokens, drafts, told) {
  const all = `${tokens} token${tokens === 1 ? "" : "s"}`;
  if (!told.speculates) return `${all} that arrived together`;
  if (told.pieces > 0) return `${all}: ${drafts} accepted, 1 of the target`;
  return tokens === 1 ? `${all}, from reading the prompt` : `${all}; which of them were drafts cannot be told`;
}

function summarise(told) {
  const speculation = told.usage?.speculation;
  const tokens = told.usage?.completion_tokens ?? told.tokens;
  const rate = told.last > told.first ? (tokens - told.firstTokens) / ((told.last - told.first) / 1000) : null;
  const rows = [];
  if (speculation?.acceptance_length) {
    rows.push(["Acceptance length", speculation.acceptance_length.toFixed(2), "τ: tokens per verify pass"]);
    rows.push(["Verify passes", speculation.verify_passes, `${speculation.accepted_drafts} of ${speculation.proposed_drafts} drafts accepted`]);
  } else if (told.done) {
    rows.push(["Acceptance length", "—", told.speculates ? "no verify pass" : "this pool does not speculate"]);
  }
  if (rate) rows.push(["Tokens per second", rate.toFixed(rate < 10 ? 2 : 1), "after the first, as this page received them"]);
  if (tokens) rows.push(["Tokens", tokens, told.first === null ? "" : `the first after ${Math.round(told.first - told.begun)} ms`]);
  byId("result").replaceChildren(...rows.map(tile));
}

function tile([name, value, note]) {
  const row = document.createElement("div");
  row.className = "tile";
  const [term, detail, number, small] = ["dt", "dd", "b", "small"].map((tag) => document.createElement(tag));
  [term.textContent, number.textContent, small.textContent] = [name, value, note];
  detail.append(number, small);
  row.append(term, detail);
  return row;
}
