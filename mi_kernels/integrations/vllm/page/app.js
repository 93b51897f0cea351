// The page of `mi-kernels serve --ui`: chat with a slider for lam, and one prompt at several lam side by side.
// What a model writes is only ever set as text, never as HTML.

const $ = (id) => document.getElementById(id);
const MODULES = ["attn", "ffn", "router", "norm", "embed", "head"];
const SVG = "http://www.w3.org/2000/svg";

const state = { model: "", key: "", turns: [], running: new Set(), stages: [] };

function element(tag, words = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(words)) {
    if (name === "text") made.textContent = value;
    else if (name === "class") made.className = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function shape(tag, words, text = "") {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(words)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}

function headers() {
  return state.key ? { Authorization: `Bearer ${state.key}` } : {};
}

async function problem(response) {
  const body = await response.json().catch(() => null);
  const error = body?.error;
  return (typeof error === "string" ? error : error?.message) ?? `the server answered ${response.status}`;
}

// ---------------------------------------------------------------------------------------------------------------- start

async function connect() {
  let response;
  try {
    response = await fetch("../v1/mi_kernels/lam", { headers: headers() });
  } catch {
    $("status").textContent = "the server does not answer";
    return;
  }
  if (response.status === 401) {
    $("key-form").hidden = false;
    $("status").textContent = state.key ? "the key is wrong" : "a key is needed";
    $("key").focus();
    return;
  }
  if (!response.ok) {
    $("status").textContent = await problem(response);
    return;
  }
  const served = await response.json();
  const models = await (await fetch("../v1/models", { headers: headers() })).json();
  const stages = await fetch("stages.json", { headers: headers() });
  state.model = models.data[0].id;
  state.stages = stages.ok ? await stages.json() : [];
  $("model").textContent = state.model;
  document.title = `${state.model} - mi-kernels`;
  $("status").textContent = "ready";
  $("key-form").hidden = true;
  document.querySelector("main").hidden = false;
  for (const [name, recipe] of Object.entries(served.efforts ?? {})) {
    const button = element("button", { type: "button", text: name, "aria-pressed": "false", "data-effort": name });
    button.onclick = () => setEffort(name, recipe);
    $("efforts").append(button);
  }
  for (const name of MODULES) {
    $("modules").append(element("label", {}, element("input", { type: "checkbox", value: name }), ` ${name}`));
  }
  if (typeof served.lam === "number") setLam(served.lam);
  $("prompt").focus();
}

$("key-form").onsubmit = (event) => {
  event.preventDefault();
  state.key = $("key").value;
  connect();
};

// ----------------------------------------------------------------------------------------------------------- the slider

function setLam(value) {
  const lam = Math.round(Number(value) * 1000) / 1000;
  $("lam").value = lam;
  $("lam-number").value = lam;
  choose(null);
  draw();
}

function setEffort(name, recipe) {
  if (typeof recipe.lam === "number") setLam(recipe.lam);
  choose(name);
}

function choose(effort) {
  for (const button of $("efforts").children) {
    button.setAttribute("aria-pressed", String(button.dataset.effort === effort));
  }
}

$("lam").oninput = () => setLam($("lam").value);
// The number may be one that the server refuses: its answer then says what it takes.
$("lam-number").oninput = () => {
  if ($("lam-number").value === "") return;
  $("lam").value = $("lam-number").value;
  choose(null);
  draw();
};

// What the request says to choose its merge.
function merge(lam) {
  const layers = $("layers").value.trim();
  const modules = [...$("modules").querySelectorAll("input:checked")].map((box) => box.value);
  const effort = [...$("efforts").children].find((button) => button.ariaPressed === "true");
  if (lam === undefined && effort && !layers && !modules.length) return { reasoning_effort: effort.dataset.effort };
  const value = lam ?? Number($("lam-number").value);
  if (!layers && !modules.length) return { lam: value };
  return { mi_kernels: { lam: value, ...(layers && { layers }), ...(modules.length && { modules: modules.join(",") }) } };
}

// ------------------------------------------------------------------------------------------------------------- the plot

function draw() {
  const [chosen] = state.stages;
  $("plot").hidden = !chosen;
  if (!chosen) return;
  const picture = $("plot").querySelector("svg");
  const width = Math.max(280, Math.round(picture.getBoundingClientRect().width) || 600); // so that text keeps its size
  picture.setAttribute("viewBox", `0 0 ${width} 180`);
  const [left, right, top, bottom] = [46, width - 10, 10, 155];
  const x = (lam) => left + lam * (right - left);
  const y = (share) => bottom - share * (bottom - top);
  const most = Math.max(...chosen.points.map((point) => point.tokens), 1);
  picture.replaceChildren(picture.querySelector("title"));
  picture.querySelector("title").textContent = `${chosen.title}: accuracy, Think #R and tokens by lam`;
  for (const share of [0, 0.5, 1]) {
    picture.append(shape("line", { class: "axis", x1: left, x2: right, y1: y(share), y2: y(share) }));
    picture.append(shape("text", { x: left - 5, y: y(share) + 4, "text-anchor": "end" }, `${share * 100} %`));
    picture.append(shape("text", { x: x(share), y: bottom + 16, "text-anchor": "middle" }, String(share)));
  }
  for (const [name, value] of [["mean", (p) => p.mean], ["think", (p) => p.think], ["tokens", (p) => p.tokens / most]]) {
    const points = chosen.points.map((point) => `${x(point.lam)},${y(value(point))}`).join(" ");
    picture.append(shape("polyline", { class: name, points }));
  }
  const lam = Math.min(1, Math.max(0, Number($("lam").value)));
  picture.append(shape("line", { class: "here", x1: x(lam), x2: x(lam), y1: top, y2: bottom }));
  const caption = $("plot").querySelector("figcaption");
  caption.replaceChildren(`${chosen.title}: `);
  for (const [name, words] of [["mean", "accuracy"], ["think", "Think #R"], ["tokens", `tokens (top: ${Math.round(most)})`]]) {
    const key = shape("svg", { class: `key ${name}`, viewBox: "0 0 24 8", "aria-hidden": "true" });
    key.append(shape("line", { x1: 0, x2: 24, y1: 4, y2: 4 }));
    caption.append(key, ` ${words}${name === "tokens" ? ". " : ", "}`);
  }
  caption.append(`The dashed line is lam ${lam}.`);
}

addEventListener("resize", draw);

// ------------------------------------------------------------------------------------------------------------- answers

function count(tokens) {
  return `${tokens.toLocaleString("en")} ${tokens === 1 ? "token" : "tokens"}`;
}

// Shows an answer in `box` while it comes: the thinking part folded, and what the answer cost.
class Answer {
  constructor(box) {
    this.text = "";
    this.tokens = 0;
    this.thought = 0;
    this.began = performance.now();
    this.first = 0;
    this.made = null;
    this.fold = element("details", { class: "thinking", hidden: "" }, element("summary"), element("div", { class: "text" }));
    this.answer = element("div", { class: "text answer" });
    this.cost = element("p", { class: "cost", text: "waiting" });
    box.append(this.fold, this.answer, this.cost);
  }

  add(text, tokens) {
    this.first ||= performance.now();
    this.text += text;
    this.tokens += tokens;
    const end = this.text.lastIndexOf("</think>");
    if (end >= 0 && !this.thought) this.thought = this.tokens;
    const thinking = end < 0 ? "" : this.text.slice(0, end).replace(/^\s*<think>/, "").trim();
    this.said = end < 0 ? this.text : this.text.slice(end + "</think>".length).trim();
    this.fold.hidden = end < 0;
    this.fold.querySelector("summary").textContent = `Thinking, ${count(this.thought)}`;
    this.fold.querySelector(".text").textContent = thinking;
    this.answer.textContent = this.said;
    this.show();
  }

  show(end = "") {
    const seconds = (performance.now() - this.first) / 1000;
    const rate = this.tokens > 1 && seconds > 0 ? `, ${Math.round((this.tokens - 1) / seconds)} tokens/s` : "";
    const waited = `, ${((this.first - this.began) / 1000).toFixed(1)} s to the first token`;
    const { lam, effort, layers, modules } = this.made ?? {};
    const masks = [layers && `layers ${layers}`, modules && `modules ${modules}`].filter(Boolean).join(", ");
    const merged = this.made ? `lam ${lam}${effort ? ` (${effort})` : ""}${masks && `, ${masks}`}: ` : "";
    this.cost.textContent = `${merged}${count(this.tokens)}${rate}${this.first ? waited : ""}${end}`;
  }

  fail(message) {
    this.cost.textContent = message;
    this.cost.className = "cost error";
    this.cost.setAttribute("role", "alert");
  }
}

// Asks for one answer, and resolves when it is complete.
async function ask(messages, choice, box) {
  const answer = new Answer(box);
  const control = new AbortController();
  state.running.add(control);
  busy();
  try {
    const limits = {};
    if ($("max-tokens").value) limits.max_tokens = Number($("max-tokens").value);
    if ($("temperature").value) limits.temperature = Number($("temperature").value);
    const body = { model: state.model, messages, stream: true, return_token_ids: true, ...limits, ...choice };
    const response = await fetch("../v1/chat/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json", ...headers() },
      body: JSON.stringify(body),
      signal: control.signal,
    });
    if (!response.ok) {
      answer.fail(await problem(response));
      return null;
    }
    for await (const event of events(response.body)) {
      if (event.error) {
        answer.fail(event.error.message);
        return null;
      }
      answer.made = event.mi_kernels;
      const [part] = event.choices ?? [];
      if (part) answer.add(part.delta?.content ?? "", part.token_ids?.length ?? (part.delta?.content ? 1 : 0));
      if (part?.finish_reason === "length") answer.show(", cut at the limit");
    }
    return answer.said ?? "";
  } catch (error) {
    if (error.name === "AbortError") answer.show(", stopped");
    else answer.fail(`the connection was lost: ${error.message}`);
    return null;
  } finally {
    state.running.delete(control);
    busy();
  }
}

async function* events(stream) {
  let left = "";
  for await (const text of chunks(stream.pipeThrough(new TextDecoderStream()))) {
    const lines = (left + text).split("\n");
    left = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
    }
  }
}

async function* chunks(stream) {
  const reader = stream.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) yield part.value;
}

function busy() {
  $("send").disabled = state.running.size > 0;
  $("stop").hidden = state.running.size === 0;
}

// ------------------------------------------------------------------------------------------------------ chat and compare

async function chat(text) {
  $("turns").append(element("div", { class: "turn user" }, element("div", { class: "text", text })));
  const box = element("div", { class: "turn assistant" });
  $("turns").append(box);
  const messages = [...state.turns, { role: "user", content: text }];
  const said = await ask(messages, merge(), box);
  if (said !== null) state.turns = [...messages, { role: "assistant", content: said }];
}

async function compare(text) {
  const lams = $("lams").value.split(/[\s,;]+/).filter(Boolean).map(Number);
  $("columns").replaceChildren();
  const answers = lams.map((lam) => {
    const box = element("div", { class: "column" }, element("h3", { text: `lam ${lam}` }));
    $("columns").append(box);
    return ask([{ role: "user", content: text }], merge(lam), box);
  });
  await Promise.all(answers);
}

$("ask").onsubmit = async (event) => {
  event.preventDefault();
  const text = $("prompt").value.trim();
  if (!text || state.running.size) return;
  if ($("compare").hidden) {
    $("prompt").value = "";
    await chat(text);
  } else {
    await compare(text);
  }
  $("prompt").focus();
};
$("prompt").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("ask").requestSubmit();
  }
};
$("stop").onclick = () => state.running.forEach((control) => control.abort());
$("clear").onclick = () => {
  $("stop").onclick();
  state.turns = [];
  $("turns").replaceChildren();
  $("columns").replaceChildren();
};

function openTab(name) {
  for (const other of ["chat", "compare"]) {
    $(other).hidden = other !== name;
    $(`tab-${other}`).setAttribute("aria-selected", String(other === name));
    $(`tab-${other}`).tabIndex = other === name ? 0 : -1;
  }
}
for (const [name, other] of [["chat", "compare"], ["compare", "chat"]]) {
  $(`tab-${name}`).onclick = () => openTab(name);
  $(`tab-${name}`).onkeydown = (event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    openTab(other);
    $(`tab-${other}`).focus();
  };
}

connect();
