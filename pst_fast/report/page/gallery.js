// The samples of each attack: clean, poisoned, and what was added.

function gallery(doc) {
  const { attacks, side, cropped_from: from, amplification } = doc.pictures;
  if (attacks.length === 0) return null;
  const cut = from ? ` The middle ${side} of ${from} pixels a side are shown, unscaled.` : "";
  return h("section", { id: "pictures" },
    h("h2", {}, "Perturbations"),
    h("p", { class: "note" }, `Training images as they are, poisoned (seed ${attacks[0].seed}), and what was added, ${amplification} times as large around grey. Beside the name: the largest change of any image.${cut}`),
    h("div", { class: "gallery" }, attacks.map((one) => samples(doc, one))));
}

function samples(doc, one) {
  const { classes, clean, amplification } = doc.pictures;
  const line = (words, uris) => h("tr", {}, h("th", { scope: "row" }, words),
    uris.map((uri, place) => h("td", {}, h("img", { src: uri, alt: `${classes[place]}, ${words}`, title: classes[place] }))));
  return h("figure", { class: "samples" },
    h("figcaption", {}, h("b", {}, one.attack), " ", h("span", { class: "note" }, budgetWords(one))),
    h("div", { class: "scroll" }, h("table", {},
      line("clean", clean), line("poisoned", one.poisoned), line(`added \u00d7 ${amplification}`, one.added))));
}

const budgetWords = ({ budget }) =>
  `L\u221e ${fixed(255 * budget.linf, 0)}/255, L2 ${fixed(budget.l2, 2)}, ${several(budget.pixels, "pixel")}`;
