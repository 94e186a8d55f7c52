"use strict";
(() => {
  const all = (selector, root = document) => Array.from(root.querySelectorAll(selector));
  const format = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

  // ---- histograms: the bar under the pointer, in place of the numbers below it
  for (const picture of all(".histogram svg[data-counts]")) {
    const figure = picture.closest("figure");
    const numbers = figure.querySelector(".numbers");
    const counts = picture.dataset.counts.split(",").map(Number);
    const start = Number(picture.dataset.start);
    const step = (Number(picture.dataset.stop) - start) / counts.length;
    const told = numbers.textContent;
    picture.addEventListener("pointermove", (event) => {
      const frame = picture.getBoundingClientRect();
      const place = Math.floor(((event.clientX - frame.left) / frame.width) * counts.length);
      const bar = Math.min(counts.length - 1, Math.max(0, place));
      const ends = [start + bar * step, start + (bar + 1) * step].map((value) => format.format(value).replace("-", "−"));
      numbers.textContent = `${counts[bar].toLocaleString("en")} from ${ends[0]} to ${ends[1]}`;
      numbers.classList.add("reading");
    });
    picture.addEventListener("pointerleave", () => {
      numbers.textContent = told;
      numbers.classList.remove("reading");
    });
  }

  // ---- the graph: zoom, drag, neighbours, and the layer that is being read
  const graph = document.getElementById("graph");
  if (!graph) return;
  const canvas = graph.closest(".canvas");
  const width = graph.viewBox.baseVal.width;
  const height = graph.viewBox.baseVal.height;
  let scale = 1;

  const zoom = (wanted) => {
    const middle = [(canvas.scrollLeft + canvas.clientWidth / 2) / scale, (canvas.scrollTop + canvas.clientHeight / 2) / scale];
    scale = Math.min(3, Math.max(0.1, wanted));
    graph.setAttribute("width", width * scale);
    graph.setAttribute("height", height * scale);
    canvas.scrollLeft = middle[0] * scale - canvas.clientWidth / 2;
    canvas.scrollTop = middle[1] * scale - canvas.clientHeight / 2;
  };
  const fitting = () => Math.min(1, canvas.clientWidth / width);
  const steps = { in: () => zoom(scale * 1.25), out: () => zoom(scale / 1.25), fit: () => zoom(fitting()) };
  for (const button of all("[data-zoom]")) button.addEventListener("click", steps[button.dataset.zoom]);
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    zoom(scale * Math.exp(-event.deltaY / 300));
  }, { passive: false });
  all(".tools, .filters").forEach((part) => { part.hidden = false; });
  zoom(Math.max(0.6, fitting()));
  canvas.scrollTop = 0;
  const first = graph.querySelector(".node").getBoundingClientRect();
  const frame = canvas.getBoundingClientRect();
  canvas.scrollLeft += first.left + first.width / 2 - frame.left - frame.width / 2;

  let drag = null;
  canvas.classList.add("draggable");
  canvas.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "mouse" && event.button === 0) {
      drag = { x: event.clientX, y: event.clientY, left: canvas.scrollLeft, top: canvas.scrollTop, moved: false };
    }
  });
  window.addEventListener("pointermove", (event) => {
    if (!drag) return;
    const [x, y] = [event.clientX - drag.x, event.clientY - drag.y];
    drag.moved = drag.moved || Math.hypot(x, y) > 4;
    if (drag.moved) {
      canvas.classList.add("dragging");
      canvas.scrollLeft = drag.left - x;
      canvas.scrollTop = drag.top - y;
    }
  });
  window.addEventListener("pointerup", () => {
    canvas.classList.remove("dragging");
    window.setTimeout(() => { drag = null; });
  });
  canvas.addEventListener("click", (event) => { if (drag && drag.moved) event.preventDefault(); }, true);
  canvas.addEventListener("dragstart", (event) => event.preventDefault());

  const edges = all(".edges path");
  const near = (node, on) => {
    for (const edge of edges) {
      if (edge.dataset.from === node.id || edge.dataset.to === node.id) edge.classList.toggle("near", on);
    }
  };
  const boxes = new Map();
  for (const node of all(".node")) {
    boxes.set(node.dataset.target, node);
    node.addEventListener("pointerenter", () => near(node, true));
    node.addEventListener("pointerleave", () => near(node, false));
    node.addEventListener("focusin", () => near(node, true));
    node.addEventListener("focusout", () => near(node, false));
  }

  let current = null;
  const bring = (node) => {
    const [box, pane] = [node.getBoundingClientRect(), canvas.getBoundingClientRect()];
    if (box.top < pane.top || box.bottom > pane.bottom) canvas.scrollTop += box.top + box.height / 2 - pane.top - pane.height / 2;
    if (box.left < pane.left || box.right > pane.right) canvas.scrollLeft += box.left + box.width / 2 - pane.left - pane.width / 2;
  };
  const read = (card) => {
    const node = boxes.get(`#${card.id}`);
    if (!node || node === current) return;
    if (current) current.classList.remove("current");
    current = node;
    node.classList.add("current");
    if (!drag && !canvas.matches(":hover")) bring(node);
  };
  const cards = all(".card");
  const follow = () => {
    const line = 0.15 * window.innerHeight;
    const card = cards.find((one) => !one.hidden && one.getBoundingClientRect().bottom > line);
    if (card) read(card);
  };
  let waiting = false;
  window.addEventListener("scroll", () => {
    if (waiting) return;
    waiting = true;
    window.setTimeout(() => {
      waiting = false;
      follow();
    }, 60);
  }, { passive: true });
  follow();

  // A link from a card to its box scrolls the pane alone: the page stays where it is unless the pane is out of sight.
  for (const link of all(".card h3 a")) {
    link.addEventListener("click", (event) => {
      const node = document.getElementById(link.hash.slice(1));
      const pane = canvas.getBoundingClientRect();
      event.preventDefault();
      if (pane.bottom < 60 || pane.top > window.innerHeight) canvas.scrollIntoView({ block: "start" });
      bring(node);
      node.querySelector("a").focus({ preventScroll: true });
    });
  }

  // ---- finding layers
  const find = document.getElementById("find");
  const weights = document.getElementById("weights");
  const shown = document.getElementById("shown");
  const filter = () => {
    const wanted = find.value.trim().toLowerCase();
    let count = 0;
    for (const card of cards) {
      card.hidden = !card.dataset.name.includes(wanted) || (weights.checked && card.classList.contains("plain"));
      if (!card.hidden) count += 1;
    }
    shown.textContent = count === cards.length ? "" : `${count} of ${cards.length} layers`;
  };
  find.addEventListener("input", filter);
  weights.addEventListener("change", filter);
  const open = () => {
    const target = location.hash.startsWith("#layer-") && document.getElementById(location.hash.slice(1));
    if (target && target.hidden) {
      find.value = "";
      weights.checked = false;
      filter();
      target.scrollIntoView();
    }
  };
  window.addEventListener("hashchange", open);
})();
