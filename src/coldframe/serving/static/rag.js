// The tab of passages: what an answer becomes without each of them.

import { ask, byId, element, meter, milliseconds, percent, row, tell, working } from "./dom.js";

const EXAMPLES = ["Ada Bell is a baker. She lives in Torvik.", "Bo Lund lives in Haverby.", "Torvik is a small town by the sea."];
const MOST = 12;

function addPassage(text = "") {
  const area = element("textarea", { rows: 2, value: text });
  const remove = element("button", { type: "button", onclick: () => (box.remove(), number()) }, "Remove");
  const box = element("div", { className: "passage" }, element("label", {}), area, remove);
  byId("passages").append(box);
  number();
  return area;
}

function number() {
  const boxes = [...byId("passages").children];
  boxes.forEach((box, place) => {
    const [label, area, remove] = box.children;
    area.id = `passage-${place}`;
    label.htmlFor = area.id;
    label.textContent = `Passage ${place + 1}`;
    remove.setAttribute("aria-label", `Remove passage ${place + 1}`);
    remove.hidden = boxes.length < 2;
  });
  byId("add-passage").hidden = boxes.length >= MOST;
}

async function answer(adapter) {
  const question = byId("question").value.trim();
  const passages = [...byId("passages").querySelectorAll("textarea")].map((area) => area.value.trim()).filter(Boolean);
  if (!question || !passages.length) throw new Error("A question and at least one passage are needed.");
  const result = await ask("v1/rag", { adapter, question, passages });
  const full = result.cases[0].answer;
  const rows = result.cases.map((record, place) => {
    const without = record.left_out === null ? (place ? "No passage" : "All passages") : `Without passage ${record.left_out + 1}`;
    const small = record.left_out === null ? "" : passages[record.left_out].slice(0, 70);
    const title = element("th", { scope: "row" }, without, element("small", {}, small));
    const same = record.answer === full;
    const text = element("td", { className: same ? "text" : "text other" }, record.answer || "(nothing)", same || !place ? "" : " – another answer");
    const share = record.probability === null ? "" : percent(record.probability);
    const bar = record.probability === null ? null : meter(record.probability);
    return row("td", [title, text, element("td", { className: "num" }, share, bar)], { className: place ? "" : "main" });
  });
  const head = ["", "Answer", "Likelihood of the first answer"].map((title) => element("th", { scope: "col" }, title));
  head[1].style.textAlign = "left";
  byId("cases").replaceChildren(element("thead", {}, row("th", head)), element("tbody", {}, ...rows));
  byId("rag-cost").textContent = `${milliseconds(result.milliseconds)} ms for ${result.cases.length} answers`;
  byId("rag-result").hidden = false;
  const changed = result.cases.filter((record) => record.left_out !== null && record.answer !== full);
  const which = changed.map((record) => record.left_out + 1).join(", ");
  tell(`Answer: ${full}. ${changed.length ? `It changes without passage ${which}.` : "It is the same without any single passage."}`);
}

export function startRag(adapter) {
  EXAMPLES.forEach((text) => addPassage(text));
  byId("add-passage").addEventListener("click", () => addPassage().focus());
  byId("rag-form").addEventListener("submit", (event) => {
    event.preventDefault();
    working(byId("rag-form").querySelector(".primary"), () => answer(adapter()));
  });
}
