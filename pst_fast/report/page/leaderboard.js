// The table of attacks (rows) by defenses (columns). `state` holds the metric that is shown and what the table is
// sorted by; `act` has what a click does. Attacks and defenses go by their place in the document.

const WORST = "worst";

const cellOf = (doc, attack, defense) => doc.cells[attack * doc.defenses.length + defense];
const isClean = (doc, attack) => doc.attacks[attack] === doc.no_attack;
const attackWords = (doc, attack) => (isClean(doc, attack) ? "clean data" : doc.attacks[attack]);

// Missing values go last, whichever way; what is equal keeps the order of the run.
function ordered(places, valueOf, sort) {
  if (!sort) return places;
  return [...places].sort((one, other) => {
    const [a, b] = [valueOf(one), valueOf(other)];
    if (a == null || b == null) return (a == null) - (b == null);
    return sort.descending ? b - a : a - b;
  });
}

function leaderboard(doc, state, act) {
  const attacks = doc.attacks.map((_, place) => place).filter((place) => !isClean(doc, place));
  const clean = doc.attacks.map((_, place) => place).filter((place) => isClean(doc, place));
  const worstOf = (defense) => {
    const place = doc.attacks.indexOf(doc.worst[defense].attack);
    return place < 0 ? null : place;
  };
  const valueOf = (attack, defense) =>
    attack == null ? null : cellOf(doc, attack, defense).figures?.[state.metric.key][0];
  const rowValue = (row, defense) => valueOf(row === WORST ? worstOf(defense) : row, defense);

  const columns = ordered(doc.defenses.map((_, place) => place),
    (defense) => rowValue(state.columns?.by, defense), state.columns);
  const rows = ordered(attacks, (attack) => valueOf(attack, state.rows?.by), state.rows);

  const header = (scope, place, words, sort, onclick) => {
    const direction = sort?.by === place ? (sort.descending ? "descending" : "ascending") : "none";
    return h("th", { scope, "aria-sort": direction },
      h("button", { type: "button", class: "sort", "data-key": `${scope}-${place}`, onclick }, words));
  };
  const rowHeader = (place, words) => header("row", place, words, state.columns, () => act.sortColumns(place));
  const line = (attack) => {
    const met = columns.map((defense) => cellOf(doc, attack, defense).figures?.last[0]).filter((mean) => mean != null);
    const best = met.length > 1 ? Math.max(...met) : null;
    return h("tr", {}, rowHeader(attack, attackWords(doc, attack)), columns.map((defense) => tableCell(doc, state, act,
      { attack, defense, best, worst: worstOf(defense) === attack })));
  };

  const table = h("table", { class: "board", onkeydown: moveFocus, onfocusin: rove },
    h("thead", {},
      h("tr", {},
        h("th", { class: "corner" }, h("span", {}, "attack"), h("span", {}, "defense")),
        columns.map((defense) => header("col", defense, doc.defenses[defense], state.rows, () => act.sortRows(defense)))),
      attacks.length > 0 && h("tr", { class: "worst-row" }, rowHeader(WORST, "worst attack"),
        columns.map((defense) => worstCell(doc, state, act, worstOf(defense), defense)))),
    h("tbody", {}, rows.map(line)),
    h("tfoot", {}, clean.map(line), h("tr", { class: "baseline" },
      h("th", { scope: "row" }, "clean baseline"),
      h("td", { colspan: columns.length }, h("button", { type: "button", class: "open", tabindex: -1, "data-key": "baseline", onclick: act.openBaseline },
        h("b", {}, doc.baseline.last[1]), " % by erm on the clean data, last epoch")))));
  table.querySelector("td .open")?.setAttribute("tabindex", 0);
  return h("div", { class: "scroll", tabindex: -1 }, table);
}

function tableCell(doc, state, act, { attack, defense, best, worst }) {
  const cell = cellOf(doc, attack, defense);
  const { figures, failures, runs } = cell;
  const missing = figures ? `${runs.length} of ${doc.seeds.length} seeds` : "not run";
  const note = failures.length > 0
    ? h("span", { class: "failed" }, figures ? `${failures.length} of ${doc.seeds.length} seeds failed` : "failed")
    : runs.length < doc.seeds.length && h("span", { class: "missing" }, missing);
  const isBest = figures && figures.last[0] === best;
  return h("td", { class: [isBest && "best", worst && "worst"].filter(Boolean).join(" ") || null, ...tint(state, figures) },
    h("button", { type: "button", class: "open", tabindex: -1, "data-key": `cell-${attack}-${defense}`, onclick: () => act.open(attack, defense) },
      figures && figureWords(state.metric, figures),
      note,
      isBest && h("span", { class: "hidden" }, "best defense of this attack"),
      worst && h("span", { class: "mark" }, h("span", { "aria-hidden": "true" }, "\u25bc"), h("span", { class: "hidden" }, "worst attack of this defense"))));
}

function worstCell(doc, state, act, attack, defense) {
  const { met, of } = doc.worst[defense];
  if (attack == null) return h("td", {}, h("span", { class: "missing" }, "none finished"));
  const { figures } = cellOf(doc, attack, defense);
  return h("td", tint(state, figures),
    h("button", { type: "button", class: "open", tabindex: -1, "data-key": `worst-${defense}`, onclick: () => act.open(attack, defense) },
      figureWords(state.metric, figures),
      h("span", { class: "name" }, doc.attacks[attack]),
      met < of && h("span", { class: "missing" }, `met ${met} of ${of}`)));
}

// The mean and its spread; under an accuracy the share of clean accuracy that it comes to.
function figureWords(metric, figures) {
  const [mean, spread] = figures[metric.key][1].split(" \u00b1 ");
  const share = figures.recovered[0];
  return [
    h("span", { class: "mean" }, mean),
    spread && h("span", { class: "spread" }, ` \u00b1\u00a0${spread}`),
    metric.key === "last" && share != null && h("span", { class: "share" }, `${fixed(100 * share, 0)} %`),
  ];
}

function tint(state, figures) {
  const share = figures?.recovered[0];
  return state.metric.share && share != null ? { "--share": Math.round(100 * Math.min(share, 1)) } : {};
}

// Arrow keys go from cell to cell, Tab enters the table's cells once.
function moveFocus(event) {
  const [down, right] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] ?? [];
  const from = event.target.closest("td");
  if (down === undefined || !from) return;
  const lines = [...event.currentTarget.rows].filter((row) => row.querySelector(".open"));
  const row = lines[lines.indexOf(from.parentElement) + down];
  const to = row?.cells[Math.min(from.cellIndex + right, row.cells.length - 1)]?.querySelector(".open");
  event.preventDefault();
  to?.focus();
}

function rove(event) {
  if (!event.target.matches(".open")) return;
  for (const button of event.currentTarget.querySelectorAll(".open")) button.tabIndex = button === event.target ? 0 : -1;
}
