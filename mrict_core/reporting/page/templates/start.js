// ---------------------------------------------------------------- print, links into closed details, current section
const open = (id) => { const node = document.getElementById(id); if (node && node.tagName === "DETAILS") { node.open = true; node.scrollIntoView({ behavior: "instant" }); } };
addEventListener("hashchange", () => open(decodeURIComponent(location.hash.slice(1))));
addEventListener("beforeprint", () => { if (viewer) viewer.paint(); });
const links = new Map($$("nav a").map((a) => [a.getAttribute("href").slice(1), a]));
const parts = $$("main section[id]");
const mark = () => {
  const here = parts.filter((part) => part.getBoundingClientRect().top < innerHeight * 0.3).pop();
  links.forEach((a, id) => a.classList.toggle("here", Boolean(here) && id === here.id));
};
addEventListener("scroll", mark, { passive: true });
mark();

const viewer = CAN_UNPACK && patients.length ? browser() : null;
const failed = () => $$(".plot, #browser").forEach((node) => node.replaceChildren(make("p", { className: "missing", textContent: OLD_BROWSER })));
(CAN_UNPACK ? Promise.all([loadPlotly().then(() => Promise.all($$(".plot").map(draw))), viewer && viewer.start()]) : Promise.resolve(failed())).then(() => {
  if (location.hash) open(decodeURIComponent(location.hash.slice(1)));
  document.documentElement.dataset.ready = "yes";
});
