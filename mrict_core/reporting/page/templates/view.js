// ---------------------------------------------------------------- planes: from voxels to a canvas
// Axes of a volume: 0 slices, 1 rows, 2 columns. A plane runs right along `u`, down along `v`, and fixes `f`.
const AXES = [{ u: 2, v: 1, f: 0 }, { u: 2, v: 0, f: 1 }, { u: 1, v: 0, f: 2 }];
const LETTERS = [[4, 5], [2, 3], [0, 1]]; // of an axis in `sides`: at its first and last voxel
const clamp = (value, low, high) => Math.max(low, Math.min(high, value));

const planeOf = (facts, number) => {
  const { u, v, f } = AXES[number], { size, spacing, sides } = facts;
  const up = v === 0 && "SA".includes(sides[5] || "S"); // superior or anterior is shown at the top
  const strides = [size[1] * size[2], size[2], 1], letters = LETTERS[v].map((k) => sides[k] || "");
  return {
    number, u, v, f, width: size[u], height: size[v], mmWide: size[u] * spacing[u], mmHigh: size[v] * spacing[v],
    marks: [sides[LETTERS[u][0]] || "", sides[LETTERS[u][1]] || "", letters[up ? 1 : 0], letters[up ? 0 : 1]],
    down: (index) => (up ? size[v] - 1 - index : index), // voxel along v <=> pixel row
    start: (at) => at[f] * strides[f],
    step: strides[u],
    row: (y) => (up ? size[v] - 1 - y : y) * strides[v],
    voxel: (x, y, at) => { const found = [...at]; found[u] = clamp(x, 0, size[u] - 1); found[v] = clamp(up ? size[v] - 1 - y : y, 0, size[v] - 1); return found; },
  };
};

// What part of a plane is seen, in pixels of the plane: all of it, or less around `centre` when zoomed.
const seenPart = (plane, zoom, centre) => {
  const width = plane.width / zoom, height = plane.height / zoom;
  return { width, height, left: clamp(centre[plane.u] + 0.5 - width / 2, 0, plane.width - width), top: clamp(plane.down(centre[plane.v]) + 0.5 - height / 2, 0, plane.height - height) };
};

const scratch = document.createElement("canvas");
// colourOf(i, data, place) writes the colour of voxel i.
const paintPlane = (canvas, plane, at, part, colourOf) => {
  scratch.width = plane.width; scratch.height = plane.height;
  const inner = scratch.getContext("2d"), image = inner.createImageData(plane.width, plane.height);
  for (let y = 0, place = 0; y < plane.height; y += 1) {
    for (let x = 0, i = plane.start(at) + plane.row(y); x < plane.width; x += 1, i += plane.step, place += 4) { colourOf(i, image.data, place); image.data[place + 3] = 255; }
  }
  inner.putImageData(image, 0, 0);
  const outer = canvas.getContext("2d");
  outer.imageSmoothingEnabled = false; // voxels as they are
  outer.drawImage(scratch, part.left, part.top, part.width, part.height, 0, 0, canvas.width, canvas.height);
};

const paintLine = (canvas, plane, part, from, to, colour, width) => {
  const context = canvas.getContext("2d");
  const place = (p) => [((p[plane.u] + 0.5 - part.left) / part.width) * canvas.width, ((plane.down(p[plane.v]) + 0.5 - part.top) / part.height) * canvas.height];
  context.strokeStyle = colour; context.lineWidth = width;
  context.beginPath(); context.moveTo(...place(from)); context.lineTo(...place(to)); context.stroke();
};

const paintCross = (canvas, plane, part, at, scale) => {
  const context = canvas.getContext("2d"), gap = 9 * scale;
  const x = ((at[plane.u] + 0.5 - part.left) / part.width) * canvas.width, y = ((plane.down(at[plane.v]) + 0.5 - part.top) / part.height) * canvas.height;
  context.strokeStyle = "#ffd400"; context.lineWidth = scale;
  context.beginPath();
  for (const [a, b, c, d] of [[0, y, x - gap, y], [x + gap, y, canvas.width, y], [x, 0, x, y - gap], [x, y + gap, x, canvas.height]]) { context.moveTo(a, b); context.lineTo(c, d); }
  context.stroke();
};
