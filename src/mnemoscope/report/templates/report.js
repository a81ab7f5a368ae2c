// Choose a layer, an attribution and a scale, and read Δ off the maps with mouse, finger or keys.
// The page is complete without this script: it only makes the static pictures answer.
"use strict";
document.documentElement.classList.add("js");

// Pictures hold 1 - sqrt(Δ) in 8 bits of grey, nothing where a query cannot look.
const pixelsOf = (() => {
  const read = new Map();
  return async (image) => {
    if (!read.has(image.src)) {
      await image.decode();
      const canvas = document.createElement("canvas");
      canvas.width = image.naturalWidth;
      canvas.height = image.naturalHeight;
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(image, 0, 0);
      read.set(image.src, context.getImageData(0, 0, canvas.width, canvas.height).data);
    }
    return read.get(image.src);
  };
})();

const side = (token, prefix) => (token < prefix ? "prefix" : "suffix");

class Attribution {
  constructor(root) {
    this.root = root;
    this.length = Number(root.dataset.length);
    this.prefix = Number(root.dataset.prefix);
    this.frames = [...root.querySelectorAll(".frame")];
    this.cells = [...root.querySelectorAll(".strip .map-cell")];
    this.where = root.querySelector("[data-where]");
    this.live = root.querySelector("[data-live]");
    this.marks = this.frames.map((frame) => this.prepare(frame));
    this.cells.forEach((cell) =>
      cell.addEventListener("click", () => this.onPick && this.onPick(Number(cell.dataset.mapLayer))));
  }

  prepare(frame) {
    const mark = document.createElement("div");
    mark.className = "cell-mark";
    mark.hidden = true;
    mark.style.width = mark.style.height = `${100 / this.length}%`;
    frame.append(mark);
    frame.tabIndex = 0;
    frame.setAttribute("role", "application");
    frame.setAttribute("aria-roledescription", "map");
    frame.setAttribute("aria-label",
      `${frame.dataset.class}: move with the arrow keys to read the map`);
    const point = (event) => {
      const box = frame.getBoundingClientRect();
      const at = (part, whole) =>
        Math.min(this.length - 1, Math.max(0, Math.floor((part / whole) * this.length)));
      this.show(at(event.clientY - box.top, box.height), at(event.clientX - box.left, box.width));
    };
    frame.addEventListener("pointermove", point);
    frame.addEventListener("pointerdown", point);
    frame.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && this.clear());
    frame.addEventListener("keydown", (event) => this.move(event));
    return mark;
  }

  move(event) {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (event.key === "Escape") { this.clear(); return; }
    if (!(event.key in step)) return;
    event.preventDefault();
    const [query, key] = this.at || [this.length - 1, 0];
    const within = (token) => Math.min(this.length - 1, Math.max(0, token));
    this.show(within(query + step[event.key][0]), within(key + step[event.key][1]));
  }

  async show(query, key) {
    if (key > query) { this.clear(); return; }
    this.at = [query, key];
    const where = `Token ${query + 1} (${side(query, this.prefix)}) looks at `
      + `token ${key + 1} (${side(key, this.prefix)}).`;
    this.where.textContent = where;
    this.marks.forEach((mark) => {
      mark.hidden = false;
      mark.style.left = `${(100 * key) / this.length}%`;
      mark.style.top = `${(100 * query) / this.length}%`;
    });
    const shares = await Promise.all(this.frames.map(async (frame) => {
      const data = await pixelsOf(frame.querySelector("img"));
      const root = 1 - data[4 * (query * this.length + key)] / 255;
      return `${(100 * root * root).toFixed(1)}\u202f%`;
    }));
    if (!this.at || this.at[0] !== query || this.at[1] !== key) return;
    this.frames.forEach((frame, index) => {
      const line = frame.parentNode.querySelector(".readout");
      const share = document.createElement("b");
      share.textContent = shares[index];
      line.replaceChildren(share, " of the layer’s maximum");
    });
    this.live.textContent =
      `${where} ${this.frames.map((frame, i) => `${frame.dataset.class} ${shares[i]}`).join(", ")}`;
  }

  clear() {
    this.at = null;
    this.marks.forEach((mark) => { mark.hidden = true; });
    this.root.querySelectorAll(".readout").forEach((line) => { line.textContent = "\u00a0"; });
    this.where.textContent =
      `Lines divide prefix (1–${this.prefix}) from suffix (${this.prefix + 1}–${this.length}).`;
  }

  choose(layer) {
    const chosen = this.cells.filter((cell) => Number(cell.dataset.mapLayer) === layer);
    this.frames.forEach((frame, index) => {
      const image = frame.querySelector("img");
      image.src = chosen[index].querySelector("image").getAttribute("href");
      image.alt = `Decisiveness map of ${frame.dataset.class}, layer ${layer}`;
    });
    this.root.querySelectorAll("[data-layer]").forEach((text) => { text.textContent = layer; });
    this.cells.forEach((cell) => cell.classList.toggle("chosen", chosen.includes(cell)));
    this.bringIntoView(chosen[0]);
    if (this.at) this.show(...this.at);
  }

  // Scrolls the strip only, never the page.
  bringIntoView(cell) {
    const box = this.root.querySelector(".strip .scroll");
    const [seen, wanted] = [box, cell].map((one) => one.getBoundingClientRect());
    const inset = wanted.left - seen.left - (seen.width - wanted.width) / 2;
    box.scrollBy({ left: inset, behavior: "instant" });
  }
}

document.querySelectorAll("[data-delta]").forEach((delta) => {
  const roots = [...delta.querySelectorAll(".attribution")];
  const attributions = roots.filter((root) => root.querySelector(".frame"))
    .map((root) => new Attribution(root));
  if (!attributions.length) return;
  const range = delta.querySelector(".layers input");
  const choose = (layer) => {
    if (range) {
      range.value = layer;
      delta.querySelector(".layers output").textContent = layer;
    }
    attributions.forEach((attribution) => attribution.choose(layer));
  };
  attributions.forEach((attribution) => { attribution.onPick = choose; });
  if (range) range.addEventListener("input", () => choose(Number(range.value)));
  choose(range ? Number(range.value) : 0);
  delta.querySelectorAll('input[value="linear"], input[value="root"]').forEach((input) =>
    input.addEventListener("change", () => delta.classList.toggle("is-root", input.value === "root")));
  const pick = (name) => roots.forEach((root) => { root.classList.toggle("is-away", root.dataset.attribution !== name); });
  const choices = [...delta.querySelectorAll('input[name$="-attribution"]')];
  choices.forEach((input) => input.addEventListener("change", () => pick(input.value)));
  if (choices.length) pick(choices.find((input) => input.checked).value);
  delta.querySelector(".controls").hidden = false;
});

// A link into a folded part opens it. A printed page shows what is open.
const reveal = (id) => {
  const target = document.getElementById(id);
  for (let node = target; node; node = node.parentElement) if (node.localName === "details") node.open = true;
  if (target) target.scrollIntoView();
};
const unfold = () => reveal(location.hash.slice(1));
addEventListener("hashchange", unfold);
if (location.hash) unfold();
