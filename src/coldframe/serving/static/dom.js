// Elements, numbers and requests. Nothing here ever reads a text as HTML.

export const byId = (id) => document.getElementById(id);

export function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "share") node.style.setProperty("--w", String(value));
    else if (name in node && name !== "list") node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export const percent = (share) => `${(100 * share).toFixed(1)}%`;
export const milliseconds = (value) => (value < 10 ? value.toFixed(1) : Math.round(value).toLocaleString("en"));

export function meter(share) {
  return element("span", { className: "meter", ariaHidden: "true" }, element("i", { share }));
}

export function row(tag, cells, properties = {}) {
  return element("tr", properties, ...cells.map((cell) => (cell instanceof Node ? cell : element(tag, {}, String(cell)))));
}

export function picture(address, text) {
  if (!address || !address.startsWith("data:image/svg+xml;base64,")) return null;
  return element("img", { className: "molecule", src: address, alt: `Structure of ${text}`, width: 220, height: 150 });
}

export async function ask(route, body) {
  const headers = { "Content-Type": "application/json" };
  const key = byId("key").value.trim();
  if (key) headers.Authorization = `Bearer ${key}`;
  const request = body === undefined ? { headers } : { method: "POST", headers, body: JSON.stringify(body) };
  let answer;
  try {
    answer = await fetch(route, request);
  } catch {
    throw new Error("The gateway does not answer. Is it running?");
  }
  const json = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    if (answer.status === 401) byId("access").open = true;
    throw new Error(json.error ? json.error.message : `The gateway answered ${answer.status}.`);
  }
  return json;
}

export function tell(words) {
  byId("status").textContent = words;
}

// Runs work with its button disabled; an error is said where everybody sees and hears it.
export async function working(button, work) {
  const problem = byId("problem");
  button.disabled = true;
  try {
    await work();
    problem.hidden = true;
  } catch (error) {
    problem.textContent = error.message;
    problem.hidden = false;
  } finally {
    button.disabled = false;
  }
}
