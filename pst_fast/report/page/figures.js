// What a cell of the table can show. `share`: an accuracy, of which more is better.

const METRICS = [
  { key: "last", words: "last epoch", unit: "test accuracy in %", scale: 100, digits: 1, share: true },
  { key: "recovered", words: "recovered", unit: "last epoch in % of the clean baseline", scale: 100, digits: 1, share: true },
  { key: "best", words: "best epoch", unit: "test accuracy in %, of an epoch chosen with the test labels: an oracle", scale: 100, digits: 1, share: true },
  { key: "seconds", words: "train s", unit: "seconds of the training run", scale: 1, digits: 0 },
  { key: "craft_seconds", words: "craft s", unit: "seconds of crafting, shared by the defenses of an attack", scale: 1, digits: 0 },
  { key: "images_per_second", words: "images/s", unit: "training images a second", scale: 1, digits: 0 },
];

const fixed = (value, digits) => (value == null ? "\u2013" : value.toFixed(digits));
const percent = (value) => (value == null ? "\u2013" : fixed(100 * value, 1));

// "53.6 \u00b1 0.4", or the mean alone where there is one seed.
function meanAndSpread([mean, spread], scale = 100, digits = 1) {
  return mean == null || spread == null
    ? fixed(mean == null ? null : mean * scale, digits)
    : `${fixed(mean * scale, digits)} \u00b1 ${fixed(spread * scale, digits)}`;
}

const several = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
