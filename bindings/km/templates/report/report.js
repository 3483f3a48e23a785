"use strict";
(() => {
const $ = (id) => document.getElementById(id);
const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
const SVG = "http://www.w3.org/2000/svg";

/* Elements are made one by one and texts set as texts, so that nothing in them is ever markup. */
function make(name, attributes = {}, ...children) {
  const svg = attributes.ns === SVG;
  const element = svg ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key !== "ns" && value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}
const draw = (name, attributes, ...children) => make(name, { ns: SVG, ...attributes }, ...children);
const fold = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
const slug = (word) => word.replaceAll(" ", "-");

/* Numbers as km writes them elsewhere: four significant digits. */
function figure(x, digits = 4) {
  if (x === null) return "–";
  if (typeof x === "boolean") return x ? "yes" : "no";
  if (typeof x !== "number") return x;
  if (Number.isInteger(x) && Math.abs(x) < 1e15) return String(x);
  const size = Math.floor(Math.log10(Math.abs(x)));
  if (size >= -5 && size < 6) return String(Number(x.toPrecision(digits)));
  return x.toExponential(digits - 1).replace(/\.?0+e/, "e").replace(/e([+-])(\d)$/, "e$10$2");
}

/* ---- sections: one is shown at a time, named by the address ---- */

const pages = all("section.page");
function pageOf(id) {
  const element = id && $(id);
  return element ? element.closest("section.page") : null;
}
function show(page) {
  for (const other of pages) other.classList.toggle("open", other === page);
  for (const link of all("nav.contents a")) {
    const here = link.getAttribute("href") === "#" + page.id;
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  for (const box of all(".grid", page)) prepare(box);
  if (page.id === "taxonomy") atlas().open();
}
function route(move) {
  const id = decodeURIComponent(location.hash.slice(1));
  if (id.startsWith("node-") && atlas().has(id.slice(5))) {
    show($("taxonomy"));
    atlas().choose(id.slice(5), true);
    if (move) $("panel").scrollIntoView({ block: "nearest" });
    return;
  }
  const target = $(id);
  const page = pageOf(id) || pages[0];
  show(page);
  if (pending) return arrive();
  if (!move) return;
  openAround(target);
  const head = target && target !== page ? target.querySelector("[tabindex]") || target : page.querySelector("h1");
  if (target && target !== page) target.scrollIntoView();
  else window.scrollTo(0, 0);
  if (head) head.focus({ preventScroll: true });
}

/* A row found by the search: its table is filtered and scrolled to once its page is shown. */
let pending = null;
function arrive() {
  const { box, grid, words } = pending;
  pending = null;
  openAround(box);
  if (grid.input) { grid.input.value = words.join(" "); grid.filter(grid.input.value); }
  box.scrollIntoView();
  (grid.input || box.querySelector("[tabindex]")).focus({ preventScroll: true });
}
function openAround(element) {
  for (let box = element && element.closest("details"); box; box = box.parentElement.closest("details")) box.open = true;
}

/* ---- tables: sorting, filtering, pages ---- */

const PAGE = 50;
const prepared = new WeakMap();
function prepare(box) {
  if (!prepared.has(box)) prepared.set(box, new Grid(box));
  return prepared.get(box);
}
class Grid {
  constructor(box) {
    this.box = box;
    this.body = box.querySelector("tbody");
    this.heads = all("thead th", box);
    this.numeric = this.heads.map((head) => head.classList.contains("n"));
    const more = box.querySelector("script");
    this.rows = more ? JSON.parse(more.textContent).map((cells) => ({ cells }))
      : all("tr", this.body).map((tr) => ({ tr, cells: [...tr.cells].map(cellValue) }));
    this.kept = this.rows;
    this.page = 0;
    if (this.rows.length > 1) this.heads.forEach((head, column) => this.addSorting(head, column));
    if (this.rows.length > 8) this.addTools();
    if (more) this.draw();
  }
  addSorting(head, column) {
    const button = make("button", { type: "button" });
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of this.heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      this.sort(column, down ? -1 : 1);
    });
  }
  sort(column, sign) {
    const missing = (value) => value === null || value === "" || value === "–";
    const order = (a, b) => {
      const x = a.cells[column], y = b.cells[column];
      if (missing(x) || missing(y)) return missing(x) - missing(y);
      if (typeof x === "number" && typeof y === "number") return sign * (x - y);
      return sign * String(x).localeCompare(String(y), "en", { numeric: true });
    };
    this.rows.sort(order);
    this.filter(this.input ? this.input.value : "");
  }
  addTools() {
    const caption = this.box.dataset.caption || "the table";
    this.input = make("input", { type: "search", "aria-label": "Filter " + caption, placeholder: "Filter rows", autocomplete: "off" });
    this.count = make("span", { role: "status", class: "soft" });
    this.back = make("button", { type: "button" }, "Back");
    this.next = make("button", { type: "button" }, "Next");
    this.pager = make("span", { class: "pager" }, this.back, this.next);
    const tools = make("div", { class: "grid-tools" }, this.input, this.count, this.pager);
    this.box.prepend(tools);
    this.input.addEventListener("input", () => this.filter(this.input.value));
    this.back.addEventListener("click", () => this.turn(-1));
    this.next.addEventListener("click", () => this.turn(1));
    this.draw();
  }
  filter(text) {
    const words = fold(text).split(/\s+/).filter(Boolean);
    this.kept = words.length ? this.rows.filter((row) => words.every((word) => rowText(row).includes(word))) : this.rows;
    this.page = 0;
    this.draw();
  }
  turn(by) {
    this.page += by;
    this.draw();
  }
  draw() {
    const begin = this.page * PAGE;
    const shown = this.kept.slice(begin, begin + PAGE);
    this.body.replaceChildren(...shown.map((row) => row.tr || this.line(row)));
    if (!this.input) return;
    const n = this.kept.length, of = n < this.rows.length ? " of " + this.rows.length : "";
    this.count.textContent = n > PAGE ? `rows ${begin + 1} to ${begin + shown.length} of ${n}${n < this.rows.length ? " found" : ""}` : `${n}${of} rows`;
    this.pager.hidden = n <= PAGE;
    this.back.disabled = this.page === 0;
    this.next.disabled = begin + PAGE >= n;
  }
  line(row) {
    const kind = (cell, i) => this.numeric[i] ? "n" : typeof cell === "string" && cell.length > 60 ? "long" : null;
    return make("tr", {}, ...row.cells.map((cell, i) => make("td", { class: kind(cell, i) }, figure(cell))));
  }
}
function cellValue(cell) {
  const given = cell.dataset.v;
  if (given !== undefined) return given === "" ? null : Number(given);
  const text = cell.textContent.trim();
  return /^[+-]?\d[\d,]*(\.\d+)?(e[+-]?\d+)?$/i.test(text) ? Number(text.replaceAll(",", "")) : text;
}
function rowText(row) {
  if (row.text === undefined) row.text = fold(row.cells.map((cell) => (cell === null ? "" : figure(cell))).join(" "));
  return row.text;
}

/* ---- the taxonomy ---- */

let made = null;
function atlas() {
  if (!made) made = new Atlas(JSON.parse($("atlas-data").textContent));
  return made;
}
const ROW = 26, GAP = 46, MOST = 600;
const pen = document.createElement("canvas").getContext("2d");
function widthOf(text, bold) {
  pen.font = (bold ? "600 " : "") + "13px " + getComputedStyle(document.body).fontFamily;
  return pen.measureText(text).width;
}
class Atlas {
  constructor(data) {
    this.data = data;
    this.nodes = data.nodes;
    this.byId = new Map(this.nodes.map((node, i) => [node.id, i]));
    this.nodes.forEach((node, i) => {
      node.i = i;
      node.children = [];
      node.has = Boolean(node.evidence || node.verdicts);
      node.depth = node.parent < 0 ? 0 : this.nodes[node.parent].depth + 1;
      if (node.parent >= 0) this.nodes[node.parent].children.push(i);
    });
    for (const node of [...this.nodes].reverse()) {
      node.below = node.children.reduce((sum, c) => sum + 1 + this.nodes[c].below, 0);
      node.path = node.has || node.children.some((c) => this.nodes[c].path);
    }
    this.chosen = 0;
    this.drawn = false;
    this.view = { x: 20, y: 20, k: 1 };
  }
  has(id) { return this.byId.has(id); }
  open() {
    if (this.drawn) return;
    this.drawn = true;
    this.unfoldMeasured();
    this.listen();
    this.legend();
    this.layout();
    this.fit();
    this.panel(this.nodes[this.chosen]);
  }
  unfoldMeasured() {
    for (const node of this.nodes) {
      node.open = node.depth === 0 || node.children.some((c) => this.nodes[c].path);
    }
  }
  unfoldAll(open) {
    let left = MOST;
    for (const node of this.nodes) {
      node.open = node.depth === 0 || (open && left > node.children.length);
      if (node.open) left -= node.children.length;
    }
    const closed = this.nodes.filter((node) => !node.open && node.children.length).length;
    this.say(open && closed ? `${closed} branches stay closed: more than ${MOST} nodes cannot be read at once.` : "");
  }
  say(text) { $("map-help").dataset.note = text; if (text) $("map-help").textContent = text; }
  shown() {
    const out = [];
    const visit = (i) => {
      const node = this.nodes[i];
      out.push(node);
      if (node.open) node.children.forEach(visit);
    };
    visit(0);
    return out;
  }
  layout() {
    const shown = this.shown();
    let row = 0;
    const columns = [];
    for (const node of shown) {
      this.measure(node);
      columns[node.depth] = Math.max(columns[node.depth] || 0, node.width);
    }
    const left = [0];
    for (let i = 1; i < columns.length; i++) left[i] = left[i - 1] + columns[i - 1] + GAP;
    const place = (node) => {
      node.x = left[node.depth];
      const children = node.open ? node.children.map((c) => this.nodes[c]) : [];
      if (!children.length) node.y = row++ * ROW;
      else {
        children.forEach(place);
        node.y = (children[0].y + children[children.length - 1].y) / 2;
      }
    };
    place(this.nodes[0]);
    if (!shown.includes(this.nodes[this.chosen])) this.chosen = this.visibleAncestor(this.chosen);
    $("map-nodes").replaceChildren(...shown.map((node) => this.element(node)));
    $("map-edges").replaceChildren(...shown.filter((node) => node.parent >= 0).map((node) => this.edge(node)));
  }
  visibleAncestor(i) {
    for (let p = this.nodes[i].parent; p >= 0; p = this.nodes[p].parent) if (!this.nodes[p].open) i = p;
    return i;
  }
  measure(node) {
    node.short = node.name.length > (node.depth ? 34 : 22) ? node.name.slice(0, node.depth ? 33 : 21) + "…" : node.name;
    node.words = [...new Set((node.verdicts || []).map((v) => v[0]))];
    node.tail = node.children.length ? (node.open ? " ‹" : ` +${node.below} ›`) : "";
    node.width = 22 + widthOf(node.short, node.has) + 18 * node.words.length + widthOf(node.tail) + 6;
  }
  edge(node) {
    const from = this.nodes[node.parent];
    const x0 = from.x + from.width - 12, x1 = node.x - 12, middle = node.x - GAP / 2 - 12;
    return draw("path", { class: "edge" + (node.path ? " measured" : ""), d: `M${x0} ${from.y}H${middle - 14}C${middle} ${from.y} ${middle} ${node.y} ${x1} ${node.y}` });
  }
  element(node) {
    const badges = node.words.map((word) => draw("tspan", { class: "badge b-" + slug(word), dx: "5" }, GLYPH[word]));
    const tail = node.tail ? draw("tspan", { class: "fold", dx: "3" }, node.tail) : "";
    const group = draw("g", {
      class: "node" + (node.has ? " measured" : "") + (node.i === this.chosen ? " chosen" : ""),
      transform: `translate(${node.x} ${node.y})`, role: "button", id: "at-" + node.i,
      tabindex: node.i === this.chosen ? "0" : "-1",
      "aria-label": this.label(node),
      "aria-expanded": node.children.length ? String(node.open) : null,
    });
    group.append(
      draw("rect", { class: "back", x: -12, y: -11.5, width: node.width, height: 23, rx: 6 }),
      shape(this.data.kinds[node.kind]),
      draw("text", { class: "name", x: 11, y: 4.5 }, node.short, ...badges, tail),
      draw("title", {}, node.name),
    );
    return group;
  }
  label(node) {
    const parts = [node.name, node.kind.replaceAll("_", " "), "level " + (node.depth + 1)];
    if (node.evidence) parts.push("has measured evidence");
    if (node.words.length) parts.push("verdicts: " + node.words.join(", "));
    if (!node.open && node.below) parts.push(node.below + " nodes below");
    return parts.join(", ");
  }
  choose(id, reveal) {
    this.open();
    const i = this.byId.get(id);
    for (let p = this.nodes[i].parent; p >= 0; p = this.nodes[p].parent) this.nodes[p].open = true;
    this.chosen = i;
    this.layout();
    this.panel(this.nodes[i]);
    if (reveal) this.centre(this.nodes[i]);
  }
  focus(i) {
    this.chosen = i;
    for (const element of all("#map-nodes .node")) {
      const own = element.id === "at-" + i;
      element.setAttribute("tabindex", own ? "0" : "-1");
      element.classList.toggle("chosen", own);
      if (own) element.focus({ preventScroll: true });
    }
    this.reveal(this.nodes[i]);
  }
  toggle(node) {
    node.open = !node.open;
    this.chosen = node.i;
    this.layout();
    this.focus(node.i);
  }
  key(event) {
    const node = this.nodes[this.chosen], list = this.shown(), at = list.indexOf(node);
    const go = {
      ArrowDown: () => at + 1 < list.length && this.focus(list[at + 1].i),
      ArrowUp: () => at > 0 && this.focus(list[at - 1].i),
      ArrowRight: () => node.children.length && (node.open ? this.focus(node.children[0]) : this.toggle(node)),
      ArrowLeft: () => (node.open && node.children.length && node.depth > 0 ? this.toggle(node) : node.parent >= 0 && this.focus(node.parent)),
      Home: () => this.focus(0),
      End: () => this.focus(list[list.length - 1].i),
      Enter: () => this.panel(node),
      " ": () => this.panel(node),
      "+": () => this.zoom(1.25),
      "=": () => this.zoom(1.25),
      "-": () => this.zoom(0.8),
      0: () => this.fit(),
    }[event.key];
    if (!go || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    go();
  }
  listen() {
    const map = $("map");
    let drag = null;
    map.addEventListener("keydown", (event) => this.key(event));
    map.addEventListener("click", (event) => {
      const group = event.target.closest(".node");
      if (!group || (drag && drag.moved)) return;
      const node = this.nodes[Number(group.id.slice(3))];
      const again = node.i === this.chosen;
      if (node.children.length && (again || !node.open)) this.toggle(node);
      else this.focus(node.i);
      this.panel(node);
    });
    map.addEventListener("pointerdown", (event) => { drag = { x: event.clientX, y: event.clientY, vx: this.view.x, vy: this.view.y, id: event.pointerId, moved: false, down: true }; });
    map.addEventListener("pointermove", (event) => {
      if (!drag || !drag.down || drag.id !== event.pointerId) return;
      const dx = event.clientX - drag.x, dy = event.clientY - drag.y;
      if (!drag.moved && Math.hypot(dx, dy) < 5) return;
      if (!drag.moved) map.setPointerCapture(drag.id);
      drag.moved = true;
      map.classList.add("moving");
      this.move(drag.vx + dx, drag.vy + dy, this.view.k);
    });
    const end = () => { if (drag) drag.down = false; map.classList.remove("moving"); };
    map.addEventListener("pointerup", end);
    map.addEventListener("pointercancel", end);
    map.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      const box = map.getBoundingClientRect();
      this.zoom(Math.exp(-event.deltaY / 300), event.clientX - box.left, event.clientY - box.top);
    }, { passive: false });
    const acts = {
      in: () => this.zoom(1.25), out: () => this.zoom(0.8), fit: () => this.fit(),
      measured: () => { this.unfoldMeasured(); this.layout(); this.fit(); },
      all: () => { this.unfoldAll(true); this.layout(); this.fit(); },
      none: () => { this.unfoldAll(false); this.layout(); this.fit(); },
    };
    for (const button of all(".atlas-tools button")) button.addEventListener("click", acts[button.dataset.do]);
  }
  move(x, y, k) {
    this.view = { x, y, k };
    $("map-view").setAttribute("transform", `translate(${x.toFixed(1)} ${y.toFixed(1)}) scale(${k.toFixed(4)})`);
  }
  size() {
    const box = $("map").getBoundingClientRect();
    return { w: box.width || 800, h: box.height || 600 };
  }
  zoom(by, cx, cy) {
    const { w, h } = this.size(), { x, y, k } = this.view;
    const to = Math.min(3, Math.max(0.1, k * by)), px = cx ?? w / 2, py = cy ?? h / 2;
    this.move(px - ((px - x) * to) / k, py - ((py - y) * to) / k, to);
  }
  fit() {
    const { w, h } = this.size(), shown = this.shown();
    const right = Math.max(...shown.map((n) => n.x + n.width)), bottom = Math.max(...shown.map((n) => n.y));
    const k = Math.min(1.1, Math.max(0.8, Math.min(w / (right + 20), h / (bottom + 50))));
    const y = bottom * k + 50 <= h ? (h - bottom * k) / 2 : h / 2 - this.nodes[this.chosen].y * k;
    this.move(12 * k + 8, y, k);
  }
  centre(node) {
    const { w, h } = this.size(), k = Math.max(this.view.k, 0.8);
    this.move(w / 2 - (node.x + node.width / 2) * k, h / 2 - node.y * k, k);
  }
  reveal(node) {
    const { w, h } = this.size(), { x, y, k } = this.view;
    const px = x + node.x * k, py = y + node.y * k;
    const nx = px < 30 ? x + 30 - px : px + node.width * k > w - 20 ? x - (px + node.width * k - w + 20) : x;
    const ny = py < 24 ? y + 24 - py : py > h - 24 ? y - (py - h + 24) : y;
    if (nx !== x || ny !== y) this.move(nx, ny, k);
  }
  panel(node) {
    const parts = [
      make("h2", {}, node.name),
      make("p", { class: "soft" }, [node.kind.replaceAll("_", " "), node.section ? "survey, section " + node.section : "not in the survey", this.data.marks[node.mark]].join(" · ")),
      make("p", {}, node.about),
    ];
    const list = (title, items) => items.length && parts.push(make("h3", {}, title), make("ul", {}, ...items));
    list("Verdicts of your runs", (node.verdicts || []).map(([word, anchor, id, text]) => make("li", {}, make("span", { class: "word w-" + slug(word) }, word), " ", make("a", { href: "#" + anchor }, id), make("div", { class: "soft" }, text))));
    list("Measured here", (node.evidence || []).map(([name, value, low, high, n, unit, model, run]) => make("li", {}, `${name}: ${figure(value, 3)}${low === null || high === null ? "" : ` [${figure(low, 3)}, ${figure(high, 3)}]`}${unit ? " " + unit : ""}${n === null ? "" : `, n = ${n}`} `, make("span", { class: "soft" }, model + ", "), $("run-" + run) ? make("a", { href: "#run-" + run }, "run " + run) : "run " + run)));
    list("Literature, work by work", (node.works || []).map(([at, relation, mark, note]) => {
      const [key, title, authors, year, venue, arxiv] = this.data.works[at];
      const known = /^\d{4}\.\d{4,5}$/.test(arxiv) ? make("a", { href: "https://arxiv.org/abs/" + arxiv, rel: "noreferrer noopener" }, "arXiv " + arxiv) : arxiv;
      return make("li", {}, make("span", { class: "relation" }, relation + ": "), title, make("div", { class: "soft" }, [authors, year, venue].filter(Boolean).join(", "), known ? ", " : "", known, ` · ${this.data.marks[mark]}${note ? " · " + note : ""}`));
    }));
    list("Measures that bear on it", (node.measures || []).map(([id, status, title]) => make("li", {}, id, make("span", { class: "soft" }, ` ${status}${title ? ", " + title : ""}`))));
    if (node.children.length) list("Below it", node.children.map((c) => make("li", {}, make("a", { href: "#node-" + this.nodes[c].id }, this.nodes[c].name))));
    if (node.parent >= 0) list("Above it", [make("li", {}, make("a", { href: "#node-" + this.nodes[node.parent].id }, this.nodes[node.parent].name))]);
    $("panel").replaceChildren(...parts);
    $("panel").scrollTop = 0;
  }
  legend() {
    const used = new Set(this.nodes.map((node) => node.kind));
    const items = Object.entries(this.data.kinds).filter(([kind]) => used.has(kind)).map(([, kind]) => {
      const icon = draw("svg", { viewBox: "-8 -8 16 16", width: 16, height: 16, "aria-hidden": "true" }, shape(kind));
      return make("span", {}, icon, kind[2]);
    });
    items.push(make("span", {}, "coloured ground: measured here"));
    for (const [word, glyph] of Object.entries(GLYPH)) {
      items.push(make("span", {}, make("span", { class: "word w-" + slug(word) }, word)));
    }
    $("map-legend").replaceChildren(...items);
  }
}
const GLYPH = { consistent: "●", inconsistent: "▲", "equivalent to none": "≈", inconclusive: "?", "not testable here": "–" };
const PATHS = {
  box: "M-6-5H6V5H-6z", diamond: "M0-7L7 0 0 7-7 0z", triangle: "M0-6L7 5H-7z", invtriangle: "M0 6L7-5H-7z",
  hexagon: "M-6.5 0L-3.5-5.5H3.5L6.5 0 3.5 5.5H-3.5z", ellipse: "M-6 0a6 6 0 1 0 12 0a6 6 0 1 0-12 0z",
};
function shape(kind) {
  const [form, colour] = kind || ["box", "muted"];
  return draw("path", { class: "shape k-" + colour, d: PATHS[form] || PATHS.box });
}

/* ---- search over everything on the page ---- */

const HITS = 40;
let library = null;
function collect() {
  const docs = [];
  const add = (what, title, text, href, act) => docs.push({ what, title, href, act, text: text, folded: fold(title + " " + text) });
  for (const node of atlas().nodes) add("node", node.name, node.about, "#node-" + node.id);
  atlas().nodes.forEach((node) => (node.works || []).forEach(([at, relation]) => {
    const [, title, authors, year] = atlas().data.works[at];
    add(`work, ${relation} ${node.name}`, title, `${authors} ${year || ""}`, "#node-" + node.id);
  }));
  for (const page of pages) add("page", page.querySelector("h1").textContent, "", "#" + page.id);
  for (const element of all("[data-doc]")) {
    const page = element.closest("section.page");
    add(page.querySelector("h1").textContent, shorten(element.textContent), "", "#" + element.dataset.doc);
  }
  for (const element of all("dl.provenance")) add("provenance", shorten(element.textContent), "", "#" + element.closest("section.page").id);
  for (const box of all(".grid")) {
    const page = box.closest("section.page"), grid = prepare(box);
    for (const row of grid.rows) {
      const text = row.cells.map((cell) => figure(cell)).join(" · ");
      add(`${box.dataset.caption || "table"}, ${page.querySelector("h1").textContent}`, shorten(text), "", "#" + page.id, { box, grid });
    }
  }
  return docs;
}
const shorten = (text) => { const plain = text.replace(/\s+/g, " ").trim(); return plain.length > 260 ? plain.slice(0, 259) + "…" : plain; };
function find(text) {
  const words = fold(text).split(/\s+/).filter(Boolean);
  if (!words.length) return null;
  library = library || collect();
  const found = library.filter((doc) => words.every((word) => doc.folded.includes(word)));
  const weight = (doc) => (doc.act ? 3 : doc.what === "node" || doc.what === "page" ? 0 : 1) - (fold(doc.title).startsWith(words[0]) ? 0.5 : 0);
  return { words, found: found.sort((a, b) => weight(a) - weight(b)) };
}
function marked(text, words) {
  const low = text.toLowerCase(), word = words.find((w) => low.includes(w));
  if (!word) return [text];
  const at = low.indexOf(word);
  return [text.slice(0, at), make("mark", {}, text.slice(at, at + word.length)), text.slice(at + word.length)];
}
function search() {
  const result = find($("search").value);
  $("hits-box").hidden = !result;
  if (!result) return;
  const { words, found } = result;
  $("hit-count").textContent = found.length > HITS ? `${found.length} found, the first ${HITS} are listed` : `${found.length} found`;
  $("hits").replaceChildren(...found.slice(0, HITS).map((doc) => {
    const link = make("a", { href: doc.href }, ...marked(doc.title, words), make("span", { class: "what" }, doc.what));
    link.addEventListener("click", () => openHit(doc, words));
    return make("li", {}, link);
  }));
}
function openHit(doc, words) {
  $("hits-box").hidden = true;
  if (!doc.act) return;
  pending = { ...doc.act, words };
  if (location.hash === doc.href) arrive();
}

/* ---- wiring ---- */

$("search-form").addEventListener("submit", (event) => { event.preventDefault(); const first = $("hits").querySelector("a"); if (first) first.click(); });
$("search").addEventListener("input", search);
$("search").addEventListener("focus", () => $("search").value && search());
document.addEventListener("keydown", (event) => {
  const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) { event.preventDefault(); $("search").focus(); }
  if (event.key === "Escape" && !$("hits-box").hidden) { $("hits-box").hidden = true; $("search").focus(); }
  if ((event.key === "ArrowDown" || event.key === "ArrowUp") && !$("hits-box").hidden) {
    const links = [$("search"), ...all("#hits a")], at = links.indexOf(document.activeElement);
    if (at < 0) return;
    event.preventDefault();
    links[Math.min(links.length - 1, Math.max(0, at + (event.key === "ArrowDown" ? 1 : -1)))].focus();
  }
});
document.addEventListener("click", (event) => { if (!event.target.closest("#hits-box, #search-form")) $("hits-box").hidden = true; });

const wantsDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme || (wantsDark.matches ? "dark" : "light")) === "dark";
function themeButton() { $("theme").setAttribute("aria-pressed", String(isDark())); }
$("theme").addEventListener("click", () => {
  const chosen = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = chosen;
  try { localStorage.setItem("km-theme", chosen); } catch (refused) { /* kept for this visit alone */ }
  themeButton();
});
wantsDark.addEventListener("change", themeButton);
themeButton();

window.addEventListener("hashchange", () => route(true));
window.addEventListener("beforeprint", () => { atlas().open(); });
route(Boolean(location.hash));
})();
