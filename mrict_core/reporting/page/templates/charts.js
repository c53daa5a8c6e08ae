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
// In print a chart is scaled as a picture: plotly does not lay out again for paper.
const scalable = (node) => {
  const { width, height } = node.getBoundingClientRect();
  if (!width) return;
  node.style.setProperty("--ratio", width / height);
  for (const svg of $$(".main-svg", node)) svg.setAttribute("viewBox", `0 0 ${svg.getAttribute("width")} ${svg.getAttribute("height")}`);
};
const draw = async (node) => {
  const name = node.dataset.chart, { data, layout } = charts[name].figure;
  await Plotly.newPlot(node, data, { ...layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)" },
    { ...QUIET, modeBarButtons: [["toImage"], layout.polar ? [] : ["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]], toImageButtonOptions: { format: "svg", filename: `mrict_${name}` } });
  await Plotly.relayout(node, lookOf(name));
  drawn.push(node);
  scalable(node);
  node.on("plotly_afterplot", () => { if (!matchMedia("print").matches) scalable(node); });
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
