"use strict";
// Columns for layers, boxes stacked in them. Where the whole is too wide it goes on in another band below, as a line of
// text does.
const places = (() => {
  const SIZE = { node: [44, 44], leaf: [84, 30], group: [124, 46], gapX: 38, gapY: 46, row: 90, most: 150, pad: 34, head: 24,
    margin: 34, band: 84, few: 2 };

  // Places of a layout's items, the middle of each and its band. limit: the width of a band, in a layout with edges.
  function stack(layout, sizes, gapX, row, limit = Infinity) {
    const columns = [], at = [], bands = [], size = (i) => sizes[i] || [0, 8];
    layout.x.forEach((x, i) => (columns[x] ||= []).push(i));
    const widths = Array.from(columns, (column) => Math.max(10, ...(column || []).map((i) => size(i)[0])));
    const cuts = columns.map(() => new Set()); // the wires that run on to the right of each column
    if (limit < Infinity)
      for (const [a, b] of layout.edges) for (let c = layout.x[a]; c < layout.x[b]; c++) cuts[c].add(a);
    let bottom = 0;
    for (let first = 0; first < columns.length;) {
      let width = widths[first], last = first; // the last column whose right is cut by few wires, if one is
      for (let c = first + 1; c < columns.length && (width + gapX + widths[c] <= limit || last === first); c++) {
        width += gapX + widths[c];
        if (c + 1 === columns.length || cuts[c].size <= SIZE.few) last = c;
      }
      last = limit < Infinity ? last : columns.length - 1;
      let left = 0, low = Infinity, high = -Infinity;
      for (let c = first; c <= last; c++) {
        const column = (columns[c] || []).sort((a, b) => layout.y[a] - layout.y[b]);
        let end = -Infinity, shift = 0;
        for (const i of column) {
          const half = size(i)[1] / 2, wish = layout.y[i] * row, y = Math.max(wish, end + SIZE.gapY + half);
          shift += y - wish;
          end = y + half;
          at[i] = [left + widths[c] / 2, y, bands.length];
        }
        for (const i of column) {
          at[i][1] -= shift / column.length;
          low = Math.min(low, at[i][1] - size(i)[1] / 2);
          high = Math.max(high, at[i][1] + size(i)[1] / 2);
        }
        left += widths[c] + gapX;
      }
      const top = bands.length ? bottom + SIZE.band : 0;
      for (let c = first; c <= last; c++) for (const i of columns[c] || []) at[i][1] += top - low;
      bottom = top + high - low;
      bands.push({ top, bottom, width: left - gapX });
      first = last + 1;
    }
    return { at, bands, width: Math.max(0, ...bands.map((band) => band.width)), height: bottom };
  }

  // A smooth wire through points; from one band to the next it turns around the end of the one and the start of the other.
  function wire(points, bands, turns) {
    let path = `M${points[0][0]} ${points[0][1]}`;
    for (let k = 1; k < points.length; k++) {
      const [x0, y0, band] = points[k - 1], [x1, y1, next] = points[k], middle = (x0 + x1) / 2;
      if (band === next) { path += `C${middle} ${y0} ${middle} ${y1} ${x1} ${y1}`; continue; }
      const here = turns.get(band) ?? turns.set(band, []).get(band), r = 8;
      if (!here.includes(y0)) here.push(y0);
      const shift = 7 * here.indexOf(y0);
      const right = SIZE.margin + bands[band].width + 10 + shift, left = SIZE.margin - 24 + shift;
      const level = SIZE.margin + bands[band].bottom + 38 + shift;
      path += `H${right - r}Q${right} ${y0} ${right} ${y0 + r}V${level - r}Q${right} ${level} ${right - r} ${level}` +
        `H${left + r}Q${left} ${level} ${left} ${level + r}V${y1 - r}Q${left} ${y1} ${left + r} ${y1}H${x1}`;
    }
    return path;
  }

  return { SIZE, stack, wire };
})();
