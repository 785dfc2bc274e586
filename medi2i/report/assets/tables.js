"use strict";
// A click on a heading sorts its table by that column; another click turns the order round.
for (const button of document.querySelectorAll("thead button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement;
    const column = head.cellIndex;
    const turned = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", turned ? "descending" : "ascending");
    const key = (row) => {
      const cell = row.cells[column];
      return cell.dataset.sort ?? cell.textContent;
    };
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === ""); // what is missing comes last
      const numbers = !isNaN(x) && !isNaN(y);
      return (turned ? -1 : 1) * (numbers ? x - y : x.localeCompare(y));
    };
    const body = head.closest("table").tBodies[0];
    body.append(...[...body.rows].sort(compare));
  });
}
