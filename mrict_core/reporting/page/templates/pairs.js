"use strict";
const cells = JSON.parse(document.getElementById("cells").textContent);
const [head, ...rows] = cells;
const useAt = head.indexOf("use"), reasonAt = head.indexOf("reason");
const articles = [...document.querySelectorAll("article")];
const count = document.getElementById("count");
let unsaved = false;

function show() {
  const on = new Set([...document.querySelectorAll("input[name=verdict]:checked")].map((box) => box.value));
  articles.forEach((article) => { article.hidden = !on.has(article.dataset.verdict); });
  const used = rows.filter((row) => row[useAt] === "yes").length;
  count.textContent = `${used} of ${rows.length} used${unsaved ? "; changes are not in the file yet: download it" : ""}`;
}

function choose(article) {
  const row = rows[Number(article.dataset.row)];
  row[useAt] = article.querySelector("input[type=radio]:checked").value;
  const reason = article.querySelector("input[type=text]").value.trim();
  row[reasonAt] = /^'*[=+\-@\t\r\n]/.test(reason) ? `'${reason}` : reason;
  article.classList.toggle("rejected", row[useAt] === "no");
}

function text() {
  const cell = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  return cells.map((row) => row.map(cell).join(",")).join("\n") + "\n";
}

articles.forEach((article) => {
  choose(article);
  article.addEventListener("input", () => { unsaved = true; choose(article); show(); });
});
document.querySelectorAll("input[name=verdict]").forEach((box) => box.addEventListener("change", show));
document.getElementById("download").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text()], { type: "text/csv" }));
  link.download = document.body.dataset.file;
  link.click();
  URL.revokeObjectURL(link.href);
  unsaved = false;
  show();
});
window.addEventListener("beforeunload", (event) => { if (unsaved) event.preventDefault(); });
show();
document.documentElement.dataset.ready = "yes";
