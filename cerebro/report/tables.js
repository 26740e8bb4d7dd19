// The tables: sorted by a click on a column's head; a click on a model's row marks it.

const sortKey = (cell) =>
  cell.dataset.value !== undefined
    ? (cell.dataset.value === "" ? null : Number(cell.dataset.value))
    : cell.textContent.trim() || null;

// Numbers before texts; what is missing comes last in both directions.
function compare(a, b, direction) {
  if (a === null || b === null) return (a === null) - (b === null);
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return direction * (typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true }));
}

function sortBy(table, head) {
  const column = head.cellIndex, body = table.tBodies[0];
  const up = head.getAttribute("aria-sort") !== "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const rows = [...body.rows].map((row) => [sortKey(row.cells[column]), row]);
  rows.sort((a, b) => compare(a[0], b[0], up ? 1 : -1));
  body.append(...rows.map(([, row]) => row));
}

function startTables() {
  const table = byId("models"), places = new Map(models.map((model, n) => [model.id, n]));
  for (const head of table.tHead.rows[0].cells) {
    head.firstElementChild.addEventListener("click", () => sortBy(table, head));
    const cells = [...table.tBodies[0].rows].map((row) => row.cells[head.cellIndex]);
    head.classList.toggle("numeric", cells.some((cell) => cell.classList.contains("number")));
  }
  const placeOf = (row) => places.get(Number(row.dataset.model));
  for (const row of table.tBodies[0].rows) {
    row.addEventListener("click", (event) => {
      if (!event.target.closest("details")) pin(placeOf(row));
    });
  }
  markers.push((place) => {
    for (const row of table.tBodies[0].rows) row.classList.toggle("marked", placeOf(row) === place);
  });
}
