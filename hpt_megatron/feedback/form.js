"use strict";
// Keeps what is chosen (also over a reload, where the browser allows it), and shows it as the lines of a file.
const told = JSON.parse(document.getElementById("data").textContent);
const place = "human-eval/" + told.sheet;
let held = {};
try { held = JSON.parse(localStorage.getItem(place)) || {}; } catch (_) { held = {}; }

function show() {
  const lines = told.items.filter((item) => held[item]).map((item) => JSON.stringify({item: item, ...held[item]}));
  const text = lines.map((line) => line + "\n").join("");
  document.getElementById("done").textContent = String(lines.length);
  document.getElementById("result").value = text;
  document.getElementById("save").href = "data:application/jsonl;charset=utf-8," + encodeURIComponent(text);
  try { localStorage.setItem(place, JSON.stringify(held)); } catch (_) { /* not kept over a reload */ }
}

for (const input of document.querySelectorAll("input")) {
  const {item, field} = input.dataset;
  const before = (held[item] || {})[field];
  if (input.type === "radio") { input.checked = before === input.value; } else { input.value = before || ""; }
  input.addEventListener("input", () => {
    held[item] = {...held[item], [field]: input.value};
    show();
  });
}
show();
