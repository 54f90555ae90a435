/* Prompts and rollouts, looked up one by one. */

const KINDS = {
  "": "all", learned: "learned: more successes at the end", lost: "lost: fewer successes at the end",
  never: "never solved", always: "always solved", same: "as at the start", unseen: "never sampled", flips: "decision changed",
};
const BATCH = 28;
const armClass = (number) => {
  const arm = DATA.arms[number];
  return ["imitate", "explore", "blend", "off_policy", "skipped"].includes(arm) ? "arm-" + arm : "arm-other";
};
const several = DATA.runs.length > 1;
const selection = { prompt: null, rollout: null };

function option(values, changed, label) {
  const list = el("select", { "aria-label": label }, ...values.map(([value, text]) => el("option", { value }, text)));
  list.addEventListener("change", changed);
  return list;
}

function searchBox(label, changed) {
  const box = el("input", { type: "search", placeholder: label, "aria-label": label });
  box.addEventListener("input", changed);
  return box;
}

/* A prompt's successes over its visits, one line for each run; a disc is coloured by the decision. */

function learningCurve(visits, wide, high) {
  const [first, last] = DATA.steps;
  const x = (step) => 6 + (wide - 12) * (last > first ? (step - first) / (last - first) : 0.5);
  const y = (visit) => high - 6 - (high - 12) * (visit[2] ? visit[1] / visit[2] : 0);
  const parts = [shape("line", { x1: 0, x2: wide, y1: high - 6, y2: high - 6, class: "rule" })];
  visits.forEach((own, run) => {
    const sampled = own.filter((visit) => visit[2]);
    const d = sampled.map((visit, i) => (i ? "L" : "M") + x(visit[0]).toFixed(1) + " " + y(visit).toFixed(1)).join("");
    const group = shape("g", { class: "k" + DATA.colours[run] + " run" + run });
    if (sampled.length > 1) group.append(shape("path", { d, class: several ? "mean" : "spark" }));
    for (const visit of wide < 200 && visits.length > 2 ? [] : own) { // too many to be told apart
      const at = { cx: x(visit[0]).toFixed(1), cy: y(visit).toFixed(1), r: visit[2] ? 3 : 2 };
      group.append(shape("circle", { ...at, class: "dot " + armClass(visit[3]) }));
    }
    parts.push(group);
  });
  return shape("svg", { viewBox: `0 0 ${wide} ${high}`, role: "img", "aria-label": "successes over steps" }, ...parts);
}

const rateOf = (visit) => (visit ? visit[1] + "/" + visit[2] : "-");

function shortHistory(visits) {
  const sampled = visits.filter((visit) => visit[2]);
  if (!sampled.length) return "not sampled";
  return sampled.length === 1 ? rateOf(sampled[0]) : rateOf(sampled[0]) + " \u2192 " + rateOf(sampled[sampled.length - 1]);
}

const lastRate = (visits) => rateOf(visits.filter((visit) => visit[2]).pop());

const changes = (visits) => visits.filter((visit, i) => i && visit[3] !== visits[i - 1][3]).length;
const lastOf = (row) => Math.max(...row[2].map((visits) => {
  const sampled = visits.filter((visit) => visit[2]);
  return sampled.length ? sampled[sampled.length - 1][1] / sampled[sampled.length - 1][2] : -1;
}));
const gainOf = (row) => Math.max(...row[2].map((visits) => {
  const sampled = visits.filter((visit) => visit[2]);
  return sampled.length ? sampled[sampled.length - 1][1] / sampled[sampled.length - 1][2] - sampled[0][1] / sampled[0][2] : -2;
}));
const ORDERS = {
  name: ["by name", null],
  gain: ["largest gain first", (a, b) => gainOf(b) - gainOf(a) || lastOf(b) - lastOf(a)],
  loss: ["largest loss first", (a, b) => gainOf(a) - gainOf(b)],
  flips: ["most changes first", (a, b) => Math.max(...b[2].map(changes)) - Math.max(...a[2].map(changes))],
};

let drawPrompts = () => {};
let promptBox = null;

function buildPrompts(place) {
  if (!DATA.prompts.length) { place.append(el("p", { class: "note" }, "No decision is written, so no prompt is known.")); return; }
  let most = BATCH;
  const again = () => { most = BATCH; drawPrompts(); };
  promptBox = searchBox("name of a prompt", again);
  const kind = option(Object.entries(KINDS), again, "which prompts");
  const order = option(Object.entries(ORDERS).map(([value, [text]]) => [value, text]), again, "order");
  order.value = "gain";
  const count = el("span", { class: "note" });
  const detail = el("div", { id: "prompt" }), small = el("div", { class: "small" });
  const more = el("button", { type: "button", class: "more", click: () => { most += BATCH; drawPrompts(); } }, "show more");
  drawPrompts = () => {
    const rows = DATA.prompts.filter((row) => row[0].includes(promptBox.value) && (!kind.value ||
      (kind.value === "flips" ? row[2].some(changes) : row[1].includes(kind.value))));
    if (ORDERS[order.value][1]) rows.sort(ORDERS[order.value][1]);
    count.textContent = rows.length + " of " + DATA.prompts.length + " prompts";
    small.replaceChildren(...rows.slice(0, most).map((row) => el("button", {
      type: "button", class: "card-button", title: row[0], "aria-pressed": String(row[0] === selection.prompt), "data-uid": row[0],
      click: () => showPrompt(row[0]),
    }, el("span", { class: "name" }, row[0]), learningCurve(row[2], 140, 46),
      el("span", { class: "note" }, several ? row[2].map(lastRate).join(", ") : shortHistory(row[2][0])))));
    more.hidden = rows.length <= most;
  };
  const keys = el("div", { class: "legend" }, ...DATA.arms.map((arm, i) => el("span", null, el("i", { class: "key " + armClass(i) }), arm)));
  place.append(
    el("p", { class: "note" }, "Successes of a prompt's rollouts at each visit; the colour of a disc is what was decided." +
      (several ? " Below: those of the last visit, run by run." : "")),
    el("div", { class: "controls" }, promptBox, kind, order, count), keys, detail, small, more,
  );
  drawPrompts();
}

function showPrompt(uid) {
  const row = DATA.prompts.find((one) => one[0] === uid);
  if (!row) return;
  selection.prompt = uid;
  go("prompts");
  for (const button of document.querySelectorAll(".card-button")) {
    button.setAttribute("aria-pressed", String(button.dataset.uid === uid));
  }
  const own = DATA.rollouts.filter((one) => one.uid === uid && one.purpose === "train");
  const asked = own.length ? askedOf(own[0]) : null;
  const lines = row[2].flatMap((visits, run) => visits.map((visit) => el("tr", null,
    several ? el("td", null, DATA.runs[run]) : null, el("td", { class: "n" }, String(visit[0])),
    el("td", { class: "n" }, visit[2] ? rateOf(visit) : "not sampled"),
    el("td", null, el("i", { class: "key " + armClass(visit[3]) }), DATA.arms[visit[3]]))));
  const heads = [several ? "run" : null, "step", "successes", "decision"].filter((head) => head !== null);
  const link = own.length ? el("button", { type: "button", class: "more", click: () => rolloutsOf(uid) },
    `${own.length} rollout${own.length > 1 ? "s" : ""} of this prompt`) : el("p", { class: "note" }, "None of its rollouts is in this page.");
  document.getElementById("prompt").replaceChildren(el("div", { class: "detail" },
    el("h3", null, uid),
    el("div", { class: "beside" },
      el("div", null, learningCurve(row[2], 360, 130), el("p", { class: "note" }, `Steps ${DATA.steps[0]} to ${DATA.steps[1]}; from none of the rollouts, at the line, to all.`),
        el("div", { class: "wide visits" }, el("table", null, el("tr", null, ...heads.map((head) => el("th", null, head))), ...lines)), link),
      asked ? el("div", null, ...promptParts(asked), ...demonstration(asked, null)) : null)));
}

/* Rollouts */

const askedOf = (one) => DATA.asked[DATA.where[one.run + "/" + one.purpose + "/" + one.uid]] || null;

let rolloutSearch = null, drawRollouts = () => {}, filters = {};

function buildRollouts(place) {
  if (!DATA.rollouts.length) return;
  const again = () => drawRollouts();
  rolloutSearch = searchBox("prompt or text", again);
  const steps = [...new Set(DATA.rollouts.map((one) => one.step))].sort((a, b) => a - b);
  filters = {
    step: option([["", "every step"], ...steps.map((step) => [step, "step " + step])], again, "step"),
    ok: option([["", "every outcome"], ["yes", "successes"], ["no", "failures"], ["invalid", "not valid"]], again, "outcome"),
    purpose: option([["", "training and validation"], ["train", "training"], ["validate", "validation"]], again, "purpose"),
    run: several ? option([["", "every run"], ...DATA.runs.map((name, i) => [i, name])], again, "run") : null,
  };
  if (!DATA.rollouts.some((one) => one.purpose !== "train")) filters.purpose = null;
  const list = el("div", { class: "list" }), detail = el("div", { id: "rollout" }), count = el("span", { class: "note" });
  drawRollouts = () => {
    const found = DATA.rollouts.filter(kept).reverse(); // the newest first
    count.textContent = found.length + " of " + DATA.rollouts.length;
    list.replaceChildren(...found.map((one) => el("button", {
      type: "button", "aria-pressed": String(one === selection.rollout), click: (event) => showRollout(one, event.currentTarget),
    },
      el("span", { class: "name", title: one.uid }, one.uid),
      el("span", { class: "mark " + (one.ok ? "good" : one.ok === false ? "error" : "") }, brief(one.total)),
      el("span", { class: "note" }, (one.purpose === "train" ? "step " : "validation, step ") + one.step + ", sample " + one.sample +
        (several ? ", " + DATA.runs[one.run] : "")))));
    if (!found.includes(selection.rollout)) {
      if (found.length) showRollout(found[0], list.firstChild);
      else detail.replaceChildren(el("p", { class: "note" }, "No rollout is like that."));
    }
  };
  place.append(el("div", { class: "controls" }, rolloutSearch, ...Object.values(filters), count),
    el("div", { class: "reader" }, list, detail));
  drawRollouts();
}

function kept(one) {
  const words = rolloutSearch.value, value = (name) => (filters[name] ? filters[name].value : "");
  const outcome = { yes: one.ok === true, no: one.ok === false && one.valid, invalid: !one.valid }[value("ok")];
  return (!words || one.uid.includes(words) || one.turns.some((turn) => turn.text.includes(words))) &&
    (!value("step") || one.step === Number(value("step"))) && (!value("ok") || outcome) &&
    (!value("purpose") || one.purpose === value("purpose")) && (value("run") === "" || one.run === Number(value("run")));
}

function rolloutsOf(uid) {
  for (const list of Object.values(filters)) if (list) list.value = "";
  rolloutSearch.value = uid;
  selection.rollout = null;
  drawRollouts();
  go("rollouts");
}

/* How a rollout was trained on: its colour, and the words for it. */

function routeOf(one) {
  if (one.purpose !== "train") return ["untrained", "validation, not trained on"];
  if (!one.valid) return ["untrained", "not valid, not trained on"];
  if (!one.route) return ["untrained", "no decision is written for it"];
  const [arm, on, removed, n, k] = one.route;
  const said = `${k} of ${n} rollouts of the prompt succeeded: ${arm}`;
  if (!on || removed >= n || arm === "skipped") return ["untrained", said + "; the rollouts are not trained on"];
  const kind = armClass(DATA.arms.indexOf(arm));
  return removed ? [kind, said + `; ${removed} of the rollouts were left out`] : [kind, said];
}

function ribbon(one, kind) {
  const classes = { prompt: "of-prompt", prefix: "of-prefix", turn: kind, observation: "of-observation" };
  const words = {
    prompt: "prompt", prefix: "start of the demonstration, given",
    turn: kind !== "untrained" ? "sampled and trained on" : one.purpose === "train" && one.valid && !one.route
      ? "sampled, whether trained on is not known" : "sampled, not trained on",
    observation: "observation, not trained on",
  };
  const sums = {};
  for (const [name, count] of one.spans) sums[name] = (sums[name] || 0) + count;
  return [
    el("div", { class: "ribbon" }, ...one.spans.map(([name, count]) =>
      el("i", { class: classes[name] || "untrained", style: `flex: ${count} 0 0`, title: `${words[name] || name}: ${count} tokens` }))),
    el("div", { class: "legend" }, ...Object.entries(sums).map(([name, count]) =>
      el("span", null, el("i", { class: "key " + (classes[name] || "untrained") }), `${words[name] || name}: ${count} tokens`))),
  ];
}

function promptParts(asked) {
  return [
    ...asked.prompt.map(([role, text]) => el("div", { class: "text" }, el("div", { class: "role" }, role), text)),
    asked.images.length ? el("div", { class: "pictures" }, ...asked.images.map((src) => el("img", { src, alt: "image of the prompt" }))) : null,
    asked.golds.length ? el("p", { class: "note" }, "right: " + asked.golds.join(", or ")) : null,
  ];
}

function demonstration(asked, one) {
  if (!asked.target.length) return [];
  const route = one && one.route, shown = route && route[5];
  const said = !route ? "demonstration" : shown ? "demonstration, trained on in this step" : "demonstration, not used in this step";
  return [el("h3", null, said), ...asked.target.map(([role, text]) =>
    el("div", { class: "text said " + (shown ? "arm-imitate" : "") }, el("div", { class: "role" }, role), text))];
}

function turnParts(turn, number, kind, many) {
  const parts = [el("div", { class: "text said " + kind },
    el("div", { class: "role" }, (many ? `turn ${number + 1}, ` : "") + `${turn.tokens} tokens`), turn.text)];
  if (turn.action || turn.outcome) {
    const pages = turn.pages.length ? ": " + turn.pages.join(", ") : "";
    const outcome = turn.outcome ? ` \u2192 ${turn.outcome}${pages}` : "";
    parts.push(el("p", { class: "seen" }, `${turn.action || "no action"} ${turn.body}${outcome}`));
  }
  return parts;
}

function scores(one) {
  const entries = Object.entries(one.components);
  if (!entries.length) return [];
  const most = Math.max(1, ...entries.map(([, score]) => Math.abs(score || 0)));
  return [el("h3", null, "reward"), el("table", null, ...entries.map(([name, score]) => el("tr", null,
    el("td", null, name), el("td", { class: "n" }, brief(score)),
    el("td", null, el("span", { class: "bar", style: `width: ${(80 * Math.max(0, score || 0)) / most}px` })))),
  el("tr", null, el("td", null, el("b", null, "in all")), el("td", { class: "n" }, el("b", null, brief(one.total))), el("td")))];
}

function showRollout(one, button) {
  selection.rollout = one;
  for (const other of document.querySelectorAll(".list button")) other.setAttribute("aria-pressed", String(other === button));
  const [kind, route] = routeOf(one), asked = askedOf(one);
  const regions = one.images.filter(([page]) => page).map(([page, region]) => `${page} [${region.join(", ")}]`);
  const facts = [
    one.ok === null ? null : one.ok ? "a success" : "no success", "ended as " + one.finish,
    one.versions.length ? "sampled with the weights of step " + one.versions.join(", ") : null,
  ].filter(Boolean);
  document.getElementById("rollout").replaceChildren(el("div", { class: "detail" }, ...[
    el("h3", null, `${several ? DATA.runs[one.run] + ", " : ""}step ${one.step}, ${one.uid}, sample ${one.sample}`),
    el("p", { class: "note" }, [...facts, route].join("; ") + "."),
    ...ribbon(one, kind),
    ...(asked ? [el("h3", null, "prompt"), ...promptParts(asked)] : []),
    el("h3", null, "response"),
    ...one.turns.flatMap((turn, i) => turnParts(turn, i, kind, one.turns.length > 1)),
    one.turns.length ? null : el("p", { class: "note" }, "Nothing was sampled."),
    one.answer === null ? null : el("div", { class: "text" }, el("div", { class: "role" }, "answer of the frozen generator"), one.answer),
    regions.length ? el("p", { class: "seen" }, "images that it saw: " + regions.join("; ")) : null,
    ...scores(one),
    ...(asked ? demonstration(asked, one) : []),
  ].filter((part) => part !== null)));
}

begin();
