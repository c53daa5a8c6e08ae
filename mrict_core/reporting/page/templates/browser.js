// ---------------------------------------------------------------- the slice browser
const colours = json("data-colours");
const HU_LEVEL = [-1024, 3071], HU_WIDTH = [20, 8000], ERROR_HU = [20, 4000], ZOOM_MAX = 8;
const CROSS_KEYS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [1, -1], ArrowDown: [1, 1] };

const browser = () => {
  const panels = $("#b-panels"), slider = $("#b-slice"), profile = $("#b-profile"), says = $("#b-says");
  const field = { patient: $("#b-patient"), a: $("#b-a"), b: $("#b-b"), level: $("#b-level"), width: $("#b-width"), error: $("#b-error") };
  const state = { patient: patients.find((p) => !p.file).patient, a: "", b: "", plane: 0, at: null, centre: null, level: 250, width: 2500, error: colours.errorLimit, zoom: 1, line: null };
  let shown = null, cells = [], held = null, drawing = false, touched = false;

  // ------------------------------------------------ the state in the address
  const write = () => {
    if (!touched || !shown) return;
    const { patient, a, b, plane, at, level, width, error, zoom, line } = state;
    const words = new URLSearchParams({ patient, a, b, plane: plane === 3 ? "all" : shown.facts.planes[plane], at: at.join(","), level, width, error, zoom });
    if (line) words.set("line", [line.plane, ...line.ends.flat()].join(","));
    history.replaceState(null, "", `#slices?${words}`);
  };
  const read = () => {
    if (!location.hash.startsWith("#slices?")) return false;
    const words = new URLSearchParams(location.hash.slice(8)), has = (name) => words.get(name);
    if (patients.some((p) => p.patient === has("patient"))) state.patient = has("patient");
    Object.assign(state, { a: has("a") || state.a, b: words.has("b") ? has("b") : state.b, planeName: has("plane") });
    for (const [name, [low, high]] of Object.entries({ level: HU_LEVEL, width: HU_WIDTH, error: ERROR_HU, zoom: [1, ZOOM_MAX] })) if (Number.isFinite(parseFloat(has(name)))) state[name] = clamp(parseFloat(has(name)), low, high);
    const numbers = (name, count) => { const found = (has(name) || "").split(",").map(Number); return found.length === count && found.every(Number.isInteger) ? found : null; };
    state.at = numbers("at", 3);
    const line = numbers("line", 7);
    state.line = line && { plane: clamp(line[0], 0, 2), ends: [line.slice(1, 4), line.slice(4)] };
    return true;
  };

  // ------------------------------------------------ loading
  const inside = (p, size) => p.map((value, axis) => clamp(value, 0, size[axis] - 1));
  const fillModels = (names) => {
    const options = () => names.map((name) => make("option", { value: name, textContent: name }));
    field.a.replaceChildren(...options());
    field.b.replaceChildren(make("option", { value: "", textContent: "none" }), ...options());
    if (!names.includes(state.a)) state.a = names[0] || "";
    if (state.b !== "" && !names.includes(state.b)) state.b = names.find((name) => name !== state.a) || "";
    field.a.value = state.a; field.b.value = state.b;
  };
  const namePlanes = (facts) => $$("button.plane").forEach((button, k) => { if (k < 3) button.textContent = facts.planes[k]; });
  const clear = () => {
    shown = null; cells = []; held = null;
    panels.replaceChildren(); profile.replaceChildren(); profile.hidden = true;
    for (const id of ["#b-read", "#b-where"]) $(id).textContent = "";
  };
  const load = async () => {
    const wanted = state.patient, entry = patients.find((p) => p.patient === wanted);
    if (shown && (shown.patient !== wanted || !state.at)) { shown = null; panels.style.visibility = "hidden"; } // no image under another patient's name
    field.patient.value = wanted;
    $$("button.role").forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.patient === wanted)));
    if (entry.file) says.textContent = `Reading ${entry.file} \u2026`;
    try {
      const { facts } = await fetchPatient(entry);
      fillModels(facts.names);
      const sides = [["a", state.a], ["b", state.b]].filter(([, name]) => name);
      const [mr, mask, ct, ...scts] = await Promise.all(["mr", "mask", "ct", ...sides.map(([, name]) => String(facts.names.indexOf(name)))].map((kind) => voxels(wanted, kind)));
      if (wanted !== state.patient) return;
      shown = { patient: wanted, facts, mr, mask, ct, scts: sides.map(([side, name], k) => ({ side, name, hu: scts[k] })) };
      state.at = inside(state.at || facts.size.map((n) => Math.floor(n / 2)), facts.size);
      state.centre = [...state.at];
      if (state.line) state.line.ends = state.line.ends.map((p) => inside(p, facts.size));
      if (state.planeName) { state.plane = state.planeName === "all" ? 3 : Math.max(0, facts.planes.indexOf(state.planeName)); delete state.planeName; }
      namePlanes(facts);
      says.textContent = facts.notes.length ? `${wanted}: ${facts.notes.join("; ")}.` : "";
      build();
      paint();
      write();
    } catch (error) {
      if (wanted !== state.patient) return;
      clear();
      says.textContent = error.message;
    }
  };

  // ------------------------------------------------ panels
  const kindsShown = () => {
    const [a, b] = ["a", "b"].map((side) => shown.scts.find((one) => one.side === side));
    const of = (one) => (one ? [{ id: `sct-${one.side}`, title: `${one.side.toUpperCase()}: ${one.name}`, one }, { id: `error-${one.side}`, title: `error of ${one.side.toUpperCase()}`, one, error: true }] : []);
    return [{ id: "ct", title: "CT (true)" }, ...of(a), { id: "mr", title: "MR" }, ...of(b)];
  };
  const build = () => {
    const planes = state.plane === 3 ? [0, 1, 2] : [state.plane];
    cells = [];
    panels.style.visibility = "";
    panels.replaceChildren(...kindsShown().flatMap((kind) => planes.map((number) => {
      const plane = planeOf(shown.facts, number), all = planes.length > 1, canvas = make("canvas", { id: all ? `b-${kind.id}-${number}` : `b-${kind.id}` });
      canvas.style.aspectRatio = plane.mmWide / plane.mmHigh;
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `${kind.title}, ${shown.facts.planes[number]}`);
      const box = make("div", {}, canvas), caption = make("figcaption");
      ["left:2%;top:48%", "right:2%;top:48%", "top:1%;left:48%", "bottom:1%;left:48%"].forEach((css, k) => { const mark = make("span", { className: "mark", textContent: plane.marks[k] }); mark.style.cssText = css; box.append(mark); });
      const bar = make("span", { className: "scale" }), text = make("span", { className: "mark" });
      text.style.cssText = "left:5%;bottom:7%";
      box.append(bar, text);
      cells.push({ kind, plane, canvas, caption, bar, text });
      return make("figure", { className: "panel" }, box, caption);
    })));
    $$("button.plane").forEach((button, k) => button.setAttribute("aria-pressed", String(k === state.plane)));
  };
  const slicePlane = () => AXES[state.plane % 3].f;
  const paint = () => {
    if (!shown) return;
    const { facts, mr, mask, ct } = shown, { at, zoom, centre, line } = state, low = state.level - state.width / 2;
    const grey = (hu, data, place) => { data[place] = data[place + 1] = data[place + 2] = clamp(Math.round((255 * (hu - low)) / state.width), 0, 255); };
    const scale = Math.min(2, devicePixelRatio || 1);
    for (const { kind, plane, canvas, caption, bar, text } of cells) {
      canvas.width = Math.max(64, Math.round(canvas.clientWidth * scale));
      canvas.height = Math.round((canvas.width * plane.mmHigh) / plane.mmWide);
      const part = seenPart(plane, zoom, centre), one = kind.one;
      paintPlane(canvas, plane, at, part, kind.error ? (i, data, place) => {
        const colour = mask[i] ? colours.error[clamp(Math.round(127.5 + (127.5 * (one.hu[i] - ct[i])) / state.error), 0, 255)] : [0, 0, 0];
        [data[place], data[place + 1], data[place + 2]] = colour;
      } : kind.id === "mr" ? (i, data, place) => { data[place] = data[place + 1] = data[place + 2] = mr[i]; } : (i, data, place) => grey((one ? one.hu : ct)[i], data, place));
      if (line && line.plane === plane.number) paintLine(canvas, plane, part, ...line.ends, "#00e5ff", 2 * scale);
      if ($("#b-cross").checked) paintCross(canvas, plane, part, at, scale);
      const mae = kind.error && plane.number === 0 ? facts.mae[one.name][at[0]] : undefined; // of the exact values, not of those shown
      caption.textContent = mae === undefined ? kind.title : mae === null ? `${kind.title}: no mask in this slice` : `${kind.title}: MAE of this slice ${mae.toFixed(0)} HU`;
      const mm = [100, 50, 20, 10, 5, 2].find((length) => length <= (0.4 * plane.mmWide) / zoom) || 1;
      bar.style.cssText = `bottom:5%;width:${(100 * mm * zoom) / plane.mmWide}%`; text.textContent = `${mm} mm`;
    }
    const f = slicePlane(), count = facts.size[f];
    slider.max = count - 1; slider.value = at[f];
    $("#b-where").textContent = `${at[f] + 1} of ${count}${f === 0 ? ` (slice ${facts.z[at[0]]} of the volume)` : ""}`;
    slider.setAttribute("aria-valuetext", `slice ${at[f] + 1} of ${count}`);
    $("#b-grey-low").textContent = low.toFixed(0); $("#b-grey-high").textContent = (low + state.width).toFixed(0);
    $("#b-red-low").textContent = `\u2212${state.error}`; $("#b-red-high").textContent = `+${state.error}`;
    $("#b-zoom").textContent = `${Math.round(100 * zoom)} %`;
    const i = (at[0] * facts.size[1] + at[1]) * facts.size[2] + at[2];
    const signed = (hu) => `${hu < 0 ? "\u2212" : "+"}${Math.abs(hu)}`;
    $("#b-read").textContent = `At the cross: CT ${ct[i]} HU; ${shown.scts.map(({ side, hu }) => `${side.toUpperCase()} ${hu[i]} (${signed(hu[i] - ct[i])})`).join("; ")}${mask[i] ? "" : "; outside the mask"}`;
    profile.hidden = !line;
    if (line) drawProfile(profile, facts, line.ends, [{ name: "CT", kind: "ct", hu: ct }, ...shown.scts.map(({ side, name, hu }) => ({ name: `${side.toUpperCase()}: ${name}`, kind: side, hu }))]);
  };
  const update = (changed) => { touched = true; Object.assign(state, changed); paint(); write(); };

  // ------------------------------------------------ windows: no level and width may leave the picture all white or black
  const showWindow = () => {
    field.level.value = state.level; field.width.value = state.width; field.error.value = state.error;
    showPreset();
  };
  const showPreset = () => {
    $$("button.window").forEach((button) => { const [low, high] = colours.windows[button.dataset.window]; button.setAttribute("aria-pressed", String(state.level === (low + high) / 2 && state.width === high - low)); });
  };
  const readWindow = () => {
    const number = (input, [low, high], former) => (Number.isFinite(parseFloat(input.value)) ? clamp(parseFloat(input.value), low, high) : former);
    const width = number(field.width, HU_WIDTH, state.width), median = shown ? shown.facts.median_hu : 40;
    const level = clamp(number(field.level, HU_LEVEL, state.level), median - width / 2, median + width / 2); // half of the body is inside or below
    update({ level, width, error: number(field.error, ERROR_HU, state.error) });
    showPreset();
  };
  const preset = ([low, high]) => { update({ level: (low + high) / 2, width: high - low }); showWindow(); };

  // ------------------------------------------------ pointer and keys
  const under = (event) => {
    const cell = cells.find(({ canvas }) => canvas === event.target);
    if (!cell) return null;
    const box = cell.canvas.getBoundingClientRect(), part = seenPart(cell.plane, state.zoom, state.centre);
    const x = Math.floor(part.left + ((event.clientX - box.left) / box.width) * part.width), y = Math.floor(part.top + ((event.clientY - box.top) / box.height) * part.height);
    return { plane: cell.plane, voxel: cell.plane.voxel(x, y, state.at) };
  };
  const move = (event) => {
    const found = under(event);
    if (!held || !found || found.plane.number !== held.plane.number) return;
    if (drawing) update({ line: { plane: held.plane.number, ends: [held.voxel, found.voxel] } }); else update({ at: found.voxel });
  };
  panels.addEventListener("pointerdown", (event) => { if (event.button) return; held = under(event); if (held) { event.target.releasePointerCapture?.(event.pointerId); panels.focus({ preventScroll: true }); if (!drawing) move(event); event.preventDefault(); } });
  panels.addEventListener("pointermove", move);
  addEventListener("pointerup", () => { held = null; });
  const zoomTo = (zoom) => { if (shown) update({ zoom: clamp(zoom, 1, ZOOM_MAX), centre: [...state.at] }); };
  const go = (axis, by) => { const at = [...state.at]; at[axis] = clamp(at[axis] + by, 0, shown.facts.size[axis] - 1); update({ at, centre: state.zoom > 1 && document.activeElement === panels ? at : state.centre }); };
  panels.addEventListener("wheel", (event) => {
    if (!shown || (document.activeElement !== panels && !event.ctrlKey)) return; // the page scrolls until an image is clicked
    event.preventDefault();
    if (event.ctrlKey) zoomTo(state.zoom * (event.deltaY < 0 ? 1.25 : 0.8)); else { const hit = under(event); go(hit ? hit.plane.f : slicePlane(), Math.sign(event.deltaY)); }
  }, { passive: false });
  panels.addEventListener("keydown", (event) => {
    if (!shown || event.ctrlKey || event.metaKey || event.altKey) return;
    const plane = planeOf(shown.facts, state.plane % 3), step = CROSS_KEYS[event.key];
    if (step) go(step[0] ? plane.v : plane.u, step[0] && plane.down(0) ? -step[1] : step[1]);
    else if (event.key === "PageUp" || event.key === "PageDown") go(plane.f, event.key === "PageUp" ? 1 : -1);
    else if ("+=-0".includes(event.key)) zoomTo(event.key === "0" ? 1 : state.zoom * (event.key === "-" ? 0.8 : 1.25));
    else return;
    event.preventDefault();
  });

  // ------------------------------------------------ controls
  const strip = (id, value) => { const context = $(id).getContext("2d"), image = context.createImageData(256, 1); for (let i = 0; i < 256; i += 1) image.data.set([...value(i), 255], 4 * i); context.putImageData(image, 0, 0); };
  strip("#b-grey", (i) => [i, i, i]);
  strip("#b-red", (i) => colours.error[i]);
  const choosePatient = (patient) => { touched = true; Object.assign(state, { patient, at: null, line: null }); return load(); };
  const choosePlane = (plane) => { if (!shown) return; touched = true; state.plane = plane; build(); update({}); };
  field.patient.addEventListener("change", () => choosePatient(field.patient.value));
  ["a", "b"].forEach((side) => field[side].addEventListener("change", () => { touched = true; state[side] = field[side].value; load(); }));
  $$("button.role").forEach((button) => button.addEventListener("click", () => choosePatient(button.dataset.patient)));
  $$("button.plane").forEach((button, k) => button.addEventListener("click", () => choosePlane(k)));
  $$("button.window").forEach((button) => button.addEventListener("click", () => preset(colours.windows[button.dataset.window])));
  for (const name of ["level", "width", "error"]) { field[name].addEventListener("input", () => { if (field[name].value !== "") readWindow(); }); field[name].addEventListener("change", () => { readWindow(); showWindow(); }); }
  slider.addEventListener("input", () => { if (!shown) return; const at = [...state.at]; at[slicePlane()] = Number(slider.value); update({ at }); });
  $$("button.zoom").forEach((button) => button.addEventListener("click", () => zoomTo(button.dataset.by === "0" ? 1 : state.zoom * Number(button.dataset.by))));
  $("#b-cross").addEventListener("change", paint);
  $("#b-line").addEventListener("click", () => {
    if (!shown) return;
    drawing = !drawing;
    $("#b-line").setAttribute("aria-pressed", String(drawing));
    panels.classList.toggle("drawing", drawing);
    const { u } = AXES[state.plane % 3], ends = [0, shown.facts.size[u] - 1].map((end) => { const p = [...state.at]; p[u] = end; return p; });
    update({ line: drawing ? { plane: state.plane % 3, ends } : null });
  });
  new ResizeObserver(() => paint()).observe(panels);
  addEventListener("hashchange", () => { if (read()) { start(); $("#slices").scrollIntoView(); } });

  const start = async () => {
    await load();
    drawing = Boolean(state.line);
    $("#b-line").setAttribute("aria-pressed", String(drawing));
    panels.classList.toggle("drawing", drawing);
    showWindow();
  };
  const first = async () => {
    const linked = read(), { facts } = patients.find((p) => !p.file), { names } = facts;
    namePlanes(facts); // also if the linked patient's file is missing
    if (!linked) Object.assign(state, { a: names[0], b: names[1] || "" });
    await start();
    if (linked) $("#slices").scrollIntoView({ behavior: "instant" });
  };
  return { start: first, paint };
};
