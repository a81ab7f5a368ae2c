
// Tables as CSV, charts as SVG, commands to the clipboard.
const save = (name, type, text) => {
  const link = document.createElement("a");
  link.download = name;
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
};

// A cell that a spreadsheet would take for a formula begins with an apostrophe.
const csvOf = (lines) => lines.map((line) => line.map((value) => {
  const text = String(value ?? "");
  const safe = /^[=+\-@\t\r]/.test(text) && !/^[+-]?[\d.]+$/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}).join(",")).join("\r\n");

const wordsOf = (element) => {
  const copy = element.cloneNode(true);
  copy.querySelectorAll("svg, .axis, .unseen").forEach((one) => one.remove());
  return copy.textContent.replace(/\s+/g, " ").trim();
};

const svgOf = (svg) => {
  const copy = svg.cloneNode(true);
  const looks = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "opacity",
    "stroke-linejoin", "font-family", "font-size", "font-weight", "filter", "image-rendering"];
  const copies = [copy, ...copy.querySelectorAll("*")];
  [svg, ...svg.querySelectorAll("*")].forEach((one, at) => {
    const style = getComputedStyle(one);
    copies[at].setAttribute("style", looks.map((name) => `${name}:${style.getPropertyValue(name)}`).join(";"));
  });
  const filter = copies.map((one) => /url\("?#([\w-]+)/.exec(one.style.filter)).find(Boolean);
  if (filter) copy.prepend(document.getElementById(filter[1]).cloneNode(true));
  const [, , width, height] = svg.getAttribute("viewBox").split(" ");
  copy.setAttribute("width", width);
  copy.setAttribute("height", height);
  return new XMLSerializer().serializeToString(copy);
};

const button = (words, act) => {
  const one = document.createElement("button");
  one.type = "button";
  one.className = "tool";
  one.textContent = words;
  one.addEventListener("click", () => act(one));
  return one;
};

const fileName = (words, ending) =>
  `${words.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 60).replace(/^-+|-+$/g, "") || "mnemoscope"}.${ending}`;

const copyText = async (text, from) => {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    getSelection().selectAllChildren(from);
    document.execCommand("copy");
  }
};

document.querySelectorAll("main table:not(.sequences)").forEach((table) => {
  const box = table.closest(".chart-box, .paired-box, .scroll") || table;
  const make = button("CSV", () => {
    const lines = [...table.rows].map((row) => [...row.cells].flatMap((cell) =>
      [wordsOf(cell), ...Array(cell.colSpan - 1).fill("")]));
    save(fileName(table.caption ? wordsOf(table.caption) : "", "csv"), "text/csv", csvOf(lines));
  });
  make.setAttribute("aria-label", `CSV: ${table.caption ? wordsOf(table.caption).slice(0, 80) : "this table"}`);
  if (box.matches(".scroll, table")) box.after(make);
  else box.append(make);
});
document.querySelectorAll("figure svg[viewBox]:not(.legend svg)").forEach((svg) => {
  const figure = svg.closest("figure");
  const words = figure.querySelector("figcaption");
  const make = button("SVG", () => save(fileName(words ? wordsOf(words) : "", "svg"), "image/svg+xml", svgOf(svg)));
  make.setAttribute("aria-label", `SVG: ${words ? wordsOf(words).slice(0, 80) : "this chart"}`);
  figure.append(make);
});
document.querySelectorAll("pre.commands, .next code, .answer code").forEach((code) => {
  code.after(button("Copy", async (one) => {
    await copyText(code.textContent, code);
    one.textContent = "Copied";
    setTimeout(() => { one.textContent = "Copy"; }, 2000);
  }));
});
const printAll = document.querySelector("[data-print]");
if (printAll) {
  printAll.hidden = false;
  printAll.addEventListener("click", () => {
    document.querySelectorAll("details").forEach((part) => { part.open = true; });
    document.body.classList.add("with-appendix");
    print();
  });
}
