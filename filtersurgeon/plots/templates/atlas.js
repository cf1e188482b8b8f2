"use strict";
(function () {
  const found = JSON.parse(document.getElementById("data").textContent);
  const canvas = document.getElementById("plot");
  const tip = document.getElementById("tip");
  const choice = document.getElementById("colour");
  const count = found.x.length;
  const view = { scale: 1, x: 0, y: 0 };
  const hidden = {};
  const low = [least(found.x), least(found.y)];
  const high = [-least(found.x.map((v) => -v)), -least(found.y.map((v) => -v))];
  const span = [high[0] - low[0] || 1, high[1] - low[1] || 1];
  const weights = bytes(found.weights);
  const members = {};
  Object.keys(found.members).forEach((size) => { members[size] = bytes(found.members[size]); });
  const starts = [0];
  for (let i = 0; i < count; i += 1) {
    const size = found.layers[found.layer[i]].size;
    starts.push(starts[i] + size[0] * size[1]);
  }
  // Viridis at nine places.
  const ramp = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"]
    .map((c) => [1, 3, 5].map((k) => parseInt(c.slice(k, k + 2), 16)));

  function least(values) { return values.reduce((a, b) => Math.min(a, b), Infinity); }

  function bytes(text) { return Int8Array.from(atob(text), (c) => c.charCodeAt(0)); }

  function shade(share) {
    const at = Math.min(ramp.length - 1.001, Math.max(0, share * (ramp.length - 1)));
    const k = Math.floor(at);
    return "rgb(" + ramp[k].map((v, c) => Math.round(v + (ramp[k + 1][c] - v) * (at - k))).join(",") + ")";
  }

  // What the points are coloured by: a value per kernel, and a name per value.
  const kinds = {
    network: { value: (i) => found.layers[found.layer[i]].network, names: found.networks },
    member: { value: (i) => found.member[i], names: found.labels },
    order: { value: (i) => found.order[i], names: found.orders },
  };

  function dye(value) {
    return value < 0 ? "#c3c9d2" : found.palette[value % found.palette.length];
  }

  let colours = [];
  let values = [];

  function recolour() {
    const kind = kinds[choice.value];
    values = found.layer.map((_, i) => (kind ? kind.value(i) : 0));
    colours = found.layer.map((layer, i) => (kind ? dye(values[i]) : shade(found.layers[layer].depth)));
    hidden[choice.value] = hidden[choice.value] || new Set();
    legend(kind);
    draw();
  }

  function seen(i) { return !hidden[choice.value].has(values[i]); }

  function legend(kind) {
    const box = document.getElementById("legend");
    box.replaceChildren();
    if (!kind) {
      const bar = document.createElement("div");
      bar.className = "ramp";
      bar.style.background = "linear-gradient(to right," + ramp.map((c) => "rgb(" + c.join(",") + ")").join(",") + ")";
      const ends = document.createElement("div");
      ends.className = "ends";
      ["first layer", "last layer"].forEach((text) => {
        const end = document.createElement("span");
        end.textContent = text;
        ends.append(end);
      });
      box.append(bar, ends);
      return;
    }
    const counts = new Map();
    values.forEach((v) => counts.set(v, (counts.get(v) || 0) + 1));
    Array.from(counts.keys()).sort((a, b) => (a < 0) - (b < 0) || a - b).forEach((value) => {
      const button = document.createElement("button");
      const dot = document.createElement("i");
      dot.style.background = dye(value);
      button.append(dot, (value < 0 ? "none" : kind.names[value]) + " (" + counts.get(value).toLocaleString("en") + ")");
      button.setAttribute("aria-pressed", String(!hidden[choice.value].has(value)));
      button.addEventListener("click", () => {
        const off = hidden[choice.value];
        if (off.has(value)) off.delete(value); else off.add(value);
        button.setAttribute("aria-pressed", String(!off.has(value)));
        draw();
      });
      box.append(button);
    });
  }

  function place(i) {
    const w = canvas.clientWidth, h = canvas.clientHeight;
    const unit = Math.min(w / span[0], h / span[1]) * 0.94 * view.scale;
    return [w / 2 + (found.x[i] - (low[0] + high[0]) / 2 + view.x) * unit,
      h / 2 - (found.y[i] - (low[1] + high[1]) / 2 + view.y) * unit, unit];
  }

  // Another order than that of the layers, so that the last network does not hide the others.
  const order = Array.from({ length: count }, (_, k) => (k * 7919 + 13) % count);
  const permuted = new Set(order).size === count ? order : Array.from({ length: count }, (_, k) => k);

  function draw() {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = canvas.clientWidth * ratio;
    canvas.height = canvas.clientHeight * ratio;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    pen.globalAlpha = 0.8;
    const radius = Math.min(5, (count > 1500 ? 2.4 : 3.2) * Math.sqrt(view.scale));
    permuted.forEach((i) => {
      if (!seen(i)) return;
      const [x, y] = place(i);
      if (x < -5 || y < -5 || x > canvas.clientWidth + 5 || y > canvas.clientHeight + 5) return;
      pen.fillStyle = colours[i];
      pen.beginPath();
      pen.arc(x, y, radius, 0, 7);
      pen.fill();
    });
  }

  function nearest(event) {
    const box = canvas.getBoundingClientRect();
    let best = -1, distance = 100;
    for (let i = 0; i < count; i += 1) {
      if (!seen(i)) continue;
      const [x, y] = place(i);
      const d = (x - event.clientX + box.left) ** 2 + (y - event.clientY + box.top) ** 2;
      if (d < distance) { distance = d; best = i; }
    }
    return best;
  }

  // Red above zero, blue below, white at zero.
  function picture(data, start, size, caption) {
    const figure = document.createElement("figure");
    const small = document.createElement("canvas");
    small.width = size[1];
    small.height = size[0];
    const pen = small.getContext("2d");
    const pixels = pen.createImageData(size[1], size[0]);
    for (let k = 0; k < size[0] * size[1]; k += 1) {
      const share = data[start + k] / 127;
      const end = share > 0 ? [178, 24, 43] : [33, 102, 172];
      for (let c = 0; c < 3; c += 1) pixels.data[4 * k + c] = Math.round(255 + (end[c] - 255) * Math.abs(share));
      pixels.data[4 * k + 3] = 255;
    }
    pen.putImageData(pixels, 0, 0);
    const text = document.createElement("figcaption");
    text.textContent = caption;
    figure.append(small, text);
    return figure;
  }

  function tell(event) {
    const i = nearest(event);
    tip.style.display = i < 0 ? "none" : "block";
    if (i < 0) return;
    const layer = found.layers[found.layer[i]];
    const pictures = document.createElement("div");
    pictures.append(picture(weights, starts[i], layer.size, "kernel " + found.index[i]));
    const bank = members[layer.size.join("x")];
    const member = found.member[i];
    if (bank && member >= 0) {
      const start = member * layer.size[0] * layer.size[1];
      pictures.append(picture(bank, start, layer.size, found.labels[member] + ", |cosine| " + found.cosine[i].toFixed(2)));
    }
    const lines = [found.networks[layer.network] + ": " + layer.name];
    if (found.order[i] >= 0) {
      lines.push("Gaussian fit " + found.orders[found.order[i]] + ", sigma x " + found.sigma_x[i].toFixed(2) +
        ", y " + found.sigma_y[i].toFixed(2) + ", residual " + found.residual[i].toFixed(2));
    }
    tip.replaceChildren(pictures, ...lines.map((text) => {
      const line = document.createElement("span");
      line.textContent = text;
      line.style.display = "block";
      return line;
    }));
    const right = event.clientX + 16 + tip.offsetWidth > window.innerWidth;
    const below = event.clientY + 16 + tip.offsetHeight > window.innerHeight;
    tip.style.left = (right ? event.clientX - 12 - tip.offsetWidth : event.clientX + 16) + "px";
    tip.style.top = (below ? Math.max(0, event.clientY - 12 - tip.offsetHeight) : event.clientY + 16) + "px";
  }

  let held = null;
  canvas.addEventListener("pointerdown", (e) => { held = [e.clientX, e.clientY]; canvas.setPointerCapture(e.pointerId); });
  canvas.addEventListener("pointerup", () => { held = null; });
  canvas.addEventListener("pointerleave", () => { tip.style.display = "none"; });
  canvas.addEventListener("pointermove", (e) => {
    if (!held) { tell(e); return; }
    const unit = place(0)[2];
    view.x += (e.clientX - held[0]) / unit;
    view.y -= (e.clientY - held[1]) / unit;
    held = [e.clientX, e.clientY];
    draw();
  });
  canvas.addEventListener("wheel", (e) => {
    e.preventDefault();
    const box = canvas.getBoundingClientRect();
    const before = place(0)[2];
    view.scale = Math.min(60, Math.max(0.5, view.scale * Math.exp(-e.deltaY / 400)));
    const after = place(0)[2];
    view.x += (e.clientX - box.left - box.width / 2) * (1 / after - 1 / before);
    view.y -= (e.clientY - box.top - box.height / 2) * (1 / after - 1 / before);
    draw();
  }, { passive: false });
  canvas.addEventListener("dblclick", () => { Object.assign(view, { scale: 1, x: 0, y: 0 }); draw(); });
  choice.addEventListener("change", recolour);
  window.addEventListener("resize", draw);
  recolour();
})();
