"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const NS = "http://www.w3.org/2000/svg";
  const lines = new Map(data.lines.map((line) => [line.n, line]));
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
  const cut = (text, most) => (text.length > most ? text.slice(0, most - 1) + "…" : text);

  // ---- places: columns for layers, boxes stacked in them; an open group is a box with its own columns ----
  const SIZE = { node: [44, 44], leaf: [76, 30], group: [116, 46], gapX: 58, gapY: 26, row: 70, pad: 22, head: 24 };

  function stack(layout, sizes, gapX) {
    const count = layout.x.length, columns = [];
    for (let i = 0; i < count; i++) (columns[layout.x[i]] ||= []).push(i);
    const at = new Array(count);
    let left = 0;
    for (let c = 0; c < columns.length; c++) {
      const column = (columns[c] || []).sort((a, b) => layout.y[a] - layout.y[b]);
      const width = Math.max(10, ...column.map((i) => (sizes[i] || [0, 8])[0]));
      let bottom = -Infinity, shift = 0;
      for (const i of column) {
        const height = (sizes[i] || [0, 8])[1], wish = layout.y[i] * SIZE.row;
        const y = Math.max(wish, bottom + SIZE.gapY + height / 2);
        shift += y - wish;
        bottom = y + height / 2;
        at[i] = [left + width / 2, y];
      }
      for (const i of column) at[i][1] -= shift / column.length;
      left += width + gapX;
    }
    let low = Infinity, high = -Infinity;
    at.forEach((p, i) => { const h = (sizes[i] || [0, 8])[1]; low = Math.min(low, p[1] - h / 2); high = Math.max(high, p[1] + h / 2); });
    at.forEach((p) => { p[1] -= low; });
    return { at, width: Math.max(0, left - gapX), height: Math.max(0, high - low) };
  }

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
        const box = stack(item.inner, item.lines.map(sizeOf), 44);
        inner.set(i, box);
        sizes.push([box.width + 2 * SIZE.pad, box.height + 2 * SIZE.pad + SIZE.head]);
      }
    });
    const outer = stack(data.outer, sizes, SIZE.gapX);
    const margin = 30, width = outer.width + 2 * margin, height = outer.height + 2 * margin;
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
      button(group, `${item.title}, ${item.lines.length} lines`, turn, () => { if (!open.has(i)) inside(item); });
      if (item.inner) group.setAttribute("aria-expanded", open.has(i));
      if (!open.has(i)) {
        draw("text", { x, y: y - 3 }, group).textContent = cut(item.title, 17);
        draw("text", { x, y: y + 13, class: "sub" }, group).textContent = `${item.lines.length} line${item.lines.length > 1 ? "s" : ""}`;
        item.lines.forEach((n) => place.set(n, { x, y, w, h, element: group }));
      } else {
        draw("text", { x, y: y - h / 2 + 18 }, group).textContent = item.title;
        const box = inner.get(i), left = x - w / 2 + SIZE.pad, top = y - h / 2 + SIZE.pad + SIZE.head;
        item.lines.forEach((n, k) => place.set(n, node(nodes, n, left + box.at[k][0], top + box.at[k][1])));
        box.left = left; box.top = top;
      }
    });

    const edges = new Map(), drawn = new Map(); // edges that run between the same boxes are one wire
    for (const [a, b] of data.edges) {
      const from = place.get(a), to = place.get(b);
      if (from.element === to.element) continue;
      const key = `${a}>${b}`, ha = home.get(a), hb = home.get(b);
      let via = [];
      if (ha !== hb) {
        via = (outerVia.get(ha + ">" + hb) || []).map((d) => [outer.at[d][0] + margin, outer.at[d][1] + margin]);
        if (inner.has(hb)) via.push(...wayIn(data.items[hb], inner.get(hb), b));
      } else {
        const item = data.items[ha], box = inner.get(ha), k = item.lines.indexOf(a), l = item.lines.indexOf(b);
        via = (viasOf(item).get(k + ">" + l) || []).map((d) => [box.left + box.at[d][0], box.top + box.at[d][1]]);
      }
      const points = [[from.x + from.w / 2, from.y], ...via, [to.x - to.w / 2 - 1, to.y]];
      let path = `M${points[0][0]} ${points[0][1]}`;
      for (let k = 1; k < points.length; k++) {
        const [x0, y0] = points[k - 1], [x1, y1] = points[k], middle = (x0 + x1) / 2;
        path += `C${middle} ${y0} ${middle} ${y1} ${x1} ${y1}`;
      }
      if (!drawn.has(path)) drawn.set(path, draw("path", { d: path, class: "edge" }, wires));
      edges.set(key, drawn.get(path));
    }
    const holder = byId("graph");
    const before = [holder.scrollLeft, holder.scrollTop];
    holder.replaceChildren(svg);
    if (!state.zoom) state.zoom = Math.max(0.75, Math.min(1.15, (holder.clientWidth - 20) / width));
    svg.setAttribute("width", width * state.zoom);
    svg.setAttribute("height", height * state.zoom);
    [holder.scrollLeft, holder.scrollTop] = before;
    state.place = place;
    state.edges = edges;
    paint();
  }

  // Where an edge from outside enters an open group: its entry and the dummies from there on.
  function wayIn(item, box, b) {
    const entry = item.lines.length, spot = (k) => [box.left + box.at[k][0], box.top + box.at[k][1]];
    return [spot(entry), ...(viasOf(item).get(entry + ">" + item.lines.indexOf(b)) || []).map(spot)];
  }

  function node(parent, n, x, y) {
    const line = lines.get(n), [w, h] = sizeOf(n);
    const element = draw("g", { class: "node" + (line.leaf ? " leaf" : ""), "data-line": n }, parent);
    if (line.leaf) draw("rect", { x: x - w / 2, y: y - h / 2, width: w, height: h, rx: 5 }, element);
    else draw("circle", { cx: x, cy: y, r: w / 2 }, element);
    draw("text", { x, y: y + 4 }, element).textContent = line.leaf ? cut(line.name.split(".").pop(), 11) : cut(line.symbol, 7);
    if (!line.leaf && (line.named || n === data.lines.length))
      draw("text", { x, y: y - h / 2 - 4, class: "sub" }, element).textContent = cut(line.name.split("/").pop(), 14);
    button(element, `line ${n}: ${line.name} = ${line.expression}`, () => {
      state.kept = state.kept === n ? null : n;
      detail(n);
      paint();
    }, () => detail(n));
    return { x, y, w, h, element };
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
    const text = pic.shape.length === 0 ? "" : `mean ${pic.mean}, std ${pic.std}, ${pic.min} to ${pic.max}${bad}` +
      (pic.whole ? "" : ", cells picked evenly");
    return make("div", { class: "pic " + kind },
      make("div", { class: "title" }, `${title} `, make("span", { class: "soft" }, shape)), map, pic.shape.length ? bars : null,
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
    for (const split of data.paths) {
      panel.append(make("h2", {}, `paths of the gradient of ${split.leaf}`));
      for (const way of split.ways) {
        const share = way.share === null ? "" : `  ${(100 * way.share).toFixed(1)} %`;
        const name = [split.leaf, ...way.labels, data.result].join(" → ");
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
        } }, name, make("span", { class: "soft" }, `  norm ${way.norm}${share}`), bar);
        panel.append(button);
      }
    }
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
})();
