// The page: a document in, sections out. What is open is in the address (#attack/defense), so that it can be linked to.

const doc = JSON.parse(document.getElementById("document").textContent);
const state = { metric: METRICS[0], rows: null, columns: null, seed: null };
const BASELINE = "#baseline";

// Largest first, smallest first, the order of the run.
const turned = (sort, by) => (sort?.by !== by ? { by, descending: true } : sort.descending ? { by, descending: false } : null);

const act = {
  sortRows: (defense) => update({ rows: turned(state.rows, defense) }),
  sortColumns: (attack) => update({ columns: turned(state.columns, attack) }),
  show: (metric) => update({ metric }),
  open: (attack, defense) => { location.hash = addressOf(attack, defense); },
  openBaseline: () => { location.hash = BASELINE; },
};

const addressOf = (attack, defense) => `#${[doc.attacks[attack], doc.defenses[defense]].map(encodeURIComponent).join("/")}`;

function opened() {
  if (location.hash === BASELINE) return { title: "clean baseline: erm on the clean data", cell: doc.baseline };
  for (const attack of doc.attacks.keys()) {
    for (const defense of doc.defenses.keys()) {
      if (location.hash === addressOf(attack, defense)) {
        return { title: `${attackWords(doc, attack)} met by ${doc.defenses[defense]}`, cell: cellOf(doc, attack, defense) };
      }
    }
  }
  return null;
}

const board = h("div");
const dialog = h("dialog", { "aria-labelledby": "cell-title", onclose: () => history.replaceState(null, "", "#"), onclick: (event) => event.target === dialog && dialog.close() });

function update(changes) {
  Object.assign(state, changes);
  const key = document.activeElement?.dataset?.key;
  const scrolled = board.querySelector(".scroll")?.scrollLeft ?? 0;
  board.replaceChildren(leaderboard(doc, state, act), h("p", { class: "note" }, legend(state.metric)));
  board.querySelector(".scroll").scrollLeft = scrolled;
  if (key) board.querySelector(`[data-key="${key}"]`)?.focus();
}

function legend(metric) {
  return [
    `Shown: ${metric.unit}; ${doc.seeds.length > 1 ? `mean \u00b1 standard deviation over ${doc.seeds.length} seeds` : "one seed"}. `,
    metric.key === "last" && "Below it the share of the clean baseline, seed by seed. ",
    metric.share && [h("b", {}, "Bold"), ": best defense of an attack; \u25bc: worst attack of a defense, both by the last epoch; colour: share of the clean baseline. "],
    "A click on a header sorts, a click on a cell shows its curves.",
  ];
}

function showOpened() {
  const found = opened();
  if (!found) { dialog.close(); return; }
  const { title, cell } = found;
  const body = h("div");
  const draw = (seed) => {
    const room = Math.min(dialog.clientWidth, innerWidth) - 40;
    const width = Math.max(280, room > 860 ? Math.min(520, (room - 24) / 2) : Math.min(600, room));
    body.replaceChildren(...cellPanel(doc, cell, width, seed, choose).flat(Infinity).filter(Boolean));
  };
  const choose = (seed) => {
    draw(seed);
    body.querySelector("input:checked").focus({ preventScroll: true });
  };
  dialog.replaceChildren(h("header", {}, h("h2", { id: "cell-title" }, title),
    h("button", { type: "button", class: "close", onclick: () => dialog.close() }, "close")), body);
  if (!dialog.open) dialog.showModal();
  draw(cell.runs[0]?.seed);
}

function headline() {
  const whole = doc.worst.filter(({ met, of }) => met === of && of > 0);
  if (whole.length < 2) return null;
  const figuresOf = ({ attack, defense }) => cellOf(doc, doc.attacks.indexOf(attack), doc.defenses.indexOf(defense)).figures;
  const highest = Math.max(...whole.map((one) => figuresOf(one).last[0]));
  const [best, ...tied] = whole.filter((one) => figuresOf(one).last[0] === highest);
  if (tied.length > 0) return null;
  const figures = figuresOf(best);
  return h("p", { class: "headline" }, "Best worst case: ", h("b", {}, best.defense), `, ${figures.last[1]} % under `, h("b", {}, best.attack),
    ` (${figures.recovered[1]} % of the clean baseline)`,
    whole.length < doc.worst.length && `, of the ${whole.length} defenses that met every attack`, ".");
}

function provenance() {
  const { revision } = doc.environment;
  const command = h("pre", { id: "command", tabindex: 0 }, [
    `# pst_fast ${doc.environment.pst_fast}${revision ? `, revision ${revision}` : ""}`, doc.command].join("\n"));
  const button = h("button", { type: "button", onclick: () => copyText(command, button) }, "copy");
  return h("section", { id: "provenance" },
    h("h2", {}, "How it was made"),
    h("div", { class: "command" }, command, button),
    h("dl", {}, Object.entries(doc.environment).filter(([, value]) => value != null).map(([name, value]) =>
      h("div", {}, h("dt", {}, name), h("dd", {}, String(value))))));
}

document.getElementById("page").append(...[
  h("header", {}, h("h1", {}, doc.subject),
    h("p", { class: "note" }, "Networks trained on images with perturbations that make them \u201cunlearnable\u201d, and how much of the clean accuracy each way of training gets back."),
    headline()),
  h("section", { id: "leaderboard" },
    h("h2", {}, "Attacks by defenses"),
    choice("show", "metric", METRICS.map((metric) => [metric.key, metric.words]), state.metric.key,
      (key) => act.show(METRICS.find((metric) => metric.key === key))),
    board),
  gallery(doc),
  provenance(),
  dialog,
].filter(Boolean));
update({});
showOpened();
addEventListener("hashchange", showOpened);
