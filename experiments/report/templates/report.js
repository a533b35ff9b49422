"use strict";

const { charts, datasets, config } = JSON.parse(document.getElementById("data").textContent);
const views = [];

async function draw(figure) {
  const { datasets: names, ...spec } = charts[figure.dataset.chart];
  delete figure.dataset.chart; // drawn once
  const { view } = await vegaEmbed(figure, {
    ...spec,
    config,
    datasets: Object.fromEntries(names.map((name) => [name, datasets[name]])),
    width: "container",
    autosize: { type: "fit-x", contains: "padding" },
  }, {
    logLevel: 1, // errors: scales may be empty where policies are hidden
    renderer: "svg",
    actions: { export: true, source: false, compiled: false, editor: false },
  });
  if ("hidden" in view.getState().signals) {
    views.push(view);
    view.signal("hidden", hidden()).run();
  }
}

function hidden() {
  return [...document.querySelectorAll(".policies input:not(:checked)")].map((box) => box.value);
}

function drawAll(element) {
  return Promise.all([...element.querySelectorAll("figure[data-chart]")]
    .filter((figure) => !figure.closest("details:not([open])")).map(draw));
}

for (const choice of document.querySelectorAll(".policies")) {
  choice.hidden = false;
  choice.addEventListener("change", ({ target }) => {
    for (const box of document.querySelectorAll(".policies input"))
      if (box.value === target.value) box.checked = target.checked;
    for (const element of document.querySelectorAll("[data-policy]"))
      if (element.dataset.policy === target.value)
        element.toggleAttribute("hidden", !target.checked);
    for (const view of views) view.signal("hidden", hidden()).run();
  });
}

for (const details of document.querySelectorAll("details.policy"))
  details.addEventListener("toggle", () => drawAll(details));

function unfold() {
  const aim = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (aim instanceof HTMLDetailsElement) aim.open = true;
}
addEventListener("hashchange", unfold);
unfold();

function sortable(cell) {
  const text = cell.textContent.trim().replaceAll("−", "-").replaceAll(",", "");
  const number = text.match(/^(?:>\s*|<\s*)?([+-]?\d+(?:\.\d+)?)(?![\d.]| of )/);
  return text.startsWith("never") ? Infinity : number ? Number(number[1]) : text.toLowerCase();
}

function compare(a, b) {
  if (typeof a === typeof b) return a < b ? -1 : a > b ? 1 : 0;
  return typeof a === "number" ? -1 : 1;
}

function sort(table, column, header) {
  const up = header.getAttribute("aria-sort") !== "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", up ? "ascending" : "descending");
  const rows = [...table.tBodies[0].rows].map((row) => [sortable(row.cells[column]), row]);
  rows.sort(([a], [b]) => (up ? compare(a, b) : compare(b, a)));
  table.tBodies[0].append(...rows.map(([, row]) => row));
}

for (const table of document.querySelectorAll("table.results")) {
  [...table.tHead.rows[0].cells].forEach((header, column) => {
    const button = document.createElement("button");
    button.append(...header.childNodes);
    button.addEventListener("click", () => sort(table, column, header));
    header.append(button);
  });
}

const ready = drawAll(document);
