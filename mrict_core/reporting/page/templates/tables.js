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
