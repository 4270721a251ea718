for (const table of document.querySelectorAll("table")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const key = (row, i) => {
    const text = row.cells[i].textContent, number = parseFloat(text);
    return i === 0 || Number.isNaN(number) ? text : number;
  };
  heads.forEach((head, i) => head.querySelector("button").addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const order = (a, b) => {
      const x = key(a, i), y = key(b, i);
      const sign = typeof x === typeof y ? (x > y) - (x < y) : typeof x === "number" ? -1 : 1;
      return up ? sign : -sign;
    };
    body.append(...[...body.rows].sort(order));
  }));
}
