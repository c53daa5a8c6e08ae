"use strict";
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
  const json = (id) => { const node = document.getElementById(id); return node ? JSON.parse(node.textContent) : null; };
  const make = (tag, properties = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  };

  // ---------------------------------------------------------------- theme and charts
  const charts = json("data-charts");
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const axisLook = () => ({ gridcolor: colour("--grid"), linecolor: colour("--line"), zerolinecolor: colour("--line"), tickcolor: colour("--line") });
  const themed = () => {
    const look = { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", "font.color": colour("--ink"), "font.family": colour("--sans"), "font.size": 12 };
    look["hoverlabel.bgcolor"] = colour("--raised"); look["hoverlabel.font.color"] = colour("--ink"); look["hoverlabel.bordercolor"] = colour("--line");
    for (const axis of ["xaxis", "yaxis"]) for (const [key, value] of Object.entries(axisLook())) look[`${axis}.${key}`] = value;
    return look;
  };
  const polarLook = () => {
    const look = { "polar.bgcolor": "rgba(0,0,0,0)" };
    for (const axis of ["angularaxis", "radialaxis"]) { look[`polar.${axis}.gridcolor`] = colour("--grid"); look[`polar.${axis}.linecolor`] = colour("--line"); }
    return look;
  };
  const lookOf = (name) => charts[name].figure.layout.polar ? { ...themed(), ...polarLook() } : themed();
  // Buttons are listed one by one: plotly's default buttons (sharing, cloud) upload the chart with its patients.
  const QUIET = { responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "", topojsonURL: "" };
  const drawn = [];
  const draw = async (node) => {
    const name = node.dataset.chart, { data, layout } = charts[name].figure;
    await Plotly.newPlot(node, data, { ...layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)" },
      { ...QUIET, modeBarButtons: [["toImage"], layout.polar ? [] : ["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]], toImageButtonOptions: { format: "svg", filename: `mrict_${name}` } });
    await Plotly.relayout(node, lookOf(name));
    drawn.push(node);
  };
  const retheme = () => Promise.all(drawn.map((node) => Plotly.relayout(node, lookOf(node.dataset.chart))));
  const THEMES = ["system", "light", "dark"];
  const setTheme = (theme) => {
    if (theme === "system") delete document.documentElement.dataset.theme; else document.documentElement.dataset.theme = theme;
    const button = $("#theme");
    button.textContent = `Theme: ${theme}`;
    button.setAttribute("aria-label", `colour theme: ${theme === "system" ? "as the system" : theme}`);
    button.dataset.state = theme;
    retheme();
  };
  $("#theme").addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf($("#theme").dataset.state || "system") + 1) % THEMES.length];
    try { localStorage.setItem("mrict-theme", next); } catch { /* local files may have no storage */ }
    setTheme(next);
  });
  let remembered = "system";
  try { remembered = localStorage.getItem("mrict-theme") || "system"; } catch { /* see above */ }
  setTheme(THEMES.includes(remembered) ? remembered : "system");
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", retheme);
  matchMedia("print").addEventListener("change", retheme);

  // ---------------------------------------------------------------- tables
  const key = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.sort !== undefined ? Number(cell.dataset.sort) : cell.textContent.trim();
  };
  const blank = (value) => typeof value === "string" && (value === "" || value === "\u2013");
  const compare = (a, b) => typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  // A metric's cells sort best first; the visible numbers then ascend, descend or do neither.
  const ARIA = { higher: ["descending", "ascending"], zero: ["other", "other"], one: ["other", "other"] };
  $$("button.sort").forEach((button) => button.addEventListener("click", () => {
    const th = button.closest("th"), table = th.closest("table"), column = th.cellIndex;
    const again = th.dataset.sorted === "1", direction = again ? -1 : 1;
    $$("th", table).forEach((other) => { other.setAttribute("aria-sort", "none"); delete other.dataset.sorted; });
    th.dataset.sorted = again ? "2" : "1";
    th.setAttribute("aria-sort", (ARIA[th.dataset.better] || ["ascending", "descending"])[again ? 1 : 0]);
    const rows = [...table.tBodies[0].rows].map((row, place) => ({ row, place, value: key(row, column) }));
    rows.sort((a, b) => (blank(a.value) - blank(b.value)) || direction * compare(a.value, b.value) || a.place - b.place);
    table.tBodies[0].append(...rows.map(({ row }) => row));
  }));

  // ---------------------------------------------------------------- metric cards
  const cards = json("data-cards"), dialog = $("#card"), names = $("#card-name");
  const { labels, better } = json("data-card-words"), FACTS = Object.entries(labels);
  const OWN = [["mean", "mean here"], ["n", "patients (N)"], ["label", "label"], ["seed", "seeds"], ["sd_over_seeds", "SD over seeds"], ["profile", "profile"], ["protocol", "protocol"], ["split_hash", "split"], ["checkpoint_hash", "checkpoint"], ["code_hash", "code"]];
  let shownMetric = "";
  const fillCard = () => {
    const card = cards[shownMetric], own = card.numbers[names.value] || {};
    $("#card-title").textContent = `${card.heading} (${card.name})`;
    const rows = [...FACTS.map(([k, label]) => [label, k === "better" ? better[card[k]] : card[k]]), ...OWN.map(([k, label]) => [label, own[k]])];
    $("#card-facts").replaceChildren(...rows.filter(([, value]) => value !== undefined && value !== null && value !== "").flatMap(([label, value]) => [
      make("dt", { textContent: label }), make("dd", { textContent: typeof value === "number" && !Number.isInteger(value) ? value.toPrecision(6) : value })]));
  };
  const openCard = (metric, name) => {
    if (!cards[metric]) return;
    shownMetric = metric;
    const all = Object.keys(cards[metric].numbers);
    names.replaceChildren(...all.map((value) => make("option", { value, textContent: value })));
    names.value = all.includes(name) ? name : all[0];
    fillCard();
    dialog.showModal();
  };
  names.addEventListener("change", fillCard);
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.card"), cell = event.target.closest("td[data-metric]");
    if (button) openCard(button.dataset.metric, "");
    else if (cell && !event.target.closest("a")) openCard(cell.dataset.metric, cell.dataset.name);
    if (event.target === dialog) dialog.close();
  });

  // ---------------------------------------------------------------- slices
  const patients = json("data-patients"), colours = json("data-colours");
  const cache = new Map();
  const unpack = (id) => {
    if (!cache.has(id)) cache.set(id, (async () => {
      const text = document.getElementById(`block-${id}`).textContent;
      const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
      return new Uint8Array(await new Response(stream).arrayBuffer());
    })());
    return cache.get(id);
  };
  const unpackHu = async (id) => {
    const bytes = await unpack(id), half = bytes.length / 2, hu = new Int16Array(half);
    for (let i = 0; i < half; i += 1) hu[i] = ((bytes[i] | (bytes[half + i] << 8)) << 16 >> 16) * 2;
    return hu;
  };
  const browser = async () => {
    const root = $("#browser");
    if (!root || !patients) return;
    if (typeof DecompressionStream === "undefined") {
      root.replaceChildren(make("p", { className: "missing", textContent: "This browser cannot unpack the slices (no DecompressionStream); use a current Chrome, Edge, Firefox or Safari." }));
      return;
    }
    const pick = { patient: $("#b-patient"), a: $("#b-a"), b: $("#b-b") }, slider = $("#b-slice");
    const level = $("#b-level"), width = $("#b-width"), panels = $("#b-panels");
    pick.patient.replaceChildren(...patients.map((p, i) => make("option", { value: i, textContent: `${p.patient} (centre ${p.centre})` })));
    const variants = patients[0].variants;
    pick.a.replaceChildren(...variants.map((name) => make("option", { value: name, textContent: name })));
    pick.b.replaceChildren(make("option", { value: "", textContent: "none" }), ...variants.map((name) => make("option", { value: name, textContent: name })));
    pick.b.value = variants[1] || "";
    let volumes = null, canvases = {};

    const load = async () => {
      const number = Number(pick.patient.value), p = patients[number], chosen = [["a", pick.a.value], ["b", pick.b.value]].filter(([, name]) => name);
      const [mr, mask, ct, ...scts] = await Promise.all([unpack(`p${number}-mr`), unpack(`p${number}-mask`), unpackHu(`p${number}-ct`),
        ...chosen.map(([, name]) => unpackHu(`p${number}-v${p.variants.indexOf(name)}`))]);
      if (number !== Number(pick.patient.value)) return;
      volumes = { p, mr, mask, ct, scts: Object.fromEntries(chosen.map(([side, name], i) => [side, { name, hu: scts[i] }])) };
      slider.max = p.count - 1;
      if (Number(slider.value) > p.count - 1) slider.value = p.count - 1;
      build();
      paint();
    };
    const build = () => {
      const { p, scts } = volumes, kinds = [["mr", "MR"], ["ct", "CT (true)"]];
      for (const [side, { name }] of Object.entries(scts)) kinds.push([`sct-${side}`, `${side.toUpperCase()}: ${name}`], [`error-${side}`, `error ${side.toUpperCase()}`]);
      canvases = {};
      panels.style.setProperty("--count", kinds.length);
      const ratio = (p.columns * p.spacing[1]) / (p.rows * p.spacing[0]);
      panels.replaceChildren(...kinds.map(([kind, title]) => {
        const canvas = make("canvas", { width: p.columns, height: p.rows, id: `b-${kind}` });
        canvas.style.aspectRatio = ratio;
        canvas.setAttribute("role", "img");
        canvas.setAttribute("aria-label", title);
        const caption = make("figcaption", { textContent: title });
        canvases[kind] = { canvas, caption, title };
        const box = make("div"); box.style.position = "relative"; box.append(canvas);
        if (kind === "mr") {
          const places = ["left:2%;top:48%", "right:2%;top:48%", "top:1%;left:48%", "bottom:1%;left:48%"];
          for (const [k, css] of places.entries()) { const mark = make("span", { className: "mark", textContent: p.sides[k] || "" }); mark.style.cssText = css; box.append(mark); }
          const wide = p.columns * p.spacing[1], length = [100, 50, 20, 10, 5].find((mm) => mm <= 0.4 * wide) || 5;
          const bar = make("span", { className: "scale" }); bar.style.cssText = `bottom:5%;width:${(100 * length) / wide}%`;
          const text = make("span", { className: "mark", textContent: `${length} mm` }); text.style.cssText = "left:5%;bottom:7%";
          box.append(bar, text);
        }
        return make("figure", { className: "panel" }, box, caption);
      }));
    };
    const fill = (kind, paintPixel) => {
      const { canvas } = canvases[kind], context = canvas.getContext("2d"), image = context.createImageData(canvas.width, canvas.height);
      for (let i = 0; i < canvas.width * canvas.height; i += 1) { const [r, g, b] = paintPixel(i); image.data.set([r, g, b, 255], 4 * i); }
      context.putImageData(image, 0, 0);
    };
    const paint = () => {
      if (!volumes) return;
      const { p, mr, mask, ct, scts } = volumes, k = Number(slider.value), size = p.rows * p.columns, start = k * size;
      const low = Number(level.value) - Number(width.value) / 2, span = Math.max(1, Number(width.value));
      const grey = (hu) => { const v = Math.max(0, Math.min(255, Math.round((255 * (hu - low)) / span))); return [v, v, v]; };
      fill("mr", (i) => { const v = mr[start + i]; return [v, v, v]; });
      fill("ct", (i) => grey(ct[start + i]));
      for (const [side, { hu }] of Object.entries(scts)) {
        fill(`sct-${side}`, (i) => grey(hu[start + i]));
        fill(`error-${side}`, (i) => {
          if (!mask[start + i]) return [0, 0, 0];
          const error = hu[start + i] - ct[start + i];
          return colours.error[Math.max(0, Math.min(255, Math.round(127.5 + (127.5 * error) / colours.errorLimit)))];
        });
        const mae = p.mae[scts[side].name][k]; // of the exact values, not of those shown
        canvases[`error-${side}`].caption.textContent = mae === null ? `error ${side.toUpperCase()}: no mask in this slice` : `error ${side.toUpperCase()}: MAE of this slice ${mae.toFixed(0)} HU`;
      }
      $("#b-where").textContent = `${k + 1} of ${p.count} (slice ${p.z[k]} of the volume)`;
      slider.setAttribute("aria-valuetext", `slice ${k + 1} of ${p.count}`);
      $("#b-grey-low").textContent = low.toFixed(0); $("#b-grey-high").textContent = (low + span).toFixed(0);
    };
    const preset = (name) => {
      const [low, high] = colours.windows[name];
      level.value = (low + high) / 2; width.value = high - low;
      $$("button.window").forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.window === name)));
      paint();
    };
    const strip = (id, value) => { const context = $(id).getContext("2d"), image = context.createImageData(256, 1); for (let i = 0; i < 256; i += 1) image.data.set([...value(i), 255], 4 * i); context.putImageData(image, 0, 0); };
    strip("#b-grey", (i) => [i, i, i]);
    strip("#b-red", (i) => colours.error[i]);
    Object.values(pick).forEach((select) => select.addEventListener("change", load));
    slider.addEventListener("input", paint);
    $$("button.window").forEach((b) => b.addEventListener("click", () => preset(b.dataset.window)));
    [level, width].forEach((input) => input.addEventListener("input", () => { $$("button.window").forEach((b) => b.setAttribute("aria-pressed", "false")); paint(); }));
    panels.addEventListener("wheel", (event) => { event.preventDefault(); slider.value = Number(slider.value) + Math.sign(event.deltaY); paint(); }, { passive: false });
    panels.addEventListener("pointermove", (event) => {
      if (event.target.tagName !== "CANVAS" || !volumes) return;
      const { p, mask, ct, scts } = volumes, box = event.target.getBoundingClientRect();
      const column = Math.floor(((event.clientX - box.left) / box.width) * p.columns), row = Math.floor(((event.clientY - box.top) / box.height) * p.rows);
      if (column < 0 || row < 0 || column >= p.columns || row >= p.rows) return;
      const i = Number(slider.value) * p.rows * p.columns + row * p.columns + column;
      const parts = Object.entries(scts).map(([side, { hu }]) => `${side.toUpperCase()} ${hu[i]} (${hu[i] - ct[i] >= 0 ? "+" : ""}${hu[i] - ct[i]})`);
      $("#b-read").textContent = `CT ${ct[i]} HU; ${parts.join("; ")}${mask[i] ? "" : "; outside the mask"}`;
    });
    slider.max = patients[0].count - 1;
    slider.value = Math.floor(patients[0].count / 2);
    preset("wide");
    await load();
  };

  // ---------------------------------------------------------------- print, links into closed details, current section
  const open = (id) => { const node = document.getElementById(id); if (node && node.tagName === "DETAILS") { node.open = true; node.scrollIntoView({ behavior: "instant" }); } };
  addEventListener("hashchange", () => open(decodeURIComponent(location.hash.slice(1))));
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = $$("details:not([open]):not(.model)"); // a model's details print only if the reader opened them
    closed.forEach((d) => { d.open = true; });
  });
  addEventListener("afterprint", () => closed.forEach((d) => { d.open = false; }));
  const links = new Map($$("nav a").map((a) => [a.getAttribute("href").slice(1), a]));
  const parts = $$("main section[id]");
  const mark = () => {
    const here = parts.filter((part) => part.getBoundingClientRect().top < innerHeight * 0.3).pop();
    links.forEach((a, id) => a.classList.toggle("here", Boolean(here) && id === here.id));
  };
  addEventListener("scroll", mark, { passive: true });
  mark();

  Promise.all([...$$(".plot").map(draw), browser()]).then(() => {
    if (location.hash) open(decodeURIComponent(location.hash.slice(1)));
    document.documentElement.dataset.ready = "yes";
  });
})();
