// What a cell of the table can show. `share`: an accuracy, of which more is better.

const METRICS = [
  { key: "last", words: "last epoch", unit: "test accuracy in %", share: true },
  { key: "recovered", words: "recovered", unit: "last epoch in % of the clean baseline", share: true },
  { key: "best", words: "best epoch", unit: "test accuracy in %, of an epoch chosen with the test labels: an oracle", share: true },
  { key: "seconds", words: "train s", unit: "seconds of the training run" },
  { key: "craft_seconds", words: "craft s", unit: "seconds of crafting, shared by the defenses of an attack" },
  { key: "images_per_second", words: "images/s", unit: "training images a second" },
];

const fixed = (value, digits) => (value == null ? "\u2013" : value.toFixed(digits));
const percent = (value) => (value == null ? "\u2013" : fixed(100 * value, 2));
const several = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
