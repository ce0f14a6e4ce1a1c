"use strict";
const data = JSON.parse(document.getElementById("numbers").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const id = name => document.getElementById(name);
const MEAN = "mean over tasks";
const figures = {};

// Plotly reads a few tags in its texts: names of runs and tasks are shown as they are.
const literal = text => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

// The mean of what is known, for rows of equal length; null where nothing is.
function meanOf(rows) {
  return rows[0].map((_, i) => {
    const known = rows.map(row => row[i]).filter(x => x !== null);
    return known.length ? known.reduce((a, b) => a + b, 0) / known.length : null;
  });
}

// Colours that are too dark for a dark page are lightened.
function shade(color) {
  if (!dark.matches || !color.startsWith("#")) return color.startsWith("#") ? color : "#888888";
  const parts = [1, 3, 5].map(i => parseInt(color.slice(i, i + 2), 16));
  const light = (0.3 * parts[0] + 0.59 * parts[1] + 0.11 * parts[2]) / 255;
  return light > 0.45 ? color : "#" + parts.map(x => Math.round(x + (255 - x) * 0.5).toString(16).padStart(2, "0")).join("");
}

function options(select, names) {
  names.forEach((name, i) => {
    const option = document.createElement("option");
    option.value = i;
    option.textContent = name;
    select.append(option);
  });
}

function layout(more) {
  const style = getComputedStyle(document.documentElement), get = name => style.getPropertyValue(name).trim();
  const axis = {gridcolor: get("--line"), zerolinecolor: get("--line"), automargin: true};
  return {
    paper_bgcolor: get("--back"), plot_bgcolor: get("--back"), font: {color: get("--text"), size: 13},
    margin: {l: 50, r: 10, t: 36, b: 45}, hovermode: "closest", legend: {orientation: "h", y: -0.2}, ...more,
    xaxis: {...axis, ...more.xaxis}, yaxis: {...axis, ...more.yaxis},
  };
}

function draw(name, traces, more, words) {
  const place = id(name);
  place.setAttribute("aria-label", words);
  Plotly.react(place, traces, layout(more), {responsive: true, displaylogo: false});
}

figures.success = () => {
  const task = id("success-task").selectedIndex - 1, hours = id("success-axis").value === "hours", traces = [];
  data.methods.forEach((method, m) => {
    const curves = method.success.map(tasks => task < 0 ? meanOf(tasks) : tasks[task]);
    const xs = curves.map((_, s) => hours ? (method.hours || [])[s] || [] : method.steps);
    const shared = {legendgroup: "m" + m, line: {color: shade(method.color)}};
    const look = {dash: ["solid", "dash", "dot", "dashdot"][data.methods.slice(0, m).filter(o => o.color === method.color).length % 4]};
    if (curves.length > 1) curves.forEach((y, s) => traces.push({
      ...shared, x: xs[s], y, mode: "lines", opacity: 0.45, showlegend: false, name: literal(method.label + ", seed " + method.seeds[s]),
      line: {...shared.line, ...look, width: 1},
    }));
    traces.push({
      ...shared, x: hours ? method.mean_hours || [] : method.steps, y: meanOf(curves), mode: "lines+markers", name: literal(method.label), marker: {size: 5},
      line: {...shared.line, ...look, width: 3},
    });
  });
  if (task < 0 && !hours) data.published.forEach(p => traces.push({
    x: [p.steps], y: [p.success], mode: "markers", name: literal(p.name + ", " + p.statistic), showlegend: false,
    marker: {symbol: "x", size: 9, color: dark.matches ? "#aaa" : "#777"},
  }));
  const what = task < 0 ? MEAN : data.tasks[task];
  draw("success-plot", traces, {
    xaxis: {title: {text: hours ? "hours" : "environment steps per task"}, rangemode: "tozero"},
    yaxis: {title: {text: "success"}, range: [-0.04, 1.04]},
  }, "Success, " + what + ", at the end: " + data.methods.map(m => {
    const curve = meanOf(m.success.map(tasks => task < 0 ? meanOf(tasks) : tasks[task])), y = curve[curve.length - 1];
    return m.label + " " + (y === null ? "unknown" : y.toFixed(2));
  }).join(", "));
};

const tasksOf = axis => ({
  ...axis, type: "category", tickmode: "array", tickvals: data.tasks.map((_, i) => i), ticktext: data.tasks.map(literal),
  tickfont: {size: data.tasks.length > 20 ? 8 : 11},
});

figures.map = () => {
  const method = data.methods[id("map-method").selectedIndex];
  const z = data.tasks.map((_, t) => meanOf(method.success.map(tasks => tasks[t])));
  draw("map-plot", [{
    type: "heatmap", z, x: method.steps.map(String), y: data.tasks.map((_, i) => i), zmin: 0, zmax: 1, colorscale: "Cividis",
    text: z.map((row, t) => row.map(() => literal(data.tasks[t]))), colorbar: {title: {text: "success"}},
    hovertemplate: "%{text}<br>%{x} steps: %{z:.2f}<extra></extra>",
  }], {
    xaxis: {title: {text: "environment steps per task"}, type: "category", nticks: 8},
    yaxis: {...tasksOf({}), autorange: "reversed"},
  }, "Success of every task over training, " + method.label + "; the table of tasks has the newest numbers");
};

figures.conflicts = () => {
  const method = data.methods[id("conflict-method").selectedIndex], networks = Object.keys(method.conflicts);
  const slider = id("conflict-window"), told = id("conflict-steps"), select = id("conflict-network");
  if (Array.from(select.options, o => o.textContent).join() !== networks.join()) {
    select.replaceChildren();
    options(select, networks);
  }
  const found = method.conflicts[networks[Math.max(select.selectedIndex, 0)]];
  if (!found) {
    told.textContent = "not measured";
    return draw("conflict-plot", [], {}, "Conflicts were not measured");
  }
  slider.max = found.shares.length - 1;
  const window = Number(slider.value), z = found.shares[window];
  const known = z.flat().filter(x => x !== null), mean = known.reduce((a, b) => a + b, 0) / known.length;
  told.textContent = `${found.edges[window].toLocaleString("en")} to ${found.edges[window + 1].toLocaleString("en")} steps: ` +
    (known.length ? `${mean.toFixed(0)} % of pairs and updates in conflict` : "not measured");
  draw("conflict-plot", [{
    type: "heatmap", z, x: data.tasks.map((_, i) => i), y: data.tasks.map((_, i) => i), zmin: 0, zmax: 100, zmid: 50,
    colorscale: dark.matches ? [[0, "#4ea3dd"], [0.5, "#2a2f34"], [1, "#ff8b60"]] : [[0, "#2166ac"], [0.5, "#f7f7f7"], [1, "#b2182b"]],
    text: z.map((row, i) => row.map((_, j) => literal(data.tasks[i] + " and " + data.tasks[j]))),
    hovertemplate: "%{text}<br>%{z} % in conflict<extra></extra>", colorbar: {title: {text: "%"}},
  }], {xaxis: tasksOf({tickangle: -60}), yaxis: {...tasksOf({}), autorange: "reversed"}}, "Conflicts between tasks, " + method.label + ", " + told.textContent);
};

figures.training = () => {
  const names = Object.keys(data.quantities), name = names[id("training-quantity").selectedIndex];
  const task = id("training-task").selectedIndex - 1, traces = [];
  data.methods.forEach((method, m) => method.training.forEach((run, s) => {
    if (!run[name]) return;
    traces.push({
      x: run[name].steps, y: task < 0 ? meanOf(run[name].values) : run[name].values[task], mode: "lines", legendgroup: "m" + m,
      showlegend: s === 0, name: literal(s ? method.label + ", seed " + method.seeds[s] : method.label),
      line: {color: shade(method.color), width: 1.5},
    });
  }));
  const log = name.includes("ent_coef") || name.includes("norms"), what = task < 0 ? MEAN : data.tasks[task];
  draw("training-plot", traces, {
    xaxis: {title: {text: "environment steps per task"}, rangemode: "tozero"},
    yaxis: {title: {text: data.quantities[name]}, type: log ? "log" : "linear"},
  }, data.quantities[name] + ", " + what + (traces.length ? "" : ": not logged"));
};

for (const name of ["success-task", "training-task"]) options(id(name), [MEAN, ...data.tasks]);
for (const name of ["map-method", "conflict-method"]) options(id(name), data.methods.map(m => m.label));
options(id("training-quantity"), Object.values(data.quantities));
const drawAll = () => Object.values(figures).forEach(figure => figure());
const places = {success: "success", map: "map", conflict: "conflicts", training: "training"};
document.querySelectorAll(".controls select, .controls input").forEach(control => {
  control.addEventListener("input", figures[places[control.id.split("-")[0]]]);
});
document.querySelectorAll("form").forEach(form => form.addEventListener("submit", event => event.preventDefault()));
dark.addEventListener("change", drawAll);
drawAll();
document.body.dataset.drawn = Object.keys(figures).length;
