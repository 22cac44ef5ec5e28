"use strict";
(() => {
  const { SIZE, stack, wire } = places;
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const NS = "http://www.w3.org/2000/svg";
  const lines = new Map(data.lines.map((line) => [line.n, line]));
  const numbers = new Map(data.lines.map((line) => [line.name, line.n]));
  const home = new Map(); // line -> number of its item
  data.items.forEach((item, i) => item.lines.forEach((n) => home.set(n, i)));
  const open = new Set(); // items that are unfolded
  const state = { step: 0, way: null, kept: null, zoom: 0 };

  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) {
      if (key === "class") element.className = value; else if (key === "onclick") element.onclick = value;
      else element.setAttribute(key, value);
    }
    element.append(...children.filter((child) => child !== null));
    return element;
  };
  const draw = (tag, attributes, parent) => {
    const element = document.createElementNS(NS, tag);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (parent) parent.append(element);
    return element;
  };
  const cut = (text, most) => // to its first characters, or to its last where `most` is negative
    (text.length <= Math.abs(most) ? text : most > 0 ? text.slice(0, most - 1) + "…" : "…" + text.slice(most + 1));

  const sizeOf = (n) => (lines.get(n).leaf ? SIZE.leaf : SIZE.node);
  const vias = (layout) => new Map(layout.edges.map(([a, b, via]) => [a + ">" + b, via]));
  const outerVia = vias(data.outer);
  const viasOf = (item) => (item.vias ||= vias(item.inner));

  function render() {
    const inner = new Map(), sizes = [];
    data.items.forEach((item, i) => {
      if (!item.group) sizes.push(sizeOf(item.lines[0]));
      else if (!open.has(i)) sizes.push(SIZE.group);
      else {
        const box = stack(item.inner, item.lines.map(sizeOf), SIZE.gapX, SIZE.row);
        inner.set(i, box);
        sizes.push([box.width + 2 * SIZE.pad, box.height + 2 * SIZE.pad + SIZE.head]);
      }
    });
    const holder = byId("graph"), margin = SIZE.margin;
    const room = Math.max(280, holder.clientWidth - 8), grouped = data.items.some((item) => item.group);
    const fits = (stacked, least) => Math.min(1.3, Math.max(least, room / (stacked.width + 2 * margin)));
    let outer = stack(data.outer, sizes, SIZE.gapX, SIZE.row), zoom = fits(outer, 0.75);
    if (zoom * (outer.width + 2 * margin) > room || grouped) {
      const folded = stack(data.outer, sizes, SIZE.gapX, SIZE.row, room - 2 * margin);
      if (grouped || folded.width <= room) [outer, zoom] = [folded, Math.min(1, fits(folded, 0.75))];
    }
    if (outer.bands.length === 1 && !open.size) { // rows apart, as far as there is room
      const rows = Math.max(0.5, ...data.outer.y), free = holder.clientHeight / zoom - 2 * margin - outer.height;
      outer = stack(data.outer, sizes, SIZE.gapX, Math.min(SIZE.most, SIZE.row + Math.max(0, 0.8 * free) / rows));
    }
    zoom = state.zoom ||= zoom;
    const width = outer.width + 2 * margin, height = outer.height + 2 * margin;
    const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, xmlns: NS });
    const marker = draw("marker", { id: "tip", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7,
      markerUnits: "userSpaceOnUse", orient: "auto" }, draw("defs", {}, svg));
    draw("path", { d: "M0 0L8 4L0 8z", fill: "#667" }, marker);
    const boxes = draw("g", {}, svg), wires = draw("g", {}, svg), nodes = draw("g", {}, svg);
    const place = new Map(); // line -> {x, y, w, h, element}

    data.items.forEach((item, i) => {
      const [x, y] = [outer.at[i][0] + margin, outer.at[i][1] + margin], [w, h] = sizes[i];
      if (!item.group) { place.set(item.lines[0], node(nodes, item.lines[0], x, y)); return; }
      const group = draw("g", { class: "node group" + (open.has(i) ? " open" : ""), "data-item": i }, open.has(i) ? boxes : nodes);
      draw("rect", { x: x - w / 2, y: y - h / 2, width: w, height: h, rx: 8 }, group);
      const turn = () => {
        if (!item.inner) { inside(item); return; }
        open.has(i) ? open.delete(i) : open.add(i);
        render();
        document.querySelector(`[data-item="${i}"]`).focus({ preventScroll: true });
      };
      button(group, `${item.title}, ${item.told}`, turn, () => { if (!open.has(i)) inside(item); });
      if (item.inner) group.setAttribute("aria-expanded", open.has(i));
      if (!open.has(i)) {
        draw("text", { x, y: y - 3 }, group).textContent = cut(item.title, -20);
        draw("text", { x, y: y + 13, class: "sub" }, group).textContent = item.told;
        item.lines.forEach((n) => place.set(n, { x, y, w, h, element: group }));
      } else {
        draw("text", { x, y: y - h / 2 + 18 }, group).textContent = item.title;
        const box = inner.get(i), left = x - w / 2 + SIZE.pad, top = y - h / 2 + SIZE.pad + SIZE.head;
        item.lines.forEach((n, k) => place.set(n, node(nodes, n, left + box.at[k][0], top + box.at[k][1])));
        box.left = left; box.top = top;
      }
    });

    const edges = new Map(), drawn = new Map(); // edges that run between the same boxes are one wire
    const turns = new Map(); // of each band the heights of the wires that go on in the next
    for (const [a, b] of data.edges) {
      const from = place.get(a), to = place.get(b);
      if (from.element === to.element) continue;
      const key = `${a}>${b}`, ha = home.get(a), hb = home.get(b);
      const placed = (box, left, top, band) => (k) => [box.at[k][0] + left, box.at[k][1] + top, band ?? box.at[k][2]];
      const here = outer.at[ha][2], there = outer.at[hb][2];
      let via = [];
      if (ha !== hb) {
        via = (outerVia.get(ha + ">" + hb) || []).map(placed(outer, margin, margin));
        if (inner.has(hb)) {
          const item = data.items[hb], box = inner.get(hb), entry = item.lines.length; // where edges from outside come in
          const way = viasOf(item).get(entry + ">" + item.lines.indexOf(b)) || [];
          via.push(...[entry, ...way].map(placed(box, box.left, box.top, there)));
        }
      } else {
        const item = data.items[ha], box = inner.get(ha), k = item.lines.indexOf(a), l = item.lines.indexOf(b);
        via = (viasOf(item).get(k + ">" + l) || []).map(placed(box, box.left, box.top, here));
      }
      const path = wire([[from.x + from.w / 2, from.y, here], ...via, [to.x - to.w / 2 - 1, to.y, there]], outer.bands, turns);
      if (!drawn.has(path)) drawn.set(path, draw("path", { d: path, class: "edge" }, wires));
      edges.set(key, drawn.get(path));
    }
    const before = [holder.scrollLeft, holder.scrollTop];
    holder.replaceChildren(svg);
    svg.setAttribute("width", width * zoom);
    svg.setAttribute("height", height * zoom);
    [holder.scrollLeft, holder.scrollTop] = before;
    state.place = place;
    state.edges = edges;
    paint();
  }

  function node(parent, n, x, y) {
    const line = lines.get(n), [w, h] = sizeOf(n);
    const element = draw("g", { class: "node" + (line.leaf ? " leaf" : ""), "data-line": n }, parent);
    if (line.leaf) draw("rect", { x: x - w / 2, y: y - h / 2, width: w, height: h, rx: 5 }, element);
    else draw("circle", { cx: x, cy: y, r: w / 2 }, element);
    const text = line.leaf ? cut(line.name.split(".").pop(), 12) : cut(line.symbol, 7);
    draw("text", { x, y: y + 4, class: text.length > 6 && !line.leaf ? "long" : "" }, element).textContent = text;
    if (!line.leaf)
      draw("text", { x, y: y - h / 2 - 5, class: line.named || n === data.lines.length ? "name" : "sub" }, element)
        .textContent = cut(line.name.split("/").pop(), 14);
    draw("text", { x, y: y + h / 2 + 13, class: "sub value" }, element).textContent = brief(data.pictures[line.value]);
    const grad = draw("text", { x, y: y + h / 2 + 25, class: "sub grad" }, element);
    button(element, `line ${n}: ${line.name} = ${line.expression}`, () => {
      state.kept = state.kept === n ? null : n;
      detail(n);
      paint();
    }, () => detail(n));
    return { x, y, w, h, element, grad };
  }

  // An array in a few characters: up to three numbers, else mean ± standard deviation.
  function brief(pic) {
    if (!pic || !pic.cells) return "";
    const digits = (text, most) => {
      const x = Number(text), size = Math.abs(x);
      if (size && (size < 1e-3 || size >= 1e5)) return x.toExponential(1).replace("e+", "e");
      return String(Number(x.toPrecision(most)));
    };
    if (pic.few && pic.few.length <= 3) return pic.few.map((x) => digits(x, 3)).join(", ");
    if (!Number(pic.std)) return `all ${digits(pic.mean, 3)}`;
    return `${Math.abs(pic.mean) < 1e-12 * pic.std ? 0 : digits(pic.mean, 2)} ± ${digits(pic.std, 2)}`;
  }

  // Something drawn that is pressed by mouse or keyboard, and looked at by pointing or by moving the focus there.
  function button(element, name, press, look) {
    element.setAttribute("tabindex", 0);
    element.setAttribute("role", "button");
    element.setAttribute("aria-label", name);
    const peek = () => { if (state.kept === null) look(); };
    element.addEventListener("mouseenter", peek);
    element.addEventListener("focus", peek);
    element.addEventListener("click", (event) => { event.stopPropagation(); press(); });
    element.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      press();
    });
  }

  // ---- what is lit ---------------------------------------------------------------------------------------
  function paint() {
    const all = [...new Set([...state.place.values()].map((p) => p.element)), ...new Set(state.edges.values())];
    all.forEach((e) => e.classList.remove("done", "now", "reached", "lit", "kept"));
    const mark = (n, name) => state.place.get(n).element.classList.add(name);
    const wire = (a, b, name) => state.edges.get(`${a}>${b}`)?.classList.add(name);
    data.steps.slice(0, state.step).forEach((s, k) => {
      const last = k === state.step - 1;
      wire(s.to, s.line, last ? "now" : "done");
      mark(s.to, last ? "now" : "reached");
      if (last) mark(s.line, "now");
      mark(s.line, "reached");
    });
    const grads = new Map(); // of each line what has come in so far
    if (data.steps.length) grads.set(data.lines.length, lines.get(data.lines.length).cotangent);
    data.steps.slice(0, state.step).forEach((s) => grads.set(s.to, s.running ?? s.outgoing));
    state.place.forEach(({ grad }, n) => { if (grad) grad.textContent = brief(data.pictures[grads.get(n)]); });
    if (state.way) state.way.edges.forEach(([a, b]) => { wire(a, b, "lit"); mark(a, "lit"); mark(b, "lit"); });
    if (state.kept !== null) mark(state.kept, "kept");
  }

  // ---- pictures --------------------------------------------------------------------------------------------
  function colour(level) { // blue below zero, white at it, red above
    if (level === null) return "#000";
    const t = Math.abs(level) / 127, fade = (c) => Math.round(255 + (c - 255) * t);
    return level >= 0 ? `rgb(${fade(178)},${fade(24)},${fade(43)})` : `rgb(${fade(33)},${fade(102)},${fade(172)})`;
  }

  function picture(number, title, kind) {
    const pic = data.pictures[number]; // of null there is none
    if (!pic || !pic.cells) return make("div", { class: "pic " + kind }, make("div", { class: "title" }, title),
      pic ? `empty [${pic.shape.join(", ")}]` : "not kept");
    const rows = pic.cells.length, columns = pic.cells[0].length;
    const cell = Math.max(3, Math.min(18, Math.floor(200 / columns), Math.floor(150 / rows)));
    const map = make("canvas", { width: columns * cell, height: rows * cell, title: "heat map" });
    const brush = map.getContext("2d");
    pic.cells.forEach((row, r) => row.forEach((level, c) => {
      brush.fillStyle = colour(level);
      brush.fillRect(c * cell, r * cell, cell, cell);
    }));
    const bars = make("canvas", { width: 110, height: 56, title: "histogram" }), pen = bars.getContext("2d");
    const most = Math.max(...pic.hist, 1);
    pen.fillStyle = kind === "grad" ? "#b42318" : "#1a7f37";
    pic.hist.forEach((n, k) => pen.fillRect(k * 5.5, 56 - (54 * n) / most, 4.5, (54 * n) / most));
    const shape = `[${pic.shape.join(", ")}]`, bad = pic.bad ? `, ${pic.bad} not finite` : "";
    const text = pic.few && pic.few.length <= 3 ? "" : `mean ${pic.mean}, std ${pic.std}, ${pic.min} to ${pic.max}${bad}` +
      (pic.whole ? "" : ", cells picked evenly");
    return make("div", { class: "pic " + kind },
      make("div", { class: "title" }, `${title} `, make("span", { class: "soft" }, shape)), map, pic.few && pic.few.length <= 8 ? null : bars,
      make("div", { class: "soft" }, text), pic.few ? make("div", { class: "few" }, pic.few.join("  ")) : null);
  }

  function facts(pairs) {
    const list = make("dl");
    pairs.forEach(([name, value]) => { if (value) list.append(make("dt", {}, name), make("dd", {}, value)); });
    return list;
  }

  function detail(n) {
    const line = lines.get(n);
    byId("detail").replaceChildren(
      make("h2", {}, `line ${n}: ${line.name}`),
      facts([["computes", line.expression], ["layer", line.layer], ["type", `${line.dtype} [${line.shape.join(", ")}]`],
        ["keeps", line.leaf ? "" : line.keeps]]),
      picture(line.value, "value", "value"),
      data.steps.length ? picture(line.cotangent, "cotangent", "grad") : "");
  }

  function inside(item) {
    const rows = item.lines.map((n) => lines.get(n)).filter((line) => !line.leaf);
    byId("detail").replaceChildren(
      make("h2", {}, `inside ${item.title}`), facts(rows.map((line) => [line.name.split("/").pop(), line.expression])));
  }

  function showStep() {
    const step = data.steps[state.step - 1], out = byId("at");
    if (!step) {
      out.textContent = data.steps.length ? `${data.steps.length} steps; move the slider` : "";
      byId("step").replaceChildren();
      return;
    }
    const from = lines.get(step.line), to = lines.get(step.to);
    out.textContent = `step ${state.step} of ${data.steps.length}: ${from.name} → ${to.name}`;
    byId("step").replaceChildren(
      make("h2", {}, `step ${state.step}: from ${from.name} to ${to.name}`),
      facts([["line", `${from.name} = ${from.expression}`], ["rule", step.rule], ["formula", step.formula],
        ["local", step.localPic === null ? step.local : ""]]),
      picture(step.incoming, "incoming", "grad"),
      step.localPic === null ? "" : picture(step.localPic, "local derivative", "value"),
      picture(step.outgoing, "outgoing", "grad"),
      step.running === null ? "" : picture(step.running, `running sum at ${to.name}, ${step.arrived} of ${step.uses}`, "grad"));
  }

  function showPaths() {
    const panel = byId("paths");
    panel.replaceChildren();
    data.paths.forEach((split, place) => {
      const list = make("details", place ? {} : { open: "" }, make("summary", {}, `paths of the gradient of ${split.leaf}`));
      panel.append(list);
      // Of long ways only what they differ in: not the lines that all pass which were not merged before them.
      const end = (way) => (way.labels.at(-1) === "..." ? numbers.get(way.labels.at(-2)) ?? 0 : Infinity);
      const common = (label) => label !== "..." && split.ways.length > 1 && split.ways.some((way) => way.labels.length > 6) &&
        split.ways.every((way) => way.labels.includes(label) || end(way) < numbers.get(label));
      for (const way of split.ways) {
        const share = way.share === null ? "" : `${(100 * way.share).toFixed(1)} %`;
        const name = [split.leaf, ...way.labels.filter((label) => !common(label)), data.result].join(" → ");
        const bar = make("i", { style: `width:${Math.min(100, Math.abs(100 * (way.share || 0)))}%` });
        const button = make("button", { class: "way", onclick: () => {
          const on = state.way !== way;
          document.querySelectorAll(".way").forEach((b) => b.classList.remove("on"));
          document.querySelectorAll(".wayPicture").forEach((p) => p.remove());
          state.way = on ? way : null;
          if (on) {
            button.classList.add("on");
            const shown = picture(way.picture, "contribution", "grad");
            shown.classList.add("wayPicture");
            button.after(shown);
          }
          paint();
        } }, name, make("span", { class: "soft" }, share, make("br"), `norm ${way.norm}`), bar);
        list.append(button);
      }
      if (split.more) list.append(make("div", { class: "soft" }, split.more));
    });
  }

  // ---- controls ----------------------------------------------------------------------------------------------
  const slider = byId("slider");
  const go = (step) => {
    state.step = Math.max(0, Math.min(data.steps.length, step));
    slider.value = state.step;
    showStep();
    paint();
    const now = data.steps[state.step - 1];
    if (now) state.place.get(now.to).element.scrollIntoView({ block: "nearest", inline: "nearest" });
  };
  let timer = null;
  const stop = () => { clearInterval(timer); timer = null; byId("play").textContent = "▶"; };
  slider.max = data.steps.length;
  slider.addEventListener("input", () => { stop(); go(Number(slider.value)); });
  byId("play").onclick = () => {
    if (timer) { stop(); return; }
    if (state.step >= data.steps.length) go(0);
    byId("play").textContent = "❚❚";
    timer = setInterval(() => { go(state.step + 1); if (state.step >= data.steps.length) stop(); }, 700);
  };
  const groups = data.items.map((item, i) => [item, i]).filter(([item]) => item.inner).map(([, i]) => i);
  byId("fold").onclick = () => { open.clear(); render(); };
  byId("unfold").onclick = () => { groups.forEach((i) => open.add(i)); render(); };
  if (!groups.length) { byId("fold").remove(); byId("unfold").remove(); }
  byId("smaller").onclick = () => { state.zoom /= 1.2; render(); };
  byId("larger").onclick = () => { state.zoom *= 1.2; render(); };
  byId("program").textContent = data.program;
  byId("note").textContent = data.note;
  if (data.lines.length <= 60) groups.forEach((i) => open.add(i));
  if (!data.steps.length) document.querySelector(".player").style.display = "none";
  showPaths();
  render();
  go(0);
  window.addEventListener("resize", render);
})();
