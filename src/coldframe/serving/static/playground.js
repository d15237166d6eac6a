// The page: adapters, tabs, and a question to one of them.

import { ask, byId, element, meter, milliseconds, percent, picture, row, tell, working } from "./dom.js";
import { startRag } from "./rag.js";

const NAMES = { adapter: "This adapter", "zero-shot": "Zero-shot", icl: "Retrieved ICL" };
let adapters = [];
let original = null; // the answer without changes, to which others are compared
let question = ""; // the input that it answers
let labels = new Map(); // other labels, by id
let dropped = new Map(); // dropped exemplars, by id

export const chosen = () => adapters.find((adapter) => adapter.name === byId("adapter").value);
const button = () => byId("ask-form").querySelector("button");

async function listAdapters() {
  adapters = (await ask("v1/adapters")).adapters;
  const select = byId("adapter");
  const before = select.value;
  select.replaceChildren(...adapters.map(({ name }) => element("option", { value: name }, name)));
  if (adapters.some(({ name }) => name === before)) select.value = before;
  if (!adapters.length) {
    byId("access").open = true;
    throw new Error("There is no adapter that you may use. Give a key, or start the gateway with --adapter NAME=DIR.");
  }
  describe();
}

function describe() {
  const adapter = chosen();
  if (!adapter) return;
  const parts = [`${adapter.method} on ${adapter.base_model}`, adapter.task];
  if (adapter.labels.length) parts.push(adapter.labels.slice(0, 6).join(" / ") + (adapter.labels.length > 6 ? " …" : ""));
  if (adapter.retrieves) parts.push(`${adapter.k} of ${adapter.exemplars.toLocaleString("en")} exemplars for each question`);
  byId("facts").textContent = parts.join(" · ");
  const molecules = adapter.domain === "molecules";
  document.querySelector('label[for="query"]').textContent = molecules ? "Molecule (SMILES)" : "Text";
  if (!byId("query").value && molecules) byId("query").value = "CC(=O)OC1=CC=CC=C1C(=O)O";
  byId("result").hidden = true;
}

// ---- asking -------------------------------------------------------------------------------------------------

async function answer(changed) {
  const text = byId("query").value.trim();
  if (!text) throw new Error("The input is empty.");
  if (!changed || text !== question) {
    labels = new Map();
    dropped = new Map();
    original = null;
  }
  const overrides = { drop: [...dropped.keys()], relabel: Object.fromEntries(labels) };
  const adapter = byId("adapter").value;
  const body = { adapter, inputs: [text], attention: true, pictures: true, overrides };
  const result = await ask("v1/predict", body);
  const record = result.answers[0];
  if (!original) original = record;
  question = text;
  show(record, result.milliseconds);
  byId("result").hidden = false;
  tell(spoken(record));
  showWays((await ask("v1/compare", { adapter, input: text, overrides })).ways);
}

const words = (record) => record.label ?? record.answer;

function spoken(record) {
  const share = record.probabilities ? `, ${percent(record.probabilities[record.label])}` : "";
  return `Answer: ${words(record)}${share}. ${moved(record)}`;
}

function moved(record) {
  if (record === original || (!labels.size && !dropped.size)) return "";
  if (!record.probabilities) return words(record) === words(original) ? "The answer is the same." : `It was: ${words(original)}`;
  const label = original.label;
  const change = `${label} ${percent(original.probabilities[label])} → ${percent(record.probabilities[label])}`;
  return record.label === label ? `With your changes: ${change}` : `With your changes the answer is ${record.label}: ${change}`;
}

function show(record, time) {
  byId("answer").replaceChildren(...answerParts(record));
  byId("query-picture").replaceChildren(...[picture(record.picture, question)].filter(Boolean));
  byId("cost").textContent = `${record.tokens.toLocaleString("en")} tokens read · ${milliseconds(time)} ms in the gateway`;
  const change = moved(record);
  byId("moved").hidden = !change;
  byId("moved").textContent = change;
  byId("reset").hidden = !labels.size && !dropped.size;
  const neighbours = record.neighbours ?? [];
  byId("neighbours-part").hidden = !neighbours.length;
  byId("neighbours").replaceChildren(...neighbours.map(exemplar));
  byId("dropped-part").hidden = !dropped.size;
  byId("dropped").replaceChildren(...[...dropped.values()].map(droppedExemplar));
  showAttention(record.attention, neighbours);
}

function answerParts(record) {
  if (!record.probabilities) return [element("p", { className: "written" }, record.answer || "(nothing)")];
  const shares = Object.entries(record.probabilities).sort((a, b) => b[1] - a[1]);
  const lines = shares.slice(0, 8).map(([label, share], place) =>
    element("li", { className: place ? "" : "first" }, element("span", {}, label), meter(share), element("span", { className: "num" }, percent(share))),
  );
  return [element("p", { className: "big" }, record.label), element("ul", { className: "shares" }, ...lines)];
}

function showAttention(attention, neighbours) {
  byId("attention-part").hidden = !attention || !neighbours.length;
  if (!attention || !neighbours.length) return;
  const head = element("thead", {}, row("th", ["", ...neighbours.map((_, place) => `No. ${place + 1}`)]));
  const body = attention.map((shares, place) => {
    const cells = shares.map((share) => element("td", { share }, `${Math.round(100 * share)}%`));
    return row("td", [element("th", { scope: "row" }, `Head ${place + 1}`), ...cells]);
  });
  byId("attention").replaceChildren(head, element("tbody", {}, ...body));
}

function showWays(ways) {
  const titles = ["", "Answer", "Tokens", "ms"];
  const rows = ways.map((way) => {
    const share = way.probabilities ? ` ${percent(way.probabilities[way.label])}` : "";
    const text = element("td", { className: "text" }, words(way), element("span", { className: "soft" }, share));
    const title = element("th", { scope: "row" }, NAMES[way.way], element("small", {}, way.way === "adapter" ? way.method : ""));
    return row("td", [title, text, way.tokens.toLocaleString("en"), milliseconds(way.milliseconds)], { className: way.way === "adapter" ? "main" : "" });
  });
  byId("ways-title").textContent = ways.length > 1 ? `The same question, ${ways.length === 2 ? "two" : "three"} ways` : "No model is read";
  const head = titles.map((title, place) => element("th", { scope: "col", className: place === 1 ? "text" : "" }, title));
  head[1].style.textAlign = "left";
  byId("ways").replaceChildren(element("thead", {}, row("th", head)), element("tbody", {}, ...rows));
}

// ---- exemplars ----------------------------------------------------------------------------------------------

function exemplar(entry, place) {
  const drawn = picture(entry.picture, entry.text);
  const known = chosen().labels;
  const id = `label-${place}`;
  const edit = element("div", { className: "edit" });
  if (known.length && entry.label) {
    const options = known.map((label) => element("option", { value: label, selected: label === entry.label }, label));
    const select = element("select", { id, onchange: () => relabel(entry, select.value) }, ...options);
    edit.append(element("div", {}, element("label", { htmlFor: id }, `Label of No. ${place + 1}`), select));
  } else if (entry.label) {
    edit.append(element("span", { className: "soft" }, entry.label));
  }
  const drop = element("button", { type: "button", onclick: () => dropOne(entry) }, "Drop");
  drop.setAttribute("aria-label", `Drop No. ${place + 1}: ${entry.text.slice(0, 80)}`);
  edit.append(drop);
  const similarity = element("span", { className: "soft" }, `No. ${place + 1} · similarity ${entry.similarity.toFixed(2)}`);
  const text = element("div", { className: drawn ? "text smiles" : "text" }, entry.text);
  return element("li", { className: labels.has(entry.id) ? "changed" : "" }, similarity, drawn, text, edit);
}

function droppedExemplar(entry) {
  const back = element("button", { type: "button", onclick: () => change(() => dropped.delete(entry.id)) }, "Put back");
  back.setAttribute("aria-label", `Put back ${entry.text.slice(0, 80)}`);
  return element("li", {}, element("span", {}, entry.text.slice(0, 120)), back);
}

function relabel(entry, label) {
  const before = original.neighbours.find((neighbour) => neighbour.id === entry.id);
  change(() => (before && before.label === label ? labels.delete(entry.id) : labels.set(entry.id, label)));
}

const dropOne = (entry) => change(() => dropped.set(entry.id, entry));

// Asks again, and keeps the focus near: what had it is drawn anew.
function change(edit) {
  const place = [...document.querySelectorAll("#neighbours button, #neighbours select")].indexOf(document.activeElement);
  edit();
  working(button(), () => answer(true)).then(() => {
    const controls = document.querySelectorAll("#neighbours button, #neighbours select");
    if (place >= 0 && controls.length) controls[Math.min(place, controls.length - 1)].focus();
  });
}

// ---- the page -----------------------------------------------------------------------------------------------

function openTab(tab) {
  for (const other of document.querySelectorAll("[role=tab]")) {
    const open = other === tab;
    other.setAttribute("aria-selected", String(open));
    other.tabIndex = open ? 0 : -1;
    byId(other.getAttribute("aria-controls")).hidden = !open;
  }
}

const tabs = [...document.querySelectorAll("[role=tab]")];
for (const tab of tabs) {
  tab.addEventListener("click", () => openTab(tab));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length];
    openTab(next);
    next.focus();
  });
}
byId("ask-form").addEventListener("submit", (event) => {
  event.preventDefault();
  working(button(), () => answer(false));
});
byId("query").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("ask-form").requestSubmit();
});
byId("reset").addEventListener("click", () => {
  change(() => (labels.clear(), dropped.clear()));
  byId("query").focus();
});
byId("adapter").addEventListener("change", describe);
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  working(button(), listAdapters);
});
startRag(() => byId("adapter").value);
working(button(), listAdapters);
