"use strict";

// The values at the step under the pointer, and check-boxes for the lines of a plot. The numbers lie
// in the `data-plot` attribute of each SVG (rl_llm/report/hover.py); without them a plot is a picture.

(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const readout = document.createElement("div");
  readout.className = "readout";
  readout.setAttribute("role", "status");
  readout.hidden = true;
  document.body.append(readout);
  let shownBy = null;

  function element(name, className, text) {
    const made = document.createElement(name);
    made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function number(value, percent) {
    if (value === null) return "not finite";
    if (percent) return `${(100 * value).toFixed(1)} %`;
    if (Math.abs(value) >= 1000) return Math.round(value).toLocaleString("en");
    return String(Number(value.toPrecision(4)));
  }

  // Where a panel draws a number, from 0 to 1 of its width or height.
  const share = (value, [low, high]) => (value - low) / (high - low);
  const across = (panel, x) => panel.box[0] + share(x, panel.xlim) * (panel.box[2] - panel.box[0]);
  function down(panel, y) {
    const [value, limits] = panel.log ? [Math.log(y), panel.ylim.map(Math.log)] : [y, panel.ylim];
    return panel.box[3] - share(value, limits) * (panel.box[3] - panel.box[1]);
  }

  // The last point of a trace at or before x; -1 where it begins later.
  function indexAt(points, x) {
    let low = 0, high = points.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (points[middle] <= x) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  function nearest(points, x) {
    const before = Math.max(0, indexAt(points, x));
    const after = Math.min(points.length - 1, before + 1);
    return Math.abs(points[after] - x) < Math.abs(x - points[before]) ? after : before;
  }

  function place(panel, axis, index) {
    return panel.places.length ? panel.places[index] : number(panel.axes[axis][index], false);
  }

  function row(plot, panel, trace, index, isThere) {
    const line = element("div", "row-of-readout");
    const swatch = element("i", "swatch");
    swatch.style.background = trace.colour;
    const value = element("b", "", number(trace.y[index], panel.percent));
    line.append(swatch, element("span", "name", trace.name || panel.label), value);
    if (trace.mean) line.append(element("small", "", `mean ${number(trace.mean[index], panel.percent)}`));
    if (!isThere) line.append(element("small", "", `${plot.x} ${place(panel, trace.axis, index)}`));
    return line;
  }

  // Write what all panels say at x, and draw where that is.
  function fill(view, x) {
    const { plot, marks, svg } = view;
    const size = svg.viewBox.baseVal;
    readout.replaceChildren();
    marks.replaceChildren();
    let heading = "";
    for (const panel of plot.panels) {
      if (panel.traces.some(trace => trace.name)) {
        readout.append(element("div", "unit", panel.label));
      }
      const left = size.width * across(panel, x);
      const ends = [size.height * panel.box[1], size.height * panel.box[3]];
      marks.append(shape("line", { class: "cursor", x1: left, x2: left, y1: ends[0], y2: ends[1] }));
      for (const trace of panel.traces.filter(each => !each.isHidden)) {
        const index = indexAt(panel.axes[trace.axis], x);
        if (index < 0) continue;
        const isThere = panel.axes[trace.axis][index] === x;
        if (isThere) heading = `${plot.x} ${place(panel, trace.axis, index)}`;
        readout.append(row(plot, panel, trace, index, isThere));
        const height = down(panel, (trace.mean || trace.y)[index]);
        if (isThere && trace.dotted && height >= panel.box[1] && height <= panel.box[3]) {
          const style = `fill: ${trace.colour}`;
          marks.append(shape("circle", { class: "dot", cx: left, cy: size.height * height, r: 3, style }));
        }
      }
    }
    readout.prepend(element("div", "where", heading));
    readout.classList.toggle("two-columns", readout.childElementCount > 14);
  }

  function shape(name, attributes) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }

  // Put the readout beside a point of the window, where there is room.
  function moveTo(left, top) {
    readout.hidden = false;
    const { width, height } = readout.getBoundingClientRect();
    const [wide, high] = [document.documentElement.clientWidth, document.documentElement.clientHeight];
    const beside = left + 16 + width <= wide ? left + 16 : left - 16 - width;
    readout.style.left = `${Math.max(4, Math.min(beside, wide - width - 4))}px`;
    readout.style.top = `${Math.max(4, Math.min(top - height / 2, high - height - 4))}px`;
  }

  function hide() {
    if (shownBy) shownBy.marks.replaceChildren();
    shownBy = null;
    readout.hidden = true;
  }

  function points(plot) {
    const seen = new Set(plot.panels.flatMap(panel => panel.traces
      .filter(trace => !trace.isHidden)
      .flatMap(trace => panel.axes[trace.axis])));
    return [...seen].sort((a, b) => a - b);
  }

  function show(view, x, top) {
    if (shownBy !== view) hide();
    shownBy = view;
    fill(view, x);
    const box = view.svg.getBoundingClientRect();
    moveTo(box.left + box.width * across(view.plot.panels[0], x), top);
  }

  function follow(view, event) {
    const { svg, plot } = view;
    const box = svg.getBoundingClientRect();
    const [left, , right] = plot.panels[0].box;
    const at = share((event.clientX - box.left) / box.width, [left, right]);
    const all = points(plot);
    if (!all.length || at < -0.03 || at > 1.03) return hide();
    const [low, high] = plot.panels[0].xlim;
    show(view, all[nearest(all, low + at * (high - low))], event.clientY);
  }

  function step(view, event) {
    if (event.key === "Escape") return hide();
    const all = points(view.plot);
    const last = all.length - 1;
    if (view.at === undefined) view.at = last;
    const moved = { ArrowLeft: view.at - 1, ArrowRight: view.at + 1, Home: 0, End: last }[event.key];
    if (moved === undefined || last < 0) return;
    event.preventDefault();
    view.at = Math.max(0, Math.min(last, moved));
    const box = view.svg.getBoundingClientRect();
    show(view, all[view.at], box.top + box.height / 2);
  }

  function attach(svg) {
    const plot = JSON.parse(svg.dataset.plot);
    const view = { svg, plot, marks: shape("g", { "aria-hidden": "true" }) };
    svg.append(view.marks);
    svg.setAttribute("tabindex", "0");
    svg.addEventListener("pointermove", event => follow(view, event));
    svg.addEventListener("pointerdown", event => follow(view, event));
    svg.addEventListener("pointerleave", event => event.pointerType === "mouse" && hide());
    svg.addEventListener("keydown", event => step(view, event));
    svg.addEventListener("blur", hide);
    const chosen = plot.panels.find(panel => panel.choosable);
    if (chosen) svg.parentElement.after(choices(svg, chosen));
  }

  // Check-boxes for the traces of a panel that are drawn apart from each other.
  function choices(svg, panel) {
    const group = element("div", "choices");
    group.setAttribute("role", "group");
    group.setAttribute("aria-label", "lines shown");
    const boxes = [];
    panel.traces.forEach((trace, index) => {
      if (!trace.drawn) return;
      const label = element("label", "choice");
      const box = document.createElement("input");
      box.type = "checkbox";
      box.checked = true;
      box.style.accentColor = trace.colour;
      box.addEventListener("change", () => {
        trace.isHidden = !box.checked;
        for (const part of svg.querySelectorAll(`[data-trace="${index}"]`)) {
          part.style.display = box.checked ? "" : "none";
        }
      });
      label.append(box, trace.name);
      group.append(label);
      boxes.push(box);
    });
    for (const [text, isOn] of [["all", true], ["none", false]]) {
      const button = element("button", "", text);
      button.type = "button";
      button.addEventListener("click", () => boxes.filter(box => box.checked !== isOn).forEach(box => box.click()));
      group.append(button);
    }
    return group;
  }

  document.querySelectorAll("svg[data-plot]").forEach(attach);
  document.addEventListener("scroll", hide, { passive: true });
  document.addEventListener("pointerdown", event => {
    if (shownBy && !shownBy.svg.contains(event.target)) hide();
  });
})();
