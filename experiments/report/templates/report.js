"use strict";

// The page is complete without this: it sorts tables and hides policies.

function sortable(cell) {
  const text = cell.textContent.trim().replaceAll("−", "-").replaceAll(",", "");
  const number = text.match(/^(?:>\s*|<\s*)?([+-]?\d+(?:\.\d+)?)(?![\d.]| of )/);
  return text === "never" ? Infinity : number ? Number(number[1]) : text.toLowerCase();
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

const choice = document.getElementById("policies");
choice.hidden = false;
choice.addEventListener("change", ({ target }) => {
  for (const element of document.querySelectorAll("[data-policy]"))
    if (element.dataset.policy === target.value)
      element.toggleAttribute("hidden", !target.checked);
});
