
// The browser of sequences: filter, sort, turn pages, open one. The address holds what is chosen.
(() => {
  const packed = document.getElementById("packed");
  if (!packed || !("DecompressionStream" in window)) return;
  const root = document.querySelector(".browser");
  const table = root.querySelector("table");
  const fields = Object.fromEntries([...root.querySelectorAll("[name]")].map((one) => [one.name, one]));
  const classes = JSON.parse(packed.dataset.classes);
  const colours = JSON.parse(packed.dataset.colours);
  const shown = 50;
  const mostPrinted = 300;
  const nested = ["classes", "read"];  // a list a taxonomy
  const worded = ["genre", "document"];  // names, which one chooses from
  const start = { taxonomy: "0", class: "", read: "", genre: "", document: "", q: "", sort: "", page: "0", id: "" };
  let state = { ...start };
  let rows = null;
  let found = [];
  root.hidden = false;

  const unpack = async () => {
    const bytes = Uint8Array.from(atob(packed.textContent), (one) => one.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const columns = JSON.parse(await new Response(stream).text());
    rows = columns.id.map((_, at) => {
      const row = {};
      for (const name in columns) {
        row[name] = nested.includes(name) ? columns[name].map((one) => one[at]) : columns[name][at];
      }
      row.all = [row.prefix + row.suffix, row.written, row.document || ""].join("\n").toLowerCase();
      return row;
    });
    for (const name of worded.filter((one) => fields[one])) {
      const names = [...new Set(rows.map((row) => row[name]).filter(Boolean))].sort();
      fill(fields[name], names);
      // Where there is one, or each sequence has its own, a choice says nothing.
      fields[name].parentNode.hidden = names.length < 2 || 2 * names.length > rows.length;
    }
  };

  const fill = (select, names) => select.replaceChildren(
    new Option("all", ""), ...names.map((name) => new Option(name, name)));

  // Elements and texts, never markup: a sequence may hold any.
  const make = (tag, kind, ...inside) => {
    const one = document.createElement(tag);
    if (kind) one.className = kind;
    one.append(...inside);
    return one;
  };

  // Text in which what cannot be seen has a sign, as everywhere on the page.
  const signs = { "\n": "↵", "\r": "␍", "\t": "⇥", "\v": "␋", "\f": "␌", "\u2028": "↵", "\u2029": "¶" };
  const hidden = /([\p{Cc}\p{Cs}\p{Co}\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\u00ad\u2028\u2029])/u;
  const visible = (text, breaks) => text.split(hidden).filter(Boolean).flatMap((part) => {
    if (!hidden.test(part)) return [part];
    const code = `U+${part.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
    const sign = make("span", part in signs ? "sign" : "sign code", signs[part] || code);
    return breaks && "\n\t".includes(part) ? [sign, part] : [sign];
  });

  // In a line of the table a long prefix begins late, so that the suffix can be seen.
  const marked = (row, isWhole) => [
    make("span", "prefix", ...visible(isWhole ? row.prefix : ending(row.prefix), isWhole)),
    make("span", "suffix", ...visible(row.suffix, isWhole)),
  ];
  const ending = (text) => (text.length > 32 ? `…${text.slice(-30)}` : text);

  const valueOf = (row, name) => (name === "class" ? row.classes[state.taxonomy] : row[name]);
  const number = (value) => String(value ?? "–");
  const percent = (name, value) => (value === null || name === "duplicates"
    ? number(value) : `${(100 * value).toFixed(1)}\u202f%`);

  const label = (name) => {
    const at = classes[state.taxonomy].indexOf(name);
    if (at < 0) return [name || "–"];
    return [make("span", `swatch class-${colours[state.taxonomy][at]}`), name];
  };

  const heading = (name) => root.querySelector(`[data-sort="${name}"]`).textContent;

  const line = (row, columns) => {
    const link = make("a", "", number(row.id));
    const isOpen = String(row.id) === state.id;
    link.href = `#browser?${query({ ...state, id: isOpen ? "" : row.id })}`;
    link.setAttribute("aria-expanded", isOpen);
    const head = make("th", "", link);
    head.scope = "row";
    const cells = columns.map((name) => {
      if (name === "class") return make("td", "class-label", ...label(valueOf(row, name)));
      const isWord = worded.includes(name);
      const said = isWord ? number(row[name]) : percent(name, row[name]);
      const cell = make("td", isWord ? "word" : "number", said);
      cell.title = said;
      cell.dataset.label = heading(name);
      return cell;
    });
    const text = make("div", "line", ...(isOpen ? whole(row) : marked(row, false)));
    cells.splice(columns.includes("class") ? 1 : 0, 0, make("td", "of-text", text));
    return make("tr", isOpen ? "open" : "", head, ...cells);
  };

  const whole = (row) => {
    const parts = [make("p", "text", ...marked(row, true))];
    if (row.written) {
      parts.push(make("p", "label", "The model wrote instead:"),
        make("p", "text", ...visible(row.written, true)));
    }
    const read = row.read[state.taxonomy];
    if (read) parts.push(make("p", "label", `Read from the attention as: ${read.join(", ")}`));
    if (row.document) parts.push(make("p", "label", `Document: ${row.document}`));
    return parts;
  };

  const query = (chosen) => {
    const kept = Object.entries(chosen).filter(([name, value]) => String(value) !== start[name]);
    return new URLSearchParams(kept).toString();
  };

  const select = () => {
    const wanted = state.q.trim().toLowerCase();
    const name = state.sort.replace(/^-/, "");
    const sign = state.sort.startsWith("-") ? -1 : 1;
    found = rows.filter((row) => (!state.class || row.classes[state.taxonomy] === state.class)
      && (!state.read || (row.read[state.taxonomy] || []).includes(state.read))
      && worded.every((one) => !state[one] || row[one] === state[one]) && (!wanted || row.all.includes(wanted)));
    const isOther = (row) => (row.classes[state.taxonomy] ?? "Non-Memo") === "Non-Memo";
    found.sort((one, other) => {
      if (!name) return isOther(one) - isOther(other);  // memorized first, else as in the table
      const [a, b] = [valueOf(one, name) ?? null, valueOf(other, name) ?? null];
      if (a === null || b === null) return (a === null) - (b === null);
      return sign * (typeof a === "string" ? a.localeCompare(b) : a - b);
    });
  };

  const draw = () => {
    select();
    const pages = Math.max(1, Math.ceil(found.length / shown));
    const at = found.findIndex((row) => String(row.id) === state.id);
    const page = at < 0 ? Math.min(Math.max(0, Number(state.page) || 0), pages - 1) : Math.floor(at / shown);
    state.page = String(page);
    const columns = [...table.querySelectorAll("[data-sort]")].map((one) => one.dataset.sort).slice(1);
    table.tBodies[0].replaceChildren(
      ...found.slice(page * shown, (page + 1) * shown).map((row) => line(row, columns)));
    table.querySelectorAll("[data-sort]").forEach((button) => {
      const isOwn = button.dataset.sort === state.sort.replace(/^-/, "");
      const way = state.sort.startsWith("-") ? "descending" : "ascending";
      if (isOwn) button.parentNode.setAttribute("aria-sort", way);
      else button.parentNode.removeAttribute("aria-sort");
    });
    const last = Math.min(found.length, (page + 1) * shown);
    root.querySelector("output").textContent = `${found.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")}`;
    root.querySelector(".pages span").textContent = found.length
      ? `${page * shown + 1}–${last} of ${found.length.toLocaleString("en")}` : "none";
    root.querySelector('[data-step="-1"]').disabled = page === 0;
    root.querySelector('[data-step="1"]').disabled = page >= pages - 1;
  };

  const show = async () => {
    if (!rows) await unpack();
    if (fields.class) fill(fields.class, classes[state.taxonomy] || []);
    if (fields.read) fill(fields.read, classes[state.taxonomy] || []);
    for (const name in fields) fields[name].value = state[name];
    draw();
  };

  const go = (changes) => {
    state = { ...state, page: "0", id: "", ...changes };
    history.replaceState(null, "", `#browser?${query(state)}`);
    return show();
  };

  const follow = async () => {
    if (!location.hash.startsWith("#browser?")) return;
    state = { ...start, ...Object.fromEntries(new URLSearchParams(location.hash.slice(9))) };
    if (!(state.taxonomy in classes)) state.taxonomy = "0";
    await show();
    reveal("browser");
    const line = table.querySelector("tr.open");
    if (line) line.scrollIntoView({ block: "center" });
  };

  for (const name in fields) {
    fields[name].addEventListener("input", () =>
      go({ [name]: fields[name].value, ...(name === "taxonomy" ? { class: "", read: "" } : {}) }));
  }
  table.querySelectorAll("[data-sort]").forEach((button) => button.addEventListener("click", () => {
    const name = button.dataset.sort;
    go({ sort: state.sort === name ? `-${name}` : name });
  }));
  root.querySelectorAll("[data-step]").forEach((button) => button.addEventListener("click", () =>
    go({ page: String(Number(state.page) + Number(button.dataset.step)) })));

  // What is filtered as a plain list, which alone is printed: about ten to a sheet.
  const printed = () => {
    const chosen = Object.values(fields).filter((one) => one.value)
      .map((one) => (one.selectedOptions ? one.selectedOptions[0].text : `contains “${one.value}”`));
    const rest = found.length > mostPrinted
      ? `, the first ${mostPrinted} of them; a narrower filter prints the others` : "";
    const head = make("p", "", `${chosen.join(", ")}: ${root.querySelector("output").textContent}${rest}`);
    const lines = found.slice(0, mostPrinted).map((row) => {
      const link = make("a", "", number(row.id));
      link.href = `#browser?${query({ ...start, taxonomy: state.taxonomy, id: row.id })}`;
      const kind = row.classes.length ? [" ", ...label(valueOf(row, "class"))] : [];
      const from = row.document ? [" · ", row.document] : [];
      return make("li", "", make("p", "label", link, ...kind, ...from), make("p", "text", ...[
        make("span", "prefix", ...visible(row.prefix)), make("span", "suffix", ...visible(row.suffix))]));
    });
    const where = make("p", "label", `Each number leads to its sequence in ${location.href.split("#")[0]}`);
    return make("section", "printed", make("h1", "", document.title), head, where, make("ul", "", ...lines));
  };
  root.querySelector("[data-list]").addEventListener("click", () => {
    const list = printed();
    document.body.append(list);
    addEventListener("afterprint", () => list.remove(), { once: true });
    print();
  });
  root.querySelector("[data-csv]").addEventListener("click", () => {
    const names = Object.keys(rows[0] || {}).filter((name) => name !== "all" && !nested.includes(name));
    const lines = found.map((row) => [...names.map((name) => row[name]), ...row.classes]);
    save("sequences.csv", "text/csv", csvOf([[...names, ...classes.map((_, at) => `class ${at + 1}`)], ...lines]));
  });
  document.querySelectorAll("[data-browse]").forEach((link) => {
    link.setAttribute("href", `#browser?${link.dataset.browse}`);
  });
  root.closest("details").addEventListener("toggle", () => { if (!rows) show(); });
  addEventListener("hashchange", follow);
  follow();
})();
