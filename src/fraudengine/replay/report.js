"use strict";
// Sorts a table by the column whose heading is pressed; what a cell is sorted by stands in its data-v.
for (const button of document.querySelectorAll("thead button")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th"), body = heading.closest("table").tBodies[0];
    const column = heading.cellIndex, first = heading.dataset.first, other = first === "ascending" ? "descending" : "ascending";
    const next = heading.getAttribute("aria-sort") === first ? other : first, turn = next === "ascending" ? 1 : -1;
    for (const one of heading.parentNode.children) one.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", next);
    const keyed = Array.from(body.rows, (row) => [row.cells[column].dataset.v ?? row.cells[column].textContent, row]);
    const numeric = keyed.every(([key]) => key === "" || !isNaN(key));
    keyed.sort(([a], [b]) => {
      if (a === "" || b === "") return (a === "") - (b === "");  // what is unknown stands last, both ways
      return turn * (numeric ? a - b : a < b ? -1 : a > b ? 1 : 0);
    });
    body.append(...keyed.map(([, row]) => row));
  });
}
// Shows the rows that hold the words typed, and of rules only those that differ when that is asked.
for (const tools of document.querySelectorAll(".tools[data-for]")) {
  const rows = document.getElementById(tools.dataset.for).tBodies[0].rows;
  const words = tools.querySelector("input[type=search]"), only = tools.querySelector("input[type=checkbox]");
  const show = () => {
    const wanted = words ? words.value.trim().toLowerCase() : "";
    for (const row of rows)
      row.hidden = (only?.checked && !("differs" in row.dataset)) || !row.textContent.toLowerCase().includes(wanted);
  };
  tools.addEventListener("input", show);
  show();
}
for (const choice of document.querySelectorAll(".switch button")) {
  choice.addEventListener("click", () => {
    for (const other of choice.parentNode.children) {
      const chosen = other === choice;
      other.setAttribute("aria-pressed", chosen);
      document.getElementById(other.getAttribute("aria-controls")).hidden = !chosen;
    }
  });
}
for (const tools of document.querySelectorAll(".tools")) tools.hidden = false;
