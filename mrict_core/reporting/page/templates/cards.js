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
