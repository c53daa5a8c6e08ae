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
const loadPlotly = async () => {
  const code = new TextDecoder().decode(await unpack(document.getElementById("plotly").textContent));
  document.head.append(make("script", { textContent: code }));
};
// A chart is as wide as its column on paper, whatever the printer's margins are.
const scalable = (node) => {
  for (const svg of $$(".main-svg", node)) {
    const [width, height] = ["width", "height"].map((name) => svg.getAttribute(name));
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    node.style.setProperty("--ratio", width / height);
  }
};
// On paper charts are smaller, and names of lines that are not shown are left out.
const PAPER = { width: 500, share: 0.51, legend: 0.8, look: { "font.size": 9.5, "xaxis.title.font.size": 9.5, "yaxis.title.font.size": 9.5 } };
const SCREEN = { "xaxis.title.font.size": null, "yaxis.title.font.size": null };
const layOut = (printing) => Promise.all(drawn.map(async (node) => {
  const { layout } = charts[node.dataset.chart].figure, height = Math.round(layout.height * (printing ? PAPER.share : 1));
  const below = layout.legend.y * (layout.height - 64) * (printing ? PAPER.legend : 1); // of the legend, in pixels
  const size = { width: printing ? PAPER.width : null, height, legend: { ...layout.legend, y: below / (height - 64) } };
  const hidden = node.data.flatMap((trace, place) => (trace.visible === "legendonly" ? [place] : []));
  const look = { ...lookOf(node.dataset.chart), ...size, ...(printing ? PAPER.look : SCREEN) };
  if (printing) node.style.setProperty("--ratio", PAPER.width / height);
  await Plotly.update(node, hidden.length ? { showlegend: !printing } : {}, look, hidden);
  if (!printing) await Plotly.redraw(node); // else the legend stays where it was on paper
}));
const draw = async (node) => {
  const name = node.dataset.chart, { data, layout } = charts[name].figure;
  await Plotly.newPlot(node, data, { ...layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)" },
    { ...QUIET, modeBarButtons: [["toImage"], layout.polar ? [] : ["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]], toImageButtonOptions: { format: "svg", filename: `mrict_${name}` } });
  await Plotly.relayout(node, lookOf(name));
  drawn.push(node);
  scalable(node);
  node.on("plotly_afterplot", () => scalable(node));
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
addEventListener("beforeprint", () => layOut(true)); // before the browser counts its pages
matchMedia("print").addEventListener("change", (event) => layOut(event.matches)); // in the colours of paper
