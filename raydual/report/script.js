"use strict";
(() => {
  // Charts: the still picture stays until the one that moves has been drawn in its place.
  const draw = (plot) => {
    const spec = JSON.parse(plot.querySelector("script").textContent);
    const place = document.createElement("div");
    window.vegaEmbed(place, spec, { actions: false, renderer: "svg", ast: false }).then(() => {
      const still = plot.querySelector(":scope > svg");
      place.querySelectorAll("svg").forEach((svg) => svg.setAttribute("aria-hidden", "true"));
      if (!plot.dataset.controls) { plot.setAttribute("role", "img"); plot.setAttribute("aria-label", plot.dataset.label); }
      if (still) still.remove();
      plot.append(place);
    });
  };
  const plots = [...document.querySelectorAll(".plot")];
  const seen = new IntersectionObserver((entries) => entries.forEach((entry) => {
    if (entry.isIntersecting) { seen.unobserve(entry.target); draw(entry.target); }
  }), { rootMargin: "300px" });
  plots.forEach((plot) => seen.observe(plot));
  // Filter by metric.
  const tools = document.querySelector(".tools");
  if (tools) {
    tools.hidden = false;
    const chosen = tools.querySelector("select");
    chosen.addEventListener("change", () => document.querySelectorAll("[data-metrics]").forEach((one) => {
      one.hidden = chosen.value !== "" && !one.dataset.metrics.split(" ").includes(chosen.value);
    }));
  }
  // Sort tables by a column.
  const value = (row, at) => {
    const text = row.cells[at].innerText.replace("−", "-").trim();
    const number = parseFloat(text);
    return Number.isNaN(number) ? text : number;
  };
  document.querySelectorAll("table.sortable").forEach((table) => [...table.tHead.rows[0].cells].forEach((head, at) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      [...table.tHead.rows[0].cells].forEach((one) => one.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows].sort((a, b) => {
        const [x, y] = [value(a, at), value(b, at)];
        const order = typeof x === typeof y ? (x > y) - (x < y) : typeof x === "number" ? -1 : 1;
        return up ? order : -order;
      });
      table.tBodies[0].append(...rows);
    });
  }));
})();
