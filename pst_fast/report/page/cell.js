// What a click on a cell shows: its figures seed by seed, its curves, and what the defense did.

const TINTS = 6;
const tintOf = (kind, place) => `var(--${kind}-${place % TINTS})`;

function cellPanel(doc, cell, width, seed, onseed) {
  const shown = cell.runs.find((run) => run.seed === seed) ?? cell.runs[0];
  return [
    cell.failures?.map(({ seed: failed, error }) => h("p", { class: "failed" }, `Seed ${failed}: ${error}`)),
    cell.runs.length === 0 && !cell.failures?.length && h("p", { class: "missing" }, "This cell was not run, or is not finished."),
    cell.runs.length > 0 && [
      runTable(cell.runs, cell === doc.baseline),
      h("div", { class: "charts" },
        accuracyChart(doc, cell, width),
        shown.acm.length > 0
          ? h("div", {},
            acmChart(doc, cell, shown, width),
            cell.runs.length > 1 && choice("seed", "seed", cell.runs.map((run) => [run.seed, String(run.seed)]), shown.seed, onseed))
          : h("p", { class: "note" }, "No ACM was measured in this run.")),
      eventList(shown, cell.runs.length > 1 ? `seed ${shown.seed}` : ""),
      thinned(cell),
    ],
    doc.pictures.attacks.filter(({ attack }) => attack === cell.attack).map((one) => samples(doc, one)),
  ];
}

function runTable(runs, isBaseline) {
  const accuracy = [
    ["seed", (run) => String(run.seed)],
    ["last epoch", (run) => percent(run.last)],
  ];
  const columns = isBaseline ? accuracy : [
    ...accuracy,
    ["clean", (run) => percent(run.clean)],
    ["recovered", (run) => (run.clean > 0 ? percent(run.last / run.clean) : "\u2013")],
    ["best epoch", (run) => percent(run.best)],
    ["train s", (run) => fixed(run.seconds, 0)],
    ["craft s", (run) => fixed(run.craft_seconds, 0)],
    ["images/s", (run) => fixed(run.images_per_second, 0)],
    ["peak memory", (run) => `${fixed(run.peak_memory_bytes / 2 ** 20, 0)} MiB`],
  ];
  return h("div", { class: "scroll" }, h("table", { class: "runs" },
    h("thead", {}, h("tr", {}, columns.map(([name]) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, runs.map((run) => h("tr", {}, columns.map(([, words]) => h("td", {}, words(run))))))));
}

function accuracyChart(doc, cell, width) {
  const series = cell.runs.map((run, place) => ({ name: `seed ${run.seed}`, tint: tintOf("seed", place), epochs: run.epochs, values: run.accuracy }));
  if (cell !== doc.baseline) series.push({ name: "erm, clean data", tint: "var(--muted)", dashed: true, ...meanCurve(doc.baseline.runs) });
  const y = { low: 0, high: 1, ticks: [0, 0.2, 0.4, 0.6, 0.8, 1], format: (value) => `${Math.round(100 * value)} %`, read: percent, words: "test accuracy" };
  return lineChart({ title: "Test accuracy by epoch", width, x: epochRange(cell.runs), y, series });
}

function acmChart(doc, cell, run, width) {
  const values = cell.runs.flatMap((one) => one.acm.flat()).filter((value) => value > 0);
  const [low, high] = values.length ? [Math.min(...values) / 1.3, Math.max(...values) * 1.3] : [0.1, 10];
  const x = epochRange(cell.runs);
  const series = doc.stages.map((name, place) => ({ name, tint: tintOf("stage", place), epochs: run.epochs, values: run.acm[place] }));
  const y = { low, high, log: true, ticks: logTicks(low, high), format: String, read: (value) => (value == null ? "\u2013" : String(value)), words: "ACM, logarithmic" };
  const marks = run.events.map(({ epoch, kind }, place) => ({ epoch, kind, number: place + 1 }));
  return [
    lineChart({ title: `ACM by depth, seed ${run.seed}`, width, x, y, series, marks }),
    run.levels.length > 0 && levelStrip({ width, x, stages: doc.stages, epochs: run.epochs, levels: run.levels }),
  ];
}

function eventList(run, seed) {
  if (run.events.length === 0) return h("p", { class: "note" }, `The defense reported no events${seed && ` with ${seed}`}.`);
  return h("section", { class: "events" },
    h("h3", {}, `Events${seed && `, ${seed}`}`),
    h("ol", {}, run.events.map((event) => h("li", {},
      h("span", { class: "when" }, `epoch ${event.epoch}`), " ", h("b", {}, event.kind), " ",
      event.stages.length > 0 && h("span", { class: "stages" }, event.stages.join(", ")), " ",
      h("span", { class: "words" }, event.words)))),
    run.more_events > 0 && h("p", { class: "note" }, `${run.more_events} more events are in the run's metrics.jsonl.`));
}

function thinned(cell) {
  const step = Math.max(...cell.runs.map((run) => run.step));
  return step > 1 && h("p", { class: "note" }, `Curves show one epoch in ${step}, and the last; metrics.jsonl has all.`);
}

function epochRange(runs) {
  const epochs = runs.flatMap((run) => [...run.epochs.map((epoch) => epoch - 0.5), run.epochs.at(-1) + 0.5, ...run.events.map((event) => event.epoch)]);
  return { low: Math.min(...epochs), high: Math.max(...epochs) };
}

// The mean over the runs, at the epochs that all of them have.
function meanCurve(runs) {
  const epochs = runs[0].epochs.filter((epoch) => runs.every((run) => run.epochs.includes(epoch)));
  const values = epochs.map((epoch) => runs.reduce((sum, run) => sum + run.accuracy[run.epochs.indexOf(epoch)], 0) / runs.length);
  return { epochs, values };
}
