"use strict";
/* Shows and hides, and answers a pointer. Texts are put in as text: nothing here makes HTML from a string. */

const DATA = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "click") node.addEventListener("click", value);
    else if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  for (const child of children) {
    if (child !== null && child !== undefined) node.append(child);
  }
  return node;
}
const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const shape = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

function brief(value) {
  if (value === null || value === undefined) return "-";
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const size = Math.abs(value);
  return size >= 1e-3 && size < 1e6 ? String(Number(value.toPrecision(4))) : value.toExponential(2);
}

/* Tabs: the part of the address behind the mark says which section is shown. */

function open(name) {
  for (const section of document.querySelectorAll("section")) section.classList.toggle("shown", section.id === name);
  for (const link of document.querySelectorAll(".tabs a")) {
    const own = link.getAttribute("href") === "#" + name;
    if (own) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function opened() {
  const name = location.hash.slice(1);
  open(document.querySelector("section#" + CSS.escape(name || "overview")) ? name || "overview" : "overview");
}

function go(name) {
  if (location.hash !== "#" + name) history.pushState(null, "", "#" + name);
  open(name);
  const bar = document.querySelector(".tabs");
  bar.style.position = "static"; // where it stands when nothing is scrolled
  const top = bar.getBoundingClientRect().top + scrollY;
  bar.style.position = "";
  if (scrollY > top) scrollTo(0, top);
  bar.querySelector("[aria-current]").scrollIntoView({ block: "nearest", inline: "nearest" });
}

/* Several runs: a click on one takes its curves away. */

function toggle(button) {
  const shown = button.getAttribute("aria-pressed") === "true";
  button.setAttribute("aria-pressed", String(!shown));
  document.body.classList.toggle("hide" + button.dataset.run, shown);
}

/* What a pointer is at. */

const tip = el("div", { id: "tip", hidden: "", role: "status" });

function told(event, title, rows) {
  tip.replaceChildren(
    el("div", null, el("b", null, title)),
    ...rows.map(([kind, label, value]) =>
      el("div", null, el("span", null, el("i", { class: "key " + kind }), label), el("span", null, value))),
  );
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = event.clientX + 14 + box.width > innerWidth ? event.clientX - 14 - box.width : event.clientX + 14;
  tip.style.left = Math.max(4, left) + "px";
  tip.style.top = Math.max(4, Math.min(innerHeight - box.height - 4, event.clientY + 14)) + "px";
}

function nearest(steps, wanted) {
  let best = 0;
  for (let i = 1; i < steps.length; i++) {
    if (Math.abs(steps[i] - wanted) < Math.abs(steps[best] - wanted)) best = i;
  }
  return best;
}

function hoverChart(plot) {
  const [left, width, first, last, lines, across = "step"] = DATA.charts[Number(plot.dataset.chart)];
  const picture = plot.querySelector("svg");
  const ofOne = plot.closest("div[class^=run]"); // it goes away as a whole, whatever its lines are numbered
  const cursor = el("div", { class: "cursor", hidden: "" });
  plot.append(cursor);
  plot.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect();
    const scale = 400 / box.width;
    const part = ((event.clientX - box.left) * scale - left) / width;
    if (part < -0.02 || part > 1.02) return leave();
    const wanted = first + part * (last - first);
    const shown = lines.filter((line) => line[3].length && (ofOne || !document.body.classList.contains("hide" + line[2])));
    if (!shown.length) return leave();
    const step = shown.map((line) => line[3][nearest(line[3], wanted)])
      .reduce((a, b) => (Math.abs(b - wanted) < Math.abs(a - wanted) ? b : a));
    cursor.hidden = false;
    cursor.style.left = (left + (width * (step - first)) / (last - first || 1)) / scale + "px";
    told(event, across + " " + brief(step), shown
      .filter((line) => line[3].includes(step))
      .map((line) => [line[1] < 0 ? "" : "k" + line[1], line[0], brief(line[4][line[3].indexOf(step)])]));
  });
  const leave = () => { cursor.hidden = true; tip.hidden = true; };
  plot.addEventListener("pointerleave", leave);
}

function hoverMap(picture, map, run) {
  const at = (event) => {
    const box = picture.getBoundingClientRect();
    const row = Math.floor((event.clientY - box.top) * (800 / box.width) / map.row);
    const column = Math.floor(((event.clientX - box.left) / box.width) * map.columns.length);
    return map.rows[row] && map.columns[column] ? [map.rows[row], column] : null;
  };
  picture.addEventListener("pointermove", (event) => {
    const found = at(event);
    if (!found) { tip.hidden = true; return; }
    const [[uid, letters], column] = found;
    const letter = letters[column];
    const arm = letter === "." ? "not visited yet" : map.arms[letter.toUpperCase().charCodeAt(0) - 65];
    const [from, to] = map.columns[column];
    const since = letter >= "a" && letter <= "z" ? ", since an earlier step" : "";
    const rows = [["arm-" + arm, arm + since, ""]];
    const visits = (DATA.prompts.find((row) => row[0] === uid) || [null, null, []])[2][run] || [];
    for (const visit of visits.filter((one) => one[0] >= from && one[0] <= to && one[2])) {
      rows.push(["", "successes", visit[1] + " of " + visit[2]]);
    }
    told(event, uid + ", step " + (from === to ? from : from + " to " + to), rows);
  });
  picture.addEventListener("pointerleave", () => { tip.hidden = true; });
  picture.addEventListener("click", (event) => {
    const found = at(event);
    if (found) showPrompt(found[0][0]);
  });
}

function begin() {
  document.body.classList.add("scripted");
  document.body.append(tip);
  for (const button of document.querySelectorAll(".chip")) button.addEventListener("click", () => toggle(button));
  for (const plot of document.querySelectorAll(".plot")) hoverChart(plot);
  document.querySelectorAll("svg.map").forEach((picture) => {
    const run = Number((picture.closest("[class^=run]") || { className: "run0" }).className.slice(3));
    hoverMap(picture, DATA.maps[run], run);
  });
  document.querySelector(".tabs").addEventListener("click", (event) => {
    const link = event.target.closest("a");
    if (!link) return;
    event.preventDefault(); // the browser would scroll to the section
    go(link.getAttribute("href").slice(1));
  });
  addEventListener("hashchange", opened);
  addEventListener("popstate", opened);
  const [prompts, rollouts] = ["prompts", "rollouts"].map((name) => document.getElementById(name));
  if (prompts) buildPrompts(prompts); // a run that decides nothing has no such section
  if (rollouts) buildRollouts(rollouts);
  opened();
}
