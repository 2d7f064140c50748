// A line chart over epochs, drawn at the width that it is shown at, so that its letters keep their size.

const MARGIN = { left: 54, right: 14, top: 20, bottom: 34 };
const GLYPHS = { rollback: "\u25bc", view: "\u25c6" };

// Round numbers on a logarithmic axis, as many as fit.
function logTicks(low, high, most = 7) {
  const choices = [[1, 1.5, 2, 3, 4, 5, 7], [1, 2, 5], [1]].map((factors) => {
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
      ticks.push(...factors.map((factor) => Number(`${factor}e${power}`)));
    }
    return ticks.filter((tick) => tick >= low && tick <= high);
  });
  return choices.find((ticks) => ticks.length <= most) ?? choices.at(-1);
}

function epochTicks(first, last, most = 8) {
  const step = [1, 2, 5, 10, 20, 50, 100, 200, 500].find((width) => (last - first) / width <= most) ?? 1000;
  const ticks = [];
  for (let tick = Math.ceil(first / step) * step; tick <= last; tick += step) ticks.push(tick);
  return ticks;
}

// Events that lie too close for a number each share one: their first's place and kind.
function bundled(marks, toX) {
  const bundles = [];
  for (const { epoch, kind, number } of marks) {
    const at = toX(epoch);
    const last = bundles.at(-1);
    if (last && at - last.at < 26) last.numbers.push(number);
    else bundles.push({ at, kind, numbers: [number] });
  }
  return bundles;
}

// `series`: { name, tint, epochs, values, dashed }. `y`: { low, high, log, ticks, format, words }.
// `marks`: { epoch, kind, number }. Returns the chart with its legend, and a line that reads values off it.
function lineChart({ title, width, height = 230, x, y, series, marks = [] }) {
  const right = width - MARGIN.right;
  const bottom = height - MARGIN.bottom;
  const scale = y.log ? Math.log : (value) => value;
  const toX = (epoch) => MARGIN.left + ((epoch - x.low) / (x.high - x.low)) * (right - MARGIN.left);
  const toY = (value) => bottom - ((scale(value) - scale(y.low)) / (scale(y.high) - scale(y.low))) * (bottom - MARGIN.top);
  const usable = (value) => value != null && (!y.log || value > 0);

  const path = ({ epochs, values }) => {
    let pen = "M";
    return epochs.map((epoch, i) => {
      if (!usable(values[i])) { pen = "M"; return ""; }
      const point = `${pen}${toX(epoch).toFixed(1)} ${toY(values[i]).toFixed(1)}`;
      pen = "L";
      return point;
    }).join("");
  };
  const grid = y.ticks.map((tick) => s("g", {},
    s("line", { class: "grid", x1: MARGIN.left, x2: right, y1: toY(tick), y2: toY(tick) }),
    s("text", { x: MARGIN.left - 6, y: toY(tick) + 4, "text-anchor": "end" }, y.format(tick))));
  const feet = epochTicks(x.low, x.high).map((tick) =>
    s("text", { x: toX(tick), y: bottom + 15, "text-anchor": "middle" }, String(tick)));
  const flags = bundled(marks, toX).map(({ at, kind, numbers }) => s("g", { class: "event", "data-kind": kind },
    s("line", { x1: at, x2: at, y1: MARGIN.top, y2: bottom }),
    s("text", { x: at, y: MARGIN.top - 6, "text-anchor": "middle" },
      `${GLYPHS[kind] ?? "\u25cf"}${numbers[0]}${numbers.length > 1 ? `\u2013${numbers.at(-1)}` : ""}`)));
  const lines = series.map((one) => s("g", { class: "series", "--tint": one.tint },
    s("path", { d: path(one), class: one.dashed ? "dashed" : null }),
    !one.dashed && one.epochs.length <= 40 && one.epochs.map((epoch, i) => usable(one.values[i]) &&
      s("circle", { cx: toX(epoch), cy: toY(one.values[i]), r: 2 }))));
  const cursor = s("line", { class: "cursor", y1: MARGIN.top, y2: bottom, visibility: "hidden" });
  const reading = h("output", { class: "reading" }, "\u00a0");

  const epochs = [...new Set(series.flatMap((one) => one.epochs))].sort((a, b) => a - b);
  let place = epochs.length - 1;
  const read = (to) => {
    place = Math.max(0, Math.min(to, epochs.length - 1));
    for (const end of ["x1", "x2"]) cursor.setAttribute(end, toX(epochs[place]));
    cursor.setAttribute("visibility", "visible");
    const parts = series.map((one) => [one.name, one.values[one.epochs.indexOf(epochs[place])]])
      .filter(([, value]) => value != null).map(([name, value]) => `${name}\u00a0${y.read(value)}`);
    reading.textContent = `epoch ${epochs[place]}: ${parts.join(", ")}`;
  };
  const follow = (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    const at = ((event.clientX - box.left) * width) / box.width;
    const epoch = x.low + ((at - MARGIN.left) / (right - MARGIN.left)) * (x.high - x.low);
    read(epochs.reduce((best, at, i) => (Math.abs(at - epoch) < Math.abs(epochs[best] - epoch) ? i : best), 0));
  };
  const step = (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by) { event.preventDefault(); read(place + by); }
  };
  const ends = series.map((one) => `${one.name} ${y.read(one.values.at(-1))}`).join(", ");
  return h("figure", { class: "chart" },
    h("figcaption", {}, title),
    s("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", tabindex: 0, onpointermove: follow, onpointerdown: follow, onkeydown: step, onfocus: () => read(place),
      "aria-label": `${title}. At the end: ${ends}. Arrow keys read values.` },
    grid, feet, s("text", { x: right, y: height - 3, "text-anchor": "end", class: "axis" }, "epoch"),
    s("text", { x: MARGIN.left, y: height - 3, class: "axis" }, y.words), flags, lines, cursor),
    reading,
    h("ul", { class: "legend" }, series.map((one) => h("li", { "--tint": one.tint, class: one.dashed ? "dashed" : null }, one.name))));
}

// How far each depth's learning rate is lowered, epoch by epoch, on the same axis as a chart of that width.
function levelStrip({ width, x, stages, epochs, levels }) {
  const height = 13;
  const right = width - MARGIN.right;
  const toX = (epoch) => MARGIN.left + ((epoch - x.low) / (x.high - x.low)) * (right - MARGIN.left);
  const most = Math.max(3, ...levels.flat());
  return h("figure", { class: "chart strip" },
    s("svg", { width, height: height * stages.length, viewBox: `0 0 ${width} ${height * stages.length}`, role: "img", "aria-label": "Slowed depths, by how often the learning rate was lowered" },
      stages.map((name, row) => s("g", {},
        s("text", { x: MARGIN.left - 6, y: row * height + 10, "text-anchor": "end" }, name),
        epochs.map((epoch, i) => s("rect", {
          x: toX(Math.max(x.low, (epochs[i - 1] ?? epoch - 1) + 0.5)), y: row * height + 1, height: height - 2,
          width: toX(epoch + 0.5) - toX(Math.max(x.low, (epochs[i - 1] ?? epoch - 1) + 0.5)), "fill-opacity": 0.06 + (0.94 * levels[row][i]) / most,
        }))))),
    h("figcaption", { class: "note" }, "slowed depths; the stronger the shade, the more often"));
}
