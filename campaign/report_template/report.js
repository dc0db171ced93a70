// Draws the figures of a report: their data stand in script elements of type application/json, their colours come from the page.
"use strict";
(() => {
  const root = document.documentElement;
  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const boxes = [...document.querySelectorAll("[data-figure]")];
  const settings = {
    responsive: true,
    displaylogo: false,
    // By default plotly.js has a button that uploads the figure to its maker's server. These stay, and there is nowhere to upload to.
    showSendToCloud: false,
    plotlyServerURL: "",
    modeBarButtons: [["toImage"], ["zoom2d", "pan2d"], ["zoomIn2d", "zoomOut2d", "resetScale2d"]],
    toImageButtonOptions: { format: "svg" },
  };

  function theme(layout) {
    const axes = {};
    for (const name of Object.keys(layout).filter((key) => /^[xy]axis/.test(key))) {
      axes[`${name}.gridcolor`] = colour("--grid");
      axes[`${name}.zerolinecolor`] = colour("--line");
      axes[`${name}.linecolor`] = colour("--line");
      axes[`${name}.tickcolor`] = colour("--line");
    }
    return {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      "font.family": getComputedStyle(document.body).fontFamily,
      "font.size": 13,
      "font.color": colour("--ink"),
      "hoverlabel.bgcolor": colour("--card"),
      "hoverlabel.bordercolor": colour("--line"),
      "hoverlabel.font.color": colour("--ink"),
      "modebar.bgcolor": "rgba(0,0,0,0)",
      "modebar.color": colour("--muted"),
      "modebar.activecolor": colour("--accent"),
      ...axes,
    };
  }

  async function draw(box) {
    const figure = JSON.parse(document.getElementById(`data-${box.dataset.figure}`).textContent);
    await Plotly.newPlot(box, figure.data, figure.layout, settings);
    await Plotly.relayout(box, theme(figure.layout));
  }

  const repaint = () => boxes.forEach((box) => box.layout && Plotly.relayout(box, theme(box.layout)));
  Promise.all(boxes.map(draw)).then(() => root.setAttribute("data-drawn", String(boxes.length)));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);

  // Paper is narrower than most windows, and always light; the style sheet has switched colours by the time beforeprint fires.
  addEventListener("beforeprint", () => {
    root.classList.add("printing");
    boxes.forEach((box) => box.layout && Plotly.relayout(box, { ...theme(box.layout), width: Math.min(box.clientWidth, 680), autosize: false }));
  });
  addEventListener("afterprint", () => {
    root.classList.remove("printing");
    boxes.forEach((box) => box.layout && Plotly.relayout(box, { ...theme(box.layout), width: null, autosize: true }));
  });
})();
