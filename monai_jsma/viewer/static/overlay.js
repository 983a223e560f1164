// Copyright (c) the monai_jsma contributors.
// SPDX-License-Identifier: Apache-2.0
// Draws over the slide: attention, regions, boxes of patches, outlines of annotations. Places are level-0 pixels of the
// file; a view has an `x`, a `y` and a `scale` that lead from there to pixels of the screen.

// None is a color of H&E, of the attention or of a magnification; with the dashes twelve classes differ.
const OUTLINE_COLORS = ["#0026ff", "#000000", "#007a4d"];
const OUTLINE_DASHES = [[], [10, 4], [3, 3], [14, 4, 3, 4]];
const LABEL_FONT = "600 13px system-ui, 'Liberation Sans', 'DejaVu Sans', sans-serif";
const SMALLEST_LABELLED = 30; // pixels of the screen that a box must have to carry its label
const SMALLEST_WEIGHED = 160; // its weight
const SMALLEST_NAMED = 90; // and a region its class
const LEAST_STRENGTH = 0.3; // of the colors in a close view, so that the tissue is seen
const LEFT_EDGE = 60; // of what the buttons leave free

export function lookOfOutline(number) {
  const round = Math.floor(number / OUTLINE_DASHES.length);
  return {
    color: OUTLINE_COLORS[round % OUTLINE_COLORS.length],
    dash: OUTLINE_DASHES[number % OUTLINE_DASHES.length],
  };
}

// ------------------------------------------------------------------------------------------------------- attention

// The rectangles of a window, [x, y, right, bottom, density], in each of which the density of all layers is constant.
export function joinGrids(window, isOn) {
  const grids = window.grids.filter((grid) => isOn(grid.layer));
  if (grids.length === 0) return [];
  const columns = joinEdges(grids.map((grid) => grid.cols));
  const rows = joinEdges(grids.map((grid) => grid.rows));
  const [left, top, width, height] = window.box;
  const rectangles = [];
  for (let i = 0; i + 1 < rows.length; i += 1) {
    for (let j = 0; j + 1 < columns.length; j += 1) {
      const density = sumAt(grids, (rows[i] + rows[i + 1]) / 2, (columns[j] + columns[j + 1]) / 2);
      rectangles.push([
        left + columns[j] * width,
        top + rows[i] * height,
        left + columns[j + 1] * width,
        top + rows[i + 1] * height,
        density,
      ]);
    }
  }
  return rectangles;
}

// The edges of all cells along an axis of length 1, each once.
function joinEdges(counts) {
  const edges = [];
  for (const count of new Set(counts)) {
    for (let i = 0; i <= count; i += 1) edges.push(i / count);
  }
  edges.sort((a, b) => a - b);
  return edges.filter((edge, i) => i === 0 || edge - edges[i - 1] > 1e-9);
}

function sumAt(grids, row, col) {
  let sum = 0;
  for (const grid of grids) {
    const index = Math.floor(row * grid.rows) * grid.cols + Math.floor(col * grid.cols);
    sum += grid.density[index];
  }
  return sum;
}

export function drawAttention(context, view, { rectangles, box, most }, { colors, strength }) {
  if (!isSeen(view, ...toScreen(view, box))) return;
  const fading = findFading(view, box);
  for (const [x, y, right, bottom, density] of rectangles) {
    const left = Math.round(view.x + x * view.scale);
    const top = Math.round(view.y + y * view.scale);
    const width = Math.round(view.x + right * view.scale) - left;
    const height = Math.round(view.y + bottom * view.scale) - top;
    if (density <= 0 || !isSeen(view, left, top, width, height)) continue;
    context.fillStyle = colorOf(density / most, colors, strength * fading);
    context.fillRect(left, top, width, height);
  }
}

// 1 where all of a window is seen, and less the closer the view is.
function findFading(view, [, , width, height]) {
  const fitting = Math.min(view.width / width, view.height / height);
  return Math.min(1, Math.max(LEAST_STRENGTH, (1.2 * fitting) / view.scale));
}

// The color of a share of the most: the less, the more of the tissue is seen.
export function colorOf(share, colors, strength) {
  const [red, green, blue] = colors[Math.min(colors.length - 1, Math.round((colors.length - 1) * share))];
  return `rgba(${red}, ${green}, ${blue}, ${strength * Math.min(1, share) ** 0.75})`;
}

function isSeen(view, left, top, width, height) {
  return left < view.width && top < view.height && left + width > 0 && top + height > 0;
}

// ----------------------------------------------------------------------------------------------------------- boxes

function toScreen(view, [x, y, width, height]) {
  return [view.x + x * view.scale, view.y + y * view.scale, width * view.scale, height * view.scale];
}

export function clearBox(context, view, box) {
  const [left, top, width, height] = toScreen(view, box);
  context.clearRect(Math.round(left), Math.round(top), Math.round(width), Math.round(height));
}

export function drawRegion(context, view, region, { isChosen, isAlone }) {
  const [left, top, width, height] = toScreen(view, region.box);
  if (!isSeen(view, left, top, width, height)) return;
  if (!isAlone) {
    const line = isChosen ? { color: "#0b57d0", width: 4 } : { color: "#1b1f24", width: 2 };
    strokeTwice(context, line, () => context.strokeRect(left, top, width, height));
  }
  if (width < SMALLEST_NAMED) return;
  const mark = { right: "\u2713 ", wrong: "\u2717 " }[region.answer] ?? "";
  const text = `${mark}${region.predicted} ${region.probability.toFixed(2)}`;
  const color = isChosen && !isAlone ? "#cfe0ff" : "#ffffff";
  const start = Math.min(Math.max(left, LEFT_EDGE), left + width - SMALLEST_NAMED);
  drawLabel(context, text, { left: start, bottom: Math.max(top, 20), color, isAbove: true, room: left + width - start });
}

// What other regions read is only hinted at.
export function drawPatch(context, view, patch, { isChosen, isOther }) {
  const [left, top, width, height] = toScreen(view, patch.box);
  if (!isSeen(view, left, top, width, height)) return;
  if (isOther) {
    context.strokeStyle = patch.color;
    context.lineWidth = 1.5;
    context.strokeRect(left, top, width, height);
    return;
  }
  const line = { color: patch.color, width: isChosen ? 5 : 2.5, ground: "#000000" };
  if (patch.kind === "region") line.dash = [9, 5];
  strokeTwice(context, line, () => context.strokeRect(left, top, width, height));
  const side = Math.min(width, height);
  if (isChosen || side >= SMALLEST_LABELLED) {
    drawLabel(context, String(patch.number), { left, bottom: top, color: patch.color });
  }
  if (isChosen || side >= SMALLEST_WEIGHED) {
    const text = `${patch.kind === "region" ? "region" : patch.magnification}, weight ${formatWeight(patch.weight)}`;
    drawLabel(context, text, { left, bottom: top + height + 20, color: patch.color, isAbove: true });
  }
}

export function formatWeight(weight) {
  return weight >= 0.001 ? weight.toFixed(3) : weight.toExponential(1);
}

export function drawOutlines(context, view, classes) {
  const toView = new DOMMatrix([view.scale, 0, 0, view.scale, view.x, view.y]);
  classes.forEach((ofClass, number) => {
    ofClass.path ??= makePath(ofClass.outlines); // in pixels of the slide, made once
    const path = new Path2D();
    path.addPath(ofClass.path, toView);
    strokeTwice(context, { ...lookOfOutline(number), width: 2.5 }, () => context.stroke(path));
  });
}

function makePath(outlines) {
  const path = new Path2D();
  for (const outline of outlines) {
    outline.forEach(([x, y], i) => (i === 0 ? path.moveTo(x, y) : path.lineTo(x, y)));
    path.closePath();
  }
  return path;
}

// A line on a broader one of another color can be seen on any ground.
function strokeTwice(context, { color, width, dash = [], ground = "#ffffff" }, stroke) {
  context.setLineDash([]);
  context.strokeStyle = ground;
  context.lineWidth = width + 2.5;
  stroke();
  context.setLineDash(dash);
  context.strokeStyle = color;
  context.lineWidth = width;
  stroke();
  context.setLineDash([]);
}

function drawLabel(context, text, { left, bottom, color, isAbove = false, room = Infinity }) {
  context.font = LABEL_FONT;
  const shown = shorten(context, text, room - 12);
  const width = context.measureText(shown).width + 10;
  const top = isAbove ? bottom - 19 : bottom;
  context.fillStyle = "#000000";
  context.fillRect(left - 1, top - 1, width + 2, 20);
  context.fillStyle = color;
  context.fillRect(left, top, width, 18);
  context.fillStyle = contrast(color);
  context.textBaseline = "middle";
  context.fillText(shown, left + 5, top + 9.5);
}

function shorten(context, text, room) {
  if (context.measureText(text).width <= room) return text;
  let end = text.length;
  while (end > 1 && context.measureText(`${text.slice(0, end)}\u2026`).width > room) end -= 1;
  return `${text.slice(0, end)}\u2026`;
}

// Black or white, whichever is read better on a color.
export function contrast(color) {
  const [red, green, blue] = [1, 3, 5].map((start) => parseInt(color.slice(start, start + 2), 16));
  return 0.299 * red + 0.587 * green + 0.114 * blue > 110 ? "#000000" : "#ffffff";
}
