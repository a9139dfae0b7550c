"use strict";
// Draws the charts. Those of a recording share a time range, a cursor and the choice of curves.
const page = JSON.parse(document.getElementById("data").textContent);
const options = {actions: false, renderer: "svg", ast: true};  // ast: no eval, which the page's policy forbids
const traces = [];

function draw(place, spec) {
  return vegaEmbed(place, spec, options).then(result => {
    place.querySelector("svg").setAttribute("aria-hidden", "true");  // the place itself is the image, with its label
    return result.view;
  });
}

function rowsOf(curves, target) {
  const part = curves[target], value = (series, k) => series[k] === null ? null : series[k] / 1000;
  return curves.t.map((t, k) => {
    const row = {t: t / 1000, gold: value(part.gold, k)};
    for (const kind of ["raw", "post"]) part[kind].forEach((series, i) => { row[kind + i] = value(series, k); });
    return row;
  });
}

class Trace {
  constructor(figure) {
    this.figure = figure;
    this.curves = page.traces[figure.dataset.trace];
    this.length = this.curves.length;
    this.state = {from: 0, to: this.length, at: 0, left: 0, right: 0, length: this.length};
    this.slider = figure.querySelector("input[type=range]");
    this.readout = figure.querySelector(".readout");
    this.rows = {};
    this.views = [];
    this.panels = [];
  }

  async draw() {
    const params = values => Object.entries(values).map(([name, value]) => ({name, value}));
    const faces = this.figure.querySelector(".faces"), spec = structuredClone(page.face_panel);
    if (faces) {
      spec.data.values = this.curves.faces;
      spec.params = params({...this.state, count: this.curves.faces.length});
      this.views.push(await draw(faces, spec));
    }
    for (const place of this.figure.querySelectorAll(".panel")) {
      const target = place.dataset.target, panel = structuredClone(page.panels[target]);
      this.rows[target] = panel.data.values = rowsOf(this.curves, target);
      panel.params = params({...this.state, ...chosen(target)});
      const view = await draw(place, panel);
      this.views.push(view);
      this.panels.push({target, view});
      this.listen(place, view);
    }
    this.listenToControls();
    this.figure.dataset.drawn = "yes";
  }

  set(changes) {
    Object.assign(this.state, changes);
    for (const view of this.views) {
      for (const [name, value] of Object.entries(changes)) view.signal(name, value);
      view.runAsync();
    }
    if ("at" in changes) this.read();
  }

  zoom(from, to) {
    const least = Math.min(0.5, this.length), span = Math.min(Math.max(to - from, least), this.length);
    from = Math.min(Math.max(from, 0), this.length - span);
    this.set({from, to: from + span});
  }

  scale(factor, centre = this.state.at) {
    const {from, to} = this.state;
    if (centre < from || centre > to) centre = (from + to) / 2;
    this.zoom(centre - (centre - from) * factor, centre + (to - centre) * factor);
  }

  move(at) {  // the time range follows the cursor
    at = Math.min(Math.max(at, 0), this.length);
    const {from, to} = this.state, span = to - from;
    if (at < from || at > to) this.zoom(at - span / 2, at + span / 2);
    this.slider.value = at;
    this.set({at});
  }

  read() {  // the values at the cursor, as text
    const texts = [`${this.state.at.toFixed(1)} s`];
    for (const [target, rows] of Object.entries(this.rows)) {
      let k = rows.findIndex(row => row.t >= this.state.at);
      k = k < 0 ? rows.length - 1 : k > 0 && this.state.at - rows[k - 1].t < rows[k].t - this.state.at ? k - 1 : k;
      const choice = chosen(target), number = value => value === null ? "no rating" : value.toFixed(2);
      const values = choice.gold ? [`gold ${number(rows[k].gold)}`] : [];
      page.runs[target].forEach((name, i) => {
        for (const [kind, word] of [["post", ""], ["raw", " raw"]])
          if (choice[kind] && choice["run" + i]) values.push(`${name}${word} ${number(rows[k][kind + i])}`);
      });
      texts.push(`${target}: ${values.join(", ")}`);
    }
    const line = text => Object.assign(document.createElement("span"), {textContent: text});
    this.readout.replaceChildren(...texts.map(line));
    this.slider.setAttribute("aria-valuetext", texts.join("; "));
  }

  listen(place, view) {
    const timeOf = event => {
      const x = event.clientX - place.querySelector("svg").getBoundingClientRect().left - view.origin()[0];
      return Math.min(Math.max(view.scale("x").invert(x), this.state.from), this.state.to);
    };
    let start = null;
    place.addEventListener("pointerdown", event => {
      if (event.button) return;
      start = timeOf(event);
      place.setPointerCapture(event.pointerId);
    });
    place.addEventListener("pointermove", event => {
      const at = timeOf(event);
      this.move(at);
      if (start !== null) this.set({left: Math.min(start, at), right: Math.max(start, at)});
    });
    const end = event => {
      if (start === null) return;
      const {left, right} = this.state, wide = right - left > (this.state.to - this.state.from) / 50;
      start = null;
      this.set({left: 0, right: 0});
      if (event.type === "pointerup" && wide) this.zoom(left, right);
    };
    place.addEventListener("pointerup", end);
    place.addEventListener("pointercancel", end);
    place.addEventListener("dblclick", () => this.zoom(0, this.length));
    place.addEventListener("wheel", event => {  // a pinch on a touchpad is a wheel with ctrl
      if (!event.ctrlKey) return;
      event.preventDefault();
      this.scale(Math.exp(event.deltaY / 100), timeOf(event));
    }, {passive: false});
  }

  listenToControls() {
    const actions = {in: () => this.scale(0.5), out: () => this.scale(2), all: () => this.zoom(0, this.length)};
    for (const button of this.figure.querySelectorAll("button"))
      button.addEventListener("click", actions[button.value]);
    this.slider.addEventListener("input", () => this.move(Number(this.slider.value)));
    this.read();
  }
}

function chosen(target) {  // which curves are shown
  const fields = document.getElementById("curves"), choice = {};
  for (const name of ["gold", "raw", "post"]) choice[name] = fields.elements[name].checked;
  page.runs[target].forEach((name, i) => {
    choice["run" + i] = [...fields.querySelectorAll("[name=run]")].find(box => box.value === name).checked;
  });
  return choice;
}

function choose() {
  for (const trace of traces) {
    for (const {target, view} of trace.panels) {
      for (const [name, value] of Object.entries(chosen(target))) view.signal(name, value);
      view.runAsync();
    }
    trace.read();
  }
}

async function drawTrace(figure) {
  if (figure.dataset.drawn) return;
  figure.dataset.drawn = "now";
  const trace = new Trace(figure);
  await trace.draw();
  traces.push(trace);
}

async function drawAll() {
  for (const place of document.querySelectorAll("[data-chart]")) await draw(place, page.charts[place.dataset.chart]);
  for (const figure of document.querySelectorAll("[data-trace]")) {
    const closed = figure.closest("details:not([open])");  // drawn when it is opened: a hidden place has no width
    if (closed) closed.addEventListener("toggle", () => drawTrace(figure), {once: true});
    else await drawTrace(figure);
  }
  document.getElementById("curves")?.addEventListener("change", choose);
  document.documentElement.dataset.drawn = "yes";
}

drawAll();
