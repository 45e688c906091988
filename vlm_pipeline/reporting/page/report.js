"use strict";
// The row browser: filters, sorts and pages over JSON that lies in the page, compressed. Text enters the page as text only.
(async () => {
  const byId = (id) => document.getElementById(id);
  const PAGE = 25, LONG = 4000;
  const OUTCOMES = ["right", "wrong", "unscored", "error"], KINDS = ["read", "flagged", "read flagged"];
  const make = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  };

  async function unpacked(text) {
    const bytes = Uint8Array.fromBase64 ? Uint8Array.fromBase64(text) : Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }

  // Colour scheme: system, light, dark.
  const scheme = byId("scheme"), root = document.documentElement, order = ["auto", "light", "dark"];
  const remember = { get() { try { return localStorage.getItem("scheme"); } catch { return null; } }, set(v) { try { localStorage.setItem("scheme", v); } catch { /* opened where nothing may be stored */ } } };
  const paint = (choice) => {
    if (choice === "auto") delete root.dataset.scheme; else root.dataset.scheme = choice;
    scheme.textContent = `Colours: ${choice}`;
    scheme.value = choice;
  };
  paint(order.includes(remember.get()) ? remember.get() : "auto");
  scheme.addEventListener("click", () => { const next = order[(order.indexOf(scheme.value) + 1) % 3]; paint(next); remember.set(next); });

  // The place in the page is marked in the contents.
  const links = new Map([...document.querySelectorAll(".contents a")].map((a) => [a.hash.slice(1), a]));
  if ("IntersectionObserver" in window) {
    const watch = new IntersectionObserver((entries) => {
      for (const entry of entries) if (entry.isIntersecting) {
        for (const a of links.values()) a.removeAttribute("aria-current");
        const here = links.get(entry.target.id), strip = here.closest("ol");
        here.setAttribute("aria-current", "true");
        strip.scrollTo({ left: here.offsetLeft - strip.offsetLeft - (strip.clientWidth - here.offsetWidth) / 2 });  // on narrow screens the contents are a strip
      }
    }, { rootMargin: "-10% 0px -80% 0px" });
    for (const id of links.keys()) { const target = byId(id); if (target) watch.observe(target); }
  }
  let opened = [];
  addEventListener("beforeprint", () => { opened = [...document.querySelectorAll("details:not([open])")]; for (const d of opened) d.open = true; });
  addEventListener("afterprint", () => { for (const d of opened) d.open = false; });

  const source = byId("rows-data");
  if (!source) return;
  let data;
  try { data = JSON.parse(await unpacked(source.textContent)); } catch (problem) { byId("rows-count").textContent = `The rows cannot be unpacked by this browser (${problem.message}); they lie beside this file in rows.csv.`; return; }
  const thumbs = JSON.parse(byId("rows-pictures").textContent);
  const { strings, predictors, columns, answers, sections, failures, metric } = data;
  const count = columns.id.length;
  const textOf = (index) => (index < 0 ? "" : strings[index]);
  const sign = metric.lowerIsBetter ? -1 : 1;
  const base = data.baseline;
  const controls = byId("filters");
  const body = byId("rows-body");
  let page = 0, shown = [];

  const number = new Intl.NumberFormat("en", { maximumFractionDigits: 3 });
  const gain = (row, p) => {
    const a = answers[base], b = answers[p];
    if (a.t[row] === -2 || b.t[row] === -2) return null;
    if (a.s[row] !== null && b.s[row] !== null) return sign * (b.s[row] - a.s[row]);
    const right = (x) => (x.o[row] === 0 ? 1 : 0);
    return right(b) - right(a);
  };
  const TESTS = {
    all: () => true,
    right: (r, p) => answers[p].o[r] === 0, wrong: (r, p) => answers[p].o[r] === 1,
    unscored: (r, p) => answers[p].o[r] === 2, error: (r, p) => answers[p].o[r] === 3,
    better: (r, p) => gain(r, p) > 0, worse: (r, p) => gain(r, p) < 0,
    differs: (r, p) => answers[p].t[r] !== answers[base].t[r],
    missing: (r, p) => answers[p].t[r] === -2,
  };
  const KEYS = {
    given: (r) => r, id: (r) => columns.id[r], section: (r) => sections[columns.section[r]] ?? "",
    score: (r, p) => answers[p].s[r], gain: (r, p) => gain(r, p), length: (r, p) => textOf(answers[p].t[r]).length,
    latency: (r, p) => answers[p].l[r], tokens: (r, p) => answers[p].n[r],
  };
  const state = () => ({
    find: controls.elements.find.value.trim().toLowerCase(), section: controls.elements.section.value, failure: controls.elements.failure.value,
    predictor: Number(controls.elements.predictor.value), outcome: controls.elements.outcome.value, sort: controls.elements.sort.value, down: controls.elements.direction.value === "down",
  });

  function select() {
    const s = state(), test = TESTS[s.outcome], key = KEYS[s.sort], p = s.predictor;
    let hit = null;
    if (s.find) { hit = new Uint8Array(strings.length); strings.forEach((text, i) => { if (text.toLowerCase().includes(s.find)) hit[i] = 1; }); }
    shown = [];
    for (let r = 0; r < count; r++) {
      if (s.section && sections[columns.section[r]] !== s.section) continue;
      if (s.failure && failures[answers[p].f[r]] !== s.failure) continue;
      if (!test(r, p)) continue;
      if (hit && !(hit[columns.q[r]] || hit[columns.e[r]] || columns.id[r].toLowerCase().includes(s.find) || answers.some((a) => a.t[r] >= 0 && hit[a.t[r]]))) continue;
      shown.push(r);
    }
    const keyed = new Map(shown.map((r) => [r, key(r, p)]));
    const compare = (a, b) => {
      const x = keyed.get(a), y = keyed.get(b);
      if (x === null || x === undefined || y === null || y === undefined) return (x === null || x === undefined) - (y === null || y === undefined) || a - b;
      const ordered = typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y;
      return (s.down ? -ordered : ordered) || a - b;
    };
    shown.sort(compare);
  }

  function swatch(slot) {
    const space = "http://www.w3.org/2000/svg", svg = document.createElementNS(space, "svg"), path = document.createElementNS(space, "path");
    svg.setAttribute("viewBox", "-6 -6 12 12"); svg.setAttribute("class", "swatch"); svg.setAttribute("aria-hidden", "true");
    path.setAttribute("d", data.shapes[slot % data.shapes.length]); path.setAttribute("class", `f-p${slot % 8}`);
    svg.append(path);
    return svg;
  }
  function picture(row, className) {
    const index = columns.img[row];
    if (index < 0) return null;
    const image = make("img", className);
    image.src = thumbs[index]; image.alt = `Image of row ${columns.id[row]}`; image.decoding = "async";
    return image;
  }
  function marked(text, marks, limit) {
    const node = make("p", text ? "text" : "text empty");
    node.dir = "auto";
    if (!text) { node.textContent = "(empty answer)"; return node; }
    const cut = limit && text.length > limit ? Math.max(limit, ...marks.map((m) => m[1])) : text.length;
    let at = 0;
    for (const [start, end, kind] of marks) { node.append(text.slice(at, start), make("mark", KINDS[kind], text.slice(start, end))); at = end; }
    node.append(text.slice(at, cut));
    if (cut < text.length) {
      const more = make("button", "", `Show all ${number.format(text.length)} characters`);
      more.type = "button";
      more.addEventListener("click", () => node.replaceWith(marked(text, marks, 0)));
      node.append("… ", more);
    }
    return node;
  }
  function short(text, fallback) {
    const node = make("span", "clamp", text ? text.slice(0, 400) : fallback);
    node.dir = "auto";
    return node;
  }
  function outcome(row, p) {
    const code = answers[p].o[row];
    return answers[p].t[row] === -2 ? make("span", "tag", "no prediction") : make("span", `tag ${OUTCOMES[code]}`, OUTCOMES[code]);
  }
  function fact(list, name, value) {
    if (value === null || value === undefined || value === "") return;
    list.append(make("dt", "", name), make("dd", "", typeof value === "number" ? number.format(value) : value));
    list.lastChild.dir = "auto";
  }

  function detail(row) {
    const card = make("div", "card");
    const image = picture(row, "");
    if (image) { const box = make("div", "picture"); box.append(image); card.append(box); } else card.classList.add("plain");
    const head = make("header");
    head.append(make("code", "", columns.id[row]), make("span", "", sections[columns.section[row]] ?? ""));
    if (columns.group[row] >= 0) head.append(make("span", "", textOf(columns.group[row])));
    const link = make("a", "", "Link to this row"); link.href = `#row=${encodeURIComponent(columns.id[row])}`; head.append(link);
    const question = make("p", "question text", textOf(columns.q[row])); question.dir = "auto";
    const expected = make("p", "expected", "Expected: "); const gold = make("bdi", "", textOf(columns.e[row])); gold.dir = "auto"; expected.append(gold);
    card.append(head, question, expected);
    if (data.noPicture[columns.nopic[row]]) head.append(make("span", "", `No picture: ${data.noPicture[columns.nopic[row]]}`));
    const all = make("div", "answers");
    predictors.forEach((predictor, p) => {
      const a = answers[p], box = make("article", `answer b-p${predictor.slot % 8}`), title = make("h4");
      title.append(swatch(predictor.slot), predictor.label, outcome(row, p));
      if (predictor.standIn) title.append(make("span", "tag stand-in", predictor.standIn));
      box.append(title);
      if (a.t[row] === -2) box.append(make("p", "text empty", "No prediction for this row.")); else {
        box.append(marked(textOf(a.t[row]), a.m[row] || [], LONG));
        const list = make("dl");
        if (a.cut[row]) fact(list, "Cut", `the page holds the start of ${number.format(a.cut[row])} characters; rows.parquet holds all`);
        fact(list, "Read as", textOf(a.x[row])); fact(list, "Rule", textOf(a.r[row])); fact(list, metric.label, metric.percent && (a.s[row] === 0 || a.s[row] === 1) ? (a.s[row] ? "yes" : "no") : a.s[row]);
        fact(list, "Failure", (failures[a.f[row]] ?? "").replaceAll("_", " ")); fact(list, "Reason", textOf(a.j[row]));
        fact(list, "Error", textOf(a.err[row])); fact(list, "Tokens out", a.n[row]);
        if (a.l[row] !== null) fact(list, "Seconds", a.l[row]);
        if (a.c[row]) fact(list, "Dollars", a.c[row]);
        box.append(list);
      }
      all.append(box);
    });
    card.append(all);
    return card;
  }

  function toggle(row, line, button) {
    const next = line.nextElementSibling;
    if (next?.classList.contains("detail")) { next.remove(); line.classList.remove("open"); button.setAttribute("aria-expanded", "false"); return; }
    const holder = make("tr", "detail"), cell = make("td"); cell.colSpan = 7; holder.id = `detail-${row}`;
    cell.append(detail(row)); holder.append(cell); line.after(holder); line.classList.add("open");
    button.setAttribute("aria-expanded", "true"); button.setAttribute("aria-controls", holder.id);
  }

  function cell(line, label, ...nodes) { const td = make("td"); td.dataset.label = label; td.append(...nodes.filter(Boolean)); line.append(td); return td; }

  function draw() {
    const s = state(), pages = Math.max(1, Math.ceil(shown.length / PAGE));
    page = Math.min(page, pages - 1);
    const other = s.predictor;
    byId("head-base").textContent = predictors[base].label;
    byId("head-other").textContent = predictors[other].label;
    const lines = document.createDocumentFragment();
    for (const row of shown.slice(page * PAGE, (page + 1) * PAGE)) {
      const line = make("tr", "row");
      const first = cell(line, "", picture(row, "thumb")); first.className = "thumb-cell"; if (columns.img[row] < 0) delete first.dataset.label;
      const button = make("button", "open-row", columns.id[row]); button.type = "button"; button.setAttribute("aria-expanded", "false");
      button.addEventListener("click", () => toggle(row, line, button));
      cell(line, "Row", button, make("div", "note", sections[columns.section[row]] ?? ""));
      cell(line, "Question", short(textOf(columns.q[row]), ""));
      cell(line, "Expected", short(textOf(columns.e[row]), ""));
      for (const p of base === other ? [base] : [base, other]) cell(line, predictors[p].label, outcome(row, p), short(textOf(answers[p].t[row]), ""));
      if (base === other) cell(line, "", "");
      const change = base === other ? null : gain(row, other);
      cell(line, "Change", make("span", change > 0 ? "change up" : change < 0 ? "change down" : "change", change === null ? "" : change > 0 ? `▲ ${number.format(change)}` : change < 0 ? `▼ ${number.format(-change)}` : "="));
      lines.append(line);
    }
    body.replaceChildren(lines);
    byId("rows-count").textContent = `${number.format(shown.length)} of ${number.format(count)} rows`;
    byId("page-number").textContent = `Page ${number.format(page + 1)} of ${number.format(pages)}`;
    byId("previous").disabled = page === 0; byId("next").disabled = page >= pages - 1;
    for (const th of document.querySelectorAll(".browser th[data-sort]")) th.setAttribute("aria-sort", th.dataset.sort === s.sort ? (s.down ? "descending" : "ascending") : "none");
  }
  function update() { page = 0; select(); draw(); }

  let timer;
  controls.addEventListener("input", (event) => { clearTimeout(timer); timer = setTimeout(update, event.target.name === "find" ? 150 : 0); });
  controls.addEventListener("submit", (event) => { event.preventDefault(); update(); });
  byId("reset").addEventListener("click", () => { controls.reset(); update(); });
  const turn = (by) => { page += by; draw(); byId("rows").scrollIntoView(); };
  byId("previous").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));
  for (const th of document.querySelectorAll(".browser th[data-sort]")) th.querySelector("button").addEventListener("click", () => {
    const same = controls.elements.sort.value === th.dataset.sort;
    controls.elements.direction.value = same && controls.elements.direction.value === "up" ? "down" : "up";
    controls.elements.sort.value = th.dataset.sort;
    update();
  });
  // `#row=<id>` opens one row; `#section=…&predictor=<name>&outcome=…&failure=…&find=…` sets the filters.
  function follow() {
    const wanted = new Map(location.hash.slice(1).split("&").map((part) => { const [name, ...value] = part.split("="); try { return [name, decodeURIComponent(value.join("="))]; } catch { return [name, ""]; } }));
    if (wanted.has("row")) open(columns.id.indexOf(wanted.get("row"))); else filter(wanted);
  }
  function filter(wanted) {
    const given = ["section", "predictor", "outcome", "failure", "find", "sort"].filter((name) => wanted.get(name));
    if (!given.length) return;
    controls.reset();
    for (const name of given) controls.elements[name].value = name === "predictor" ? predictors.findIndex((p) => p.name === wanted.get(name)) : wanted.get(name);
    update();
    byId("rows").scrollIntoView();
  }
  function open(row) {
    if (row < 0) return;
    if (!shown.includes(row)) { controls.reset(); select(); }
    page = Math.floor(shown.indexOf(row) / PAGE); draw();
    const line = body.children[shown.indexOf(row) - page * PAGE];
    toggle(row, line, line.querySelector(".open-row"));
    line.scrollIntoView({ block: "start" }); line.querySelector(".open-row").focus({ preventScroll: true });
  }
  addEventListener("hashchange", follow);
  update(); follow();
})();
