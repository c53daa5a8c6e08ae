// ---------------------------------------------------------------- HU along a line
const SVG = "http://www.w3.org/2000/svg";
const svgNode = (tag, attributes, text) => {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
};
const nice = (span) => { const raw = span / 5, unit = 10 ** Math.floor(Math.log10(raw)); return [1, 2, 5, 10].map((k) => k * unit).find((k) => k >= raw); };

// Voxels on the line from p to q, one each half voxel, and their distance from p in mm.
const along = (facts, p, q) => {
  const { size, spacing } = facts, count = Math.max(1, 2 * Math.ceil(Math.max(...p.map((value, axis) => Math.abs(q[axis] - value)))));
  const length = Math.hypot(...p.map((value, axis) => (q[axis] - value) * spacing[axis]));
  return Array.from({ length: count + 1 }, (_, k) => {
    const [z, y, x] = p.map((value, axis) => Math.round(value + ((q[axis] - value) * k) / count));
    return { mm: (length * k) / count, i: (z * size[1] + y) * size[2] + x };
  });
};

const drawProfile = (box, facts, [p, q], curves) => {
  const points = along(facts, p, q), W = 720, H = 240, left = 56, right = 10, top = 10, bottom = 36, end = points[points.length - 1].mm || 1;
  const values = curves.flatMap(({ hu }) => points.map(({ i }) => hu[i])), low = Math.min(...values) - 20, high = Math.max(...values) + 20;
  const x = (mm) => left + ((W - left - right) * mm) / end, y = (hu) => top + ((H - top - bottom) * (high - hu)) / (high - low);
  const svg = svgNode("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `HU along a line of ${end.toFixed(0)} mm: ${curves.map((c) => c.name).join(", ")}` });
  for (let hu = Math.ceil(low / nice(high - low)) * nice(high - low); hu <= high; hu += nice(high - low)) {
    svg.append(svgNode("line", { x1: left, x2: W - right, y1: y(hu), y2: y(hu), class: "grid" }), svgNode("text", { x: left - 6, y: y(hu) + 4, "text-anchor": "end" }, hu.toFixed(0).replace("-", "\u2212")));
  }
  for (let mm = 0; mm <= end; mm += nice(end)) svg.append(svgNode("text", { x: x(mm), y: H - bottom + 16, "text-anchor": "middle" }, mm.toFixed(0)));
  svg.append(svgNode("text", { x: (left + W - right) / 2, y: H - 4, "text-anchor": "middle" }, "mm along the line"), svgNode("text", { x: 2, y: H - bottom + 16 }, "HU"));
  curves.forEach(({ hu, kind }) => svg.append(svgNode("polyline", { class: `curve ${kind}`, points: points.map((point) => `${x(point.mm).toFixed(1)},${y(hu[point.i]).toFixed(1)}`).join(" ") })));
  const legend = make("p", { className: "legend" }, ...curves.map(({ name, kind }) => make("span", { className: kind, textContent: name })));
  box.replaceChildren(legend, svg);
};
