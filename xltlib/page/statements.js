// The table of statements: filter, search, sort. Without this script the whole table is there to read.
(() => {
  const table = document.getElementById("statements");
  const form = document.getElementById("filters");
  if (!table || !form) return;
  const rows = [...table.tBodies[0].rows];
  const selects = [...form.querySelectorAll("select")];
  const search = form.elements.q;
  const count = form.querySelector(".count");
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));

  function show() {
    const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const kept =
        selects.every((s) => !s.value || JSON.parse(row.getAttribute(`data-${s.name}`)).includes(s.value)) &&
        wanted.every((word) => texts.get(row).includes(word));
      row.hidden = !kept;
      shown += kept;
    }
    count.textContent = `${shown} of ${rows.length} statements`;
    remember();
  }

  // The address carries the filters, so that a selection can be linked to.
  function remember() {
    const query = new URLSearchParams();
    for (const field of [search, ...selects]) if (field.value) query.set(field.name, field.value);
    const text = query.toString();
    try {
      history.replaceState(null, "", location.pathname + (text ? `?${text}` : "") + location.hash);
    } catch {
      // some browsers refuse this for files; filtering works without it
    }
  }

  function key(row, column) {
    const cell = row.cells[column];
    const value = cell.dataset.sort ?? cell.textContent.trim().toLowerCase();
    if (value === "" || value === "–") return null;
    return Number.isNaN(Number(value)) ? value : Number(value);
  }

  // What has no value comes last in both directions.
  function sort(header, column) {
    const sign = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    const keyed = rows.map((row) => [key(row, column), row]);
    keyed.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return sign * (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
    });
    table.tBodies[0].append(...keyed.map(([, row]) => row));
  }

  [...table.tHead.rows[0].cells].forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    button.addEventListener("click", () => sort(header, column));
    header.append(button);
  });

  for (const [name, value] of new URLSearchParams(location.search)) {
    const field = form.elements[name];
    if (field) field.value = value;
  }
  form.addEventListener("input", show);
  form.addEventListener("reset", () => setTimeout(show));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  show();
})();
