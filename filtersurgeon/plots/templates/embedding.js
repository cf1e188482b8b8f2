"use strict";
(function () {
  const found = JSON.parse(document.getElementById("data").textContent);
  const classes = Array.from(new Set(found.labels)).sort((a, b) => a - b);
  const hidden = new Set();
  const plots = document.getElementById("plots");
  const tip = document.getElementById("tip");
  const view = { scale: 1, x: 0, y: 0 };
  const all = found.checkpoints.flatMap((c) => c.points);
  const low = [0, 1].map((k) => Math.min(...all.map((p) => p[k])));
  const high = [0, 1].map((k) => Math.max(...all.map((p) => p[k])));
  const span = Math.max(high[0] - low[0], high[1] - low[1]) || 1;

  function colour(label) { return found.colours[String(label)]; }

  function place(point, side) {
    const u = (point[0] - (low[0] + high[0]) / 2) / span * 0.92;
    const v = ((low[1] + high[1]) / 2 - point[1]) / span * 0.92;
    return [side * (0.5 + (u + view.x) * view.scale), side * (0.5 + (v + view.y) * view.scale)];
  }

  function draw(canvas, cloud) {
    const ratio = window.devicePixelRatio || 1;
    const side = canvas.clientWidth;
    canvas.width = canvas.height = side * ratio;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    pen.lineWidth = 1.2;
    cloud.points.forEach((point, i) => {
      if (hidden.has(found.labels[i])) return;
      const [x, y] = place(point, side);
      pen.beginPath();
      pen.arc(x, y, 3.2, 0, 7);
      pen.globalAlpha = 0.8;
      if (found.splits[i] === "train") { pen.strokeStyle = colour(found.labels[i]); pen.stroke(); }
      else { pen.fillStyle = colour(found.labels[i]); pen.fill(); }
    });
  }

  function redraw() { canvases.forEach(([canvas, cloud]) => draw(canvas, cloud)); }

  function nearest(canvas, cloud, event) {
    const box = canvas.getBoundingClientRect();
    let best = -1, least = 64;
    cloud.points.forEach((point, i) => {
      if (hidden.has(found.labels[i])) return;
      const [x, y] = place(point, canvas.clientWidth);
      const d = (x - event.clientX + box.left) ** 2 + (y - event.clientY + box.top) ** 2;
      if (d < least) { least = d; best = i; }
    });
    return best;
  }

  function tell(canvas, cloud, event) {
    const i = nearest(canvas, cloud, event);
    tip.style.display = i < 0 ? "none" : "block";
    if (i < 0) return;
    tip.textContent = found.images[i] + " (" + found.splits[i] + "): class " + found.labels[i] +
      ", seen as " + cloud.predicted[i];
    tip.style.left = Math.min(event.clientX + 12, window.innerWidth - 260) + "px";
    tip.style.top = event.clientY + 12 + "px";
  }

  const canvases = found.checkpoints.map((cloud) => {
    const part = document.createElement("div");
    const head = document.createElement("h3");
    head.textContent = cloud.name + ": " + (100 * cloud.neighbours).toFixed(1) +
      " % have a neighbour of their class";
    const canvas = document.createElement("canvas");
    part.append(head, canvas);
    plots.append(part);
    let held = null;
    canvas.addEventListener("pointerdown", (e) => { held = [e.clientX, e.clientY]; canvas.setPointerCapture(e.pointerId); });
    canvas.addEventListener("pointerup", () => { held = null; });
    canvas.addEventListener("pointerleave", () => { tip.style.display = "none"; });
    canvas.addEventListener("pointermove", (e) => {
      if (!held) { tell(canvas, cloud, e); return; }
      const step = canvas.clientWidth * view.scale;
      view.x += (e.clientX - held[0]) / step;
      view.y += (e.clientY - held[1]) / step;
      held = [e.clientX, e.clientY];
      redraw();
    });
    canvas.addEventListener("wheel", (e) => {
      e.preventDefault();
      const box = canvas.getBoundingClientRect();
      const before = view.scale;
      view.scale = Math.min(60, Math.max(0.5, before * Math.exp(-e.deltaY / 400)));
      [["x", (e.clientX - box.left) / box.width], ["y", (e.clientY - box.top) / box.height]]
        .forEach(([axis, at]) => { view[axis] += (at - 0.5) * (1 / view.scale - 1 / before); });
      redraw();
    }, { passive: false });
    canvas.addEventListener("dblclick", () => { Object.assign(view, { scale: 1, x: 0, y: 0 }); redraw(); });
    return [canvas, cloud];
  });

  const legend = document.getElementById("legend");
  classes.slice(0, 60).forEach((label) => {
    const button = document.createElement("button");
    const dot = document.createElement("i");
    dot.style.background = colour(label);
    button.append(dot, String(label));
    button.setAttribute("aria-pressed", "true");
    button.addEventListener("click", () => {
      if (hidden.has(label)) hidden.delete(label); else hidden.add(label);
      button.setAttribute("aria-pressed", String(!hidden.has(label)));
      redraw();
    });
    legend.append(button);
  });
  window.addEventListener("resize", redraw);
  redraw();
})();
