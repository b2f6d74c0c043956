"use strict";
/* The page's own script: theme, gallery and table. Everything shown comes from the JSON element through textContent;
   no markup is ever made from data. */
(() => {
  const started = performance.now();
  const data = JSON.parse(document.getElementById("data").textContent);
  const { samples, runs, items, pictures } = data;
  const total = samples.id.length;
  const two = runs.length > 1;
  const last = runs.length - 1;
  const byBox = samples.measure !== "iou";
  const measureName = byBox ? "Box IoU" : "IoU";
  const STATUS = { o: "answered", n: "no answer", e: "error", "-": "missing" };
  const NOTHING = "–";
  const $ = (id) => document.getElementById(id);

  /** An element with properties, attributes (names with a dash, role) and children; strings become text nodes. */
  function make(tag, props = {}, ...children) {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(props)) {
      if (value === undefined || value === null) continue;
      if (key.includes("-") || key === "role" || key === "scope") node.setAttribute(key, value);
      else node[key] = value;
    }
    node.append(...children.filter((c) => c !== null && c !== undefined));
    return node;
  }
  const percent = (v) => (v === null || v === undefined ? NOTHING : (100 * v).toFixed(1));
  const signed = (v) => (v === null ? NOTHING : (v > 0 ? "+" : v < 0 ? "−" : "") + (100 * Math.abs(v)).toFixed(1));
  const grouped = (n) => n.toLocaleString("en");

  /* ------------------------------------------------------------------------------------------------- columns */

  const measured = runs.map((_, r) => {
    const column = samples.runs[r];
    const values = byBox ? column.boxIou : column.iou;
    return values.map((v, row) => (column.counted[row] === "1" ? v : null));
  });
  const delta = two ? measured[1].map((v, row) => (v === null || measured[0][row] === null ? null : v - measured[0][row])) : null;
  const fileOf = (row) => (image(row).file ?? image(row).id).split("/").pop();
  const image = (row) => samples.images[samples.image[row]];
  const tagsOf = (row) => samples.tagSets[samples.tags[row]];
  const expressionOf = (row) => samples.expression[row];
  const nameOf = (row) => (expressionOf(row) === null ? samples.id[row] : expressionOf(row) || "(empty expression)");
  let haystack = null;
  /** Everything that the search looks in, one lower-case text a row, made at the first search. */
  function searchable() {
    haystack ??= samples.id.map((id, row) => {
      const texts = samples.runs.map((run) => run.text[row] ?? "");
      return [expressionOf(row) ?? "", id, image(row).id, image(row).file ?? "", ...texts].join("\n").toLowerCase();
    });
    return haystack;
  }

  /* ------------------------------------------------------------------------------------------------- theme */

  const root = document.documentElement;
  const dark = () => (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  function showTheme() {
    $("theme").setAttribute("aria-pressed", String(dark()));
    $("theme").textContent = dark() ? "Light" : "Dark";
  }
  /** The store may be closed to files; the choice then lasts as long as the page. */
  function stored(value) {
    try {
      if (value === undefined) return localStorage.getItem("lens-bench-theme");
      localStorage.setItem("lens-bench-theme", value);
    } catch (error) {
      if (!(error instanceof DOMException)) throw error;
    }
    return null;
  }
  if (["dark", "light"].includes(stored())) root.dataset.theme = stored();
  $("theme").addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    stored(root.dataset.theme);
    showTheme();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTheme);
  showTheme();

  /* ------------------------------------------------------------------------------------------------- drawing */

  const GROUND = [190, 194, 199];
  const HIT = [0, 158, 115], FALSE = [224, 102, 43], MISSED = [86, 180, 233], IGNORED = [128, 128, 128];
  const images = pictures.map(() => null);
  function picture(index) {
    images[index] ??= new Promise((resolve, reject) => {
      const node = new Image();
      node.onload = () => resolve(node);
      node.onerror = () => reject(new Error(`picture ${index} cannot be decoded`));
      node.src = pictures[index];
    });
    return images[index];
  }
  /** Run lengths in row order, background first, as one byte a pixel. */
  function unpack(lengths, size) {
    const mask = new Uint8Array(size);
    let at = 0;
    lengths.forEach((length, i) => {
      if (i % 2) mask.fill(1, at, at + length);
      at += length;
    });
    return mask;
  }
  /** The class of every pixel: 0 none, 1 hit, 2 false positive, 3 missed, 4 ignored. */
  function classes(item, run, layer) {
    const size = item.thumb[0] * item.thumb[1];
    const truth = unpack(item.truth, size), found = unpack(item.runs[run].mask, size), ignored = unpack(item.ignore, size);
    const out = new Uint8Array(size);
    for (let i = 0; i < size; i++) {
      if (layer === "truth") out[i] = truth[i] ? 1 : ignored[i] ? 4 : 0;
      else if (layer === "prediction") out[i] = found[i] ? 1 : 0;
      else if (ignored[i]) out[i] = 4;
      else out[i] = truth[i] ? (found[i] ? 1 : 3) : found[i] ? 2 : 0;
    }
    return out;
  }
  /** Tint classes and draw their outlines; hatching tells the kinds of error apart without colour.
      A pixel of the masks is `scale` pixels of the canvas wide, `across` of them are a row. */
  function paint(context, kinds, across, scale) {
    const { width, height } = context.canvas;
    const frame = context.getImageData(0, 0, width, height), pixels = frame.data;
    const colours = [null, HIT, FALSE, MISSED, IGNORED];
    const kindAt = (x, y) => kinds[Math.floor(y / scale) * across + Math.floor(x / scale)];
    for (let y = 0, i = 0; y < height; y++) {
      for (let x = 0; x < width; x++, i++) {
        const kind = kindAt(x, y);
        if (!kind) continue;
        const edge = (x > 0 && kindAt(x - 1, y) !== kind) || (x < width - 1 && kindAt(x + 1, y) !== kind)
          || (y > 0 && kindAt(x, y - 1) !== kind) || (y < height - 1 && kindAt(x, y + 1) !== kind);
        const stripe = (kind === 2 && (x + y) % 7 < 2) || (kind === 3 && (x - y + 7000) % 7 < 2);
        const alpha = edge ? 0.96 : stripe ? 0.85 : kind === 4 ? 0.55 : 0.46;
        const colour = colours[kind];
        for (let c = 0; c < 3; c++) pixels[4 * i + c] += alpha * (colour[c] - pixels[4 * i + c]);
      }
    }
    context.putImageData(frame, 0, 0);
  }
  function frameBox(context, box, width, height, colour, dash) {
    if (!box) return;
    const [x1, y1, x2, y2] = [box[0] * width, box[1] * height, box[2] * width, box[3] * height];
    for (const [style, line] of [["#000", 4], [`rgb(${colour})`, 2]]) {
      context.setLineDash(style === "#000" ? [] : dash);
      context.strokeStyle = style;
      context.lineWidth = line;
      context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    }
    context.setLineDash([]);
  }
  /** Boxes are drawn where the answer has no mask: that of the truth dashed, that of the answer solid. */
  async function draw(canvas, row, run, layer) {
    const item = items[row];
    const scale = Math.max(1, Math.floor(480 / Math.max(...item.thumb)));
    const [height, width] = item.thumb.map((side) => side * scale);
    const scene = item.picture === null ? null : await picture(item.picture);
    if (canvas.dataset.row !== String(row) || canvas.dataset.layer !== layer) return; // something else by now
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.fillStyle = `rgb(${GROUND})`;
    context.fillRect(0, 0, width, height);
    if (scene) context.drawImage(scene, 0, 0, width, height);
    if (layer !== "picture") {
      paint(context, classes(item, run, layer), item.thumb[1], scale);
      if (byBox || (!item.runs[run].mask.length && item.runs[run].box)) {
        if (layer !== "prediction") frameBox(context, item.truthBox, width, height, MISSED, [6, 5]);
        if (layer !== "truth") frameBox(context, item.runs[run].box, width, height, FALSE, []);
      }
    }
    canvas.dataset.drawn = `${row} ${layer}`;
  }
  function canvasFor(row, run, layer, label) {
    const canvas = make("canvas", { role: "img", "aria-label": label, "data-row": row, "data-layer": layer });
    [canvas.height, canvas.width] = items[row].thumb;
    draw(canvas, row, run, layer);
    return canvas;
  }

  /* ------------------------------------------------------------------------------------------------- gallery */

  const gallery = { lists: data.lists.slice(), list: data.lists[0] ?? null, at: 0, layer: "overlay" };
  const describe = (row, run) => `${nameOf(row)}: ${runs[run].label}, ${measureName} ${percent(measured[run][row])} percent`;

  function scores(row, run) {
    const column = samples.runs[run];
    const parts = [make("span", {}, `${measureName} `, make("b", {}, percent(measured[run][row])))];
    if (two && run === last && delta[row] !== null)
      parts.push(make("span", { className: delta[row] < 0 ? "loss" : delta[row] > 0 ? "gain" : "" }, signed(delta[row])));
    if (!byBox && column.union[row] !== null)
      parts.push(make("span", { className: "quiet" }, `${grouped(column.intersection[row])} of ${grouped(column.union[row])} px`));
    if (!byBox && column.boxIou[row] !== null)
      parts.push(make("span", { className: "quiet" }, `box IoU ${percent(column.boxIou[row])}`));
    if (column.tokens[row] !== undefined) parts.push(make("span", { className: "quiet" }, `${grouped(column.tokens[row])} tokens`));
    if (column.status[row] !== "o") parts.push(make("span", { className: "badge warn" }, STATUS[column.status[row]]));
    if (column.status[row] !== "-" && column.counted[row] === "0") parts.push(make("span", { className: "badge" }, "not counted"));
    return make("div", { className: "scores" }, ...parts);
  }
  function panel(row, run) {
    const column = samples.runs[run], item = items[row];
    const shown = item
      ? canvasFor(row, run, gallery.layer, describe(row, run))
      : make("p", { className: "nothing" }, "No picture of this sample is in this file: only the samples of the gallery are drawn.");
    const said = make("div", {}, scores(row, run));
    if (two) said.prepend(make("h3", {}, make("span", { className: `letter letter-${runs[run].letter}` }, runs[run].letter), ` ${runs[run].label}`));
    if (column.error[row]) said.append(make("pre", { className: "text failed" }, column.error[row]));
    const text = column.text[row];
    if (text) said.append(make("pre", { className: "text", tabIndex: 0, "aria-label": "The model's text", role: "region" }, text));
    return make("figure", { className: "panel" }, shown, said);
  }
  function metaOf(row) {
    const facts = [samples.id[row], image(row).file ?? image(row).id];
    if (items[row]) facts.push(`${items[row].size[1]} × ${items[row].size[0]}`);
    if (tagsOf(row).length) facts.push(tagsOf(row).join(", "));
    if (samples.noTarget[row] === "1") facts.push("nothing is meant");
    return make("p", { className: "meta" }, ...facts.map((f) => make("span", {}, f)));
  }
  function show(at, { scroll = false, remember = true } = {}) {
    const rows = gallery.list?.rows ?? [];
    const viewer = $("viewer");
    if (!rows.length) {
      viewer.replaceChildren(make("p", { className: "quiet" }, total ? "No sample to show." : "No expression was answered."));
      return;
    }
    gallery.at = Math.max(0, Math.min(at, rows.length - 1));
    const row = rows[gallery.at];
    const turn = make("div", { className: "turn" },
      make("button", { type: "button", id: "previous", "aria-label": "Previous sample", disabled: gallery.at === 0 }, "←"),
      `${grouped(gallery.at + 1)} of ${grouped(rows.length)}`,
      make("button", { type: "button", id: "next", "aria-label": "Next sample", disabled: gallery.at === rows.length - 1 }, "→"));
    const panels = make("div", { className: `panels ${two ? "two" : "one"}` }, ...runs.map((_, run) => panel(row, run)));
    const had = document.activeElement?.id;
    viewer.replaceChildren(
      make("div", { className: "head" }, make("p", { className: "expression" }, nameOf(row)), turn), metaOf(row), panels);
    viewer.dataset.row = row;
    if (had === "previous" || had === "next") $(had).focus();
    $("said").textContent = `${gallery.at + 1} of ${rows.length}: ${runs.map((_, run) => describe(row, run)).join("; ")}`;
    for (const button of $("strip").children) {
      const current = Number(button.dataset.at) === gallery.at;
      button.setAttribute("aria-current", String(current));
      if (current) reveal(button);
    }
    if (scroll) $("gallery").scrollIntoView();
    mark(row);
    if (remember) history.replaceState(null, "", `#sample=${encodeURIComponent(samples.id[row])}`);
  }
  /** Scroll the strip, and nothing but the strip, to one of its buttons. */
  function reveal(button) {
    const strip = $("strip"), left = button.offsetLeft - strip.offsetLeft, room = strip.clientWidth - button.offsetWidth;
    if (left < strip.scrollLeft) strip.scrollLeft = left;
    else if (left > strip.scrollLeft + room) strip.scrollLeft = left - room;
  }
  function fillStrip() {
    const rows = gallery.list && gallery.list.name !== "table" ? gallery.list.rows : [];
    const thumbs = rows.map((row, at) => {
      const label = two && delta[row] !== null ? signed(delta[row]) : percent(measured[last][row]);
      const scene = items[row] ? make("canvas", { "aria-hidden": "true", "data-row": row, "data-layer": "overlay" }) : make("canvas", { "aria-hidden": "true" });
      return make("button", { type: "button", "data-at": at, "aria-label": describe(row, last), title: nameOf(row) }, scene, label);
    });
    $("strip").replaceChildren(...thumbs);
    $("strip").hidden = !thumbs.length;
    const waiting = rows.map((row, at) => [thumbs[at].firstChild, row]).filter(([, row]) => items[row]);
    const step = () => { // one a frame, so that nothing waits for thumbnails
      const next = waiting.shift();
      if (!next || !next[0].isConnected) return;
      draw(next[0], next[1], last, "overlay");
      requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }
  function openList(list, at = 0, options = {}) {
    gallery.list = list;
    for (const button of $("lists").children) button.setAttribute("aria-pressed", String(button.dataset.list === list.name));
    fillStrip();
    show(at, options);
  }
  /** What the colours mean in the layer that is drawn. */
  function showLegend() {
    const meanings = {
      overlay: byBox ? [["fn", "ground truth"], ["fp", "predicted box"]] : [["tp", "hit"], ["fp", "false positive"], ["fn", "missed"]],
      truth: [["tp", "ground truth"]], prediction: byBox ? [["fp", "predicted box"]] : [["tp", "prediction"]], picture: [],
    }[gallery.layer].slice();
    const ignoring = gallery.layer !== "prediction" && gallery.layer !== "picture" && Object.values(items).some((i) => i.ignore.length);
    if (ignoring) meanings.push(["ig", "ignored"]);
    $("legend").replaceChildren(...meanings.map(([kind, text]) => make("li", {}, make("span", { className: `swatch ${kind}` }), text)));
  }
  function setLayer(layer) {
    gallery.layer = layer;
    showLegend();
    for (const button of $("layers").children) button.setAttribute("aria-pressed", String(button.dataset.layer === layer));
    for (const canvas of $("viewer").querySelectorAll("canvas")) {
      canvas.dataset.layer = layer;
      draw(canvas, Number(canvas.dataset.row), [...$("viewer").querySelectorAll("canvas")].indexOf(canvas), layer);
    }
  }
  showLegend();
  $("lists").hidden = !data.lists.length;
  $("lists").append(...data.lists.map((list) => make("button", { type: "button", "data-list": list.name, "aria-pressed": "false" }, list.title)));
  $("lists").addEventListener("click", (event) => {
    const list = data.lists.find((l) => l.name === event.target.dataset.list);
    if (list) openList(list);
  });
  $("layers").addEventListener("click", (event) => event.target.dataset.layer && setLayer(event.target.dataset.layer));
  $("strip").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) show(Number(button.dataset.at));
  });
  $("viewer").addEventListener("click", (event) => {
    if (event.target.id === "previous") show(gallery.at - 1);
    if (event.target.id === "next") show(gallery.at + 1);
  });

  /* ------------------------------------------------------------------------------------------------- table */

  const ROW = 34; // pixels; as in the style sheet
  const columns = [
    { name: "#", className: "col-n num", key: (row) => row, text: (row) => grouped(row + 1) },
    { name: samples.expression.some((e) => e !== null) ? "Expression" : "Sample", key: nameOf, text: nameOf },
    { name: "Image", className: "col-image", key: fileOf, text: fileOf },
    samples.tagSets.flat().length && { name: "Tags", className: "col-tags", key: (row) => tagsOf(row).join(", "), text: (row) => tagsOf(row).join(", ") },
    { name: "Status", className: "col-status", key: (row) => samples.runs[last].status[row], text: (row) => STATUS[samples.runs[last].status[row]] },
    ...runs.map((run, r) => ({
      name: two ? `${measureName} ${run.letter}` : measureName, className: "col-value num",
      key: (row) => measured[r][row], text: (row) => percent(measured[r][row]),
    })),
  ].filter(Boolean);
  if (two) columns.push({ name: "B − A", className: "col-value num", key: (row) => delta[row], text: (row) => signed(delta[row]) });
  const table = { rows: samples.id.map((_, row) => row), sort: 0, descending: false, first: -1, end: -1, active: 0 };

  function filtered() {
    const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const tag = $("tag").value, status = $("status").value;
    const low = $("low").value === "" ? null : Number($("low").value) / 100;
    const high = $("high").value === "" ? null : Number($("high").value) / 100;
    const values = [...measured, ...(two ? [delta] : [])][Number($("of").value)];
    const texts = words.length ? searchable() : null;
    const sets = samples.tagSets.map((set) => tag === "" || set.includes(tag));
    const letters = samples.runs[last].status;
    const kept = [];
    for (let row = 0; row < total; row++) {
      if (!sets[samples.tags[row]] || (status !== "" && letters[row] !== status)) continue;
      const value = values[row];
      if ((low !== null && !(value !== null && value >= low)) || (high !== null && !(value !== null && value <= high))) continue;
      if (texts && !words.every((word) => texts[row].includes(word))) continue;
      kept.push(row);
    }
    return kept;
  }
  const collator = new Intl.Collator("en", { numeric: true });
  /** Sorted by the chosen column; what has no value comes last in both directions, ties stay in the suite's order. */
  function sorted(rows) {
    const { key } = columns[table.sort], sign = table.descending ? -1 : 1;
    const keyed = rows.map((row) => [key(row), row]);
    keyed.sort(([a, i], [b, j]) => {
      if (a === null || b === null) return (a === null) - (b === null) || i - j;
      const order = typeof a === "string" ? collator.compare(a, b) : a - b;
      return sign * order || i - j;
    });
    return keyed.map(([, row]) => row);
  }
  function update({ keep = false } = {}) {
    const before = performance.now();
    table.rows = sorted(filtered());
    table.active = keep ? table.active : 0;
    if (!keep) $("table").scrollTop = 0;
    table.first = -1;
    render();
    $("count").textContent = table.rows.length === total ? `${grouped(total)} samples` : `${grouped(table.rows.length)} of ${grouped(total)}`;
    root.dataset.updateMs = (performance.now() - before).toFixed(1);
  }
  function line(at) {
    const row = table.rows[at];
    const cells = columns.map((column) => {
      const text = column.text(row);
      const value = column.name === "B − A" ? delta[row] : null;
      const tone = value === null || Math.abs(value) < 0.05 ? "" : value < 0 ? " loss" : " gain";
      return make("td", { className: (column.className?.includes("num") ? "num" : "") + tone, title: column.className?.includes("num") ? undefined : text }, text);
    });
    const shown = Number($("viewer").dataset.row) === row;
    return make("tr", {
      tabIndex: at === table.active ? 0 : -1, "data-at": at, "data-row": row, "aria-rowindex": at + 2, "aria-selected": String(shown),
    }, ...cells);
  }
  const pad = (rows) => {
    const cell = make("td", { colSpan: columns.length });
    cell.style.height = `${rows * ROW}px`;
    return make("tr", { className: "pad", "aria-hidden": "true" }, cell);
  };
  /** Only the rows in sight are in the document; empty rows above and below keep the scroll bar honest. */
  function render() {
    const box = $("table");
    const first = Math.max(0, Math.floor(box.scrollTop / ROW) - 10);
    const end = Math.min(table.rows.length, Math.ceil((box.scrollTop + (box.clientHeight || 600)) / ROW) + 10);
    if (first === table.first && end === table.end) return;
    [table.first, table.end] = [first, end];
    const focused = document.activeElement?.closest?.("#body tr") !== null && document.activeElement?.closest?.("#body tr") !== undefined;
    const lines = [];
    for (let at = first; at < end; at++) lines.push(line(at));
    if (!table.rows.length) lines.push(make("tr", { className: "none" }, make("td", { colSpan: columns.length }, total ? "No sample fits these filters." : "No expression was answered.")));
    $("body").replaceChildren(pad(first), ...lines, pad(table.rows.length - end));
    box.firstElementChild.setAttribute("aria-rowcount", table.rows.length + 1);
    if (focused) $("body").querySelector('tr[tabindex="0"]')?.focus({ preventScroll: true });
  }
  function mark(row) {
    for (const node of $("body").querySelectorAll("tr[data-row]")) node.setAttribute("aria-selected", String(Number(node.dataset.row) === row));
  }
  function move(at) {
    table.active = Math.max(0, Math.min(at, table.rows.length - 1));
    const box = $("table"), head = 36, top = table.active * ROW;
    if (top < box.scrollTop) box.scrollTop = top;
    if (top + ROW + head > box.scrollTop + box.clientHeight) box.scrollTop = top + ROW + head - box.clientHeight;
    table.first = -1;
    render();
    $("body").querySelector(`tr[data-at="${table.active}"]`)?.focus({ preventScroll: true });
  }
  const openRow = (at) => openList({ name: "table", title: "Table", rows: table.rows }, at, { scroll: true });

  $("heads").append(...columns.map((column, i) => {
    const button = make("button", { type: "button", "data-column": i }, column.name);
    return make("th", { scope: "col", className: column.className ?? "" }, button);
  }));
  $("heads").addEventListener("click", (event) => {
    const column = Number(event.target.dataset.column);
    if (Number.isNaN(column)) return;
    const numeric = columns[column].className?.includes("num") ?? false;
    table.descending = column === table.sort ? !table.descending : numeric && column > 0;
    table.sort = column;
    showSort();
    update();
  });
  function showSort() {
    [...$("heads").children].forEach((head, i) => {
      if (i === table.sort) head.setAttribute("aria-sort", table.descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
      head.firstChild.textContent = columns[i].name + (i === table.sort ? (table.descending ? " ↓" : " ↑") : "");
    });
  }
  let frame = 0;
  $("table").addEventListener("scroll", () => { cancelAnimationFrame(frame); frame = requestAnimationFrame(render); });
  $("body").addEventListener("click", (event) => {
    const node = event.target.closest("tr[data-at]");
    if (node) { table.active = Number(node.dataset.at); openRow(table.active); }
  });
  $("body").addEventListener("keydown", (event) => {
    const page = Math.floor($("table").clientHeight / ROW) - 2;
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -total, End: total };
    if (event.key in steps) { event.preventDefault(); move(table.active + steps[event.key]); }
    if (event.key === "Enter") { event.preventDefault(); openRow(table.active); }
  });
  const options = (pairs) => pairs.map(([value, text]) => make("option", { value }, text));
  const known = [...new Set(samples.tagSets.flat())].sort(collator.compare);
  $("tag").append(...options([["", "any"], ...known.map((tag) => [tag, tag])]));
  $("tag").parentElement.hidden = !known.length;
  $("status").append(...options([["", "any"], ...Object.entries(STATUS).filter(([letter]) => samples.runs[last].status.includes(letter))]));
  const ranges = [...runs.map((run, r) => [String(r), `${measureName} ${run.letter}`]), ...(two ? [["2", "B − A"]] : [])];
  $("of").append(...options(ranges));
  $("of").value = String(last);
  $("of-label").hidden = !two;
  $("range-name").textContent = two ? "between" : measureName;
  let typing = 0;
  $("filters").addEventListener("input", (event) => {
    clearTimeout(typing);
    typing = setTimeout(update, event.target.id === "search" ? 80 : 0);
  });
  $("filters").addEventListener("reset", () => setTimeout(() => { $("of").value = String(last); update(); }));
  $("filters").addEventListener("submit", (event) => event.preventDefault());

  /* ------------------------------------------------------------------------------------------------- keys, start */

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const editing = event.target.closest?.("input, select, textarea");
    if (event.key === "Escape" && editing) editing.blur();
    if (editing) return;
    const layers = ["overlay", "truth", "prediction", "picture"];
    if (event.key === "/") { event.preventDefault(); $("search").focus(); $("search").select(); }
    else if (event.key === "ArrowLeft") { event.preventDefault(); show(gallery.at - 1); }
    else if (event.key === "ArrowRight") { event.preventDefault(); show(gallery.at + 1); }
    else if (layers[Number(event.key) - 1]) setLayer(layers[Number(event.key) - 1]);
  });

  showSort();
  update();
  const named = location.hash.startsWith("#sample=") ? samples.id.indexOf(decodeURIComponent(location.hash.slice(8))) : -1;
  if (named >= 0) openList({ name: "table", title: "Table", rows: table.rows }, table.rows.indexOf(named), { scroll: true });
  else if (gallery.list) openList(gallery.list, 0, { remember: false });
  else show(0);
  root.dataset.startMs = (performance.now() - started).toFixed(1);
})();
