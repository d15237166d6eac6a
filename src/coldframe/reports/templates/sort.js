for (const table of document.querySelectorAll("table.sorts")) {
  const body = table.tBodies[0];
  table.querySelectorAll("thead button").forEach((button, column) => {
    let direction = 1;
    button.addEventListener("click", () => {
      const value = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent.trim();
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [value(a), value(b)], [u, v] = [parseFloat(x), parseFloat(y)];
        return direction * (isNaN(u) || isNaN(v) ? x.localeCompare(y) : u - v);
      });
      table.querySelectorAll("thead th").forEach((head) => head.removeAttribute("aria-sort"));
      button.parentElement.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
      direction = -direction;
      body.append(...rows);
    });
  });
}
