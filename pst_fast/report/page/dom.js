// Making elements. Text becomes text nodes, so that no name in the data is ever read as markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name.startsWith("--")) node.style.setProperty(name, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return node;
}

const h = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const s = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

// A group of radio buttons that look like one switch; `choices` are [value, words].
function choice(legend, name, choices, chosen, onchoose) {
  return h("fieldset", { class: "choice" },
    h("legend", {}, legend),
    choices.map(([value, words]) => h("label", {},
      h("input", { type: "radio", name, value, checked: value === chosen, onchange: () => onchoose(value) }),
      h("span", {}, words))));
}

// Text for the clipboard. Where the browser refuses (some do so for files), the text is selected instead.
async function copyText(node, button) {
  const words = button.textContent;
  try {
    await navigator.clipboard.writeText(node.textContent);
    button.textContent = "copied";
  } catch {
    getSelection().selectAllChildren(node);
    button.textContent = document.execCommand("copy") ? "copied" : "selected: press Ctrl+C";
  }
  setTimeout(() => { button.textContent = words; }, 2000);
}
