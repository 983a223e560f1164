// Copyright (c) the monai_jsma contributors.
// SPDX-License-Identifier: Apache-2.0
// Joins the slide (OpenSeadragon), what is drawn over it (overlay.js) and the panels (panels.js).

import { clearBox, colorOf, drawAttention, drawOutlines, drawPatch, drawRegion, formatWeight, joinGrids } from "./overlay.js";
import * as panels from "./panels.js";

const { find } = panels;
const STEP = 0.15; // of the view, by an arrow key
const LEAST_MOST = 4; // times the average, at the end of the colors: even attention must not look like much
const ROOM = 2.5; // width of the view around a patch, in widths of the patch

const state = {
  page: null, // what the list needs
  slide: null, // the slide that is shown
  region: 0, // number of the region in it
  patch: null, // number of the patch in the region
  shown: { attention: true, patches: true, regions: true, annotations: true },
  layers: new Map(), // whether each layer of the attention is on, by its name
  strength: 0.6,
  rectangles: null, // of the attention as it is shown, by window; null if they must be made again
  request: 0, // number of the last slide that was asked for
};

// OpenSeadragon writes a style into the page unless it finds it, and the policy of the page forbids that. What it finds
// here has the name that it looks for, and is no style.
const found = document.createElementNS("urn:monai_jsma", "style");
found.setAttribute("data-openseadragon-mobile-css", "true");
document.head.append(found);

OpenSeadragon.DEFAULT_SETTINGS.timeout = 120000; // ms for a tile, of the small map too: a machine may be busy
const osd = OpenSeadragon({
  element: find("slide"),
  drawer: "canvas",
  showNavigationControl: false,
  showNavigator: true,
  navigatorPosition: "TOP_RIGHT",
  navigatorSizeRatio: 0.18,
  navigatorAutoFade: false,
  navigatorBackground: "#ffffff",
  navigatorBorderColor: "#57606a",
  navigatorDisplayRegionColor: "#0b57d0",
  keyboardNavEnabled: false,
  animationTime: 0.35,
  maxZoomPixelRatio: 4,
  visibilityRatio: 0.3,
  imageLoaderLimit: 6,
  gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
  gestureSettingsTouch: { clickToZoom: false, dblClickToZoom: true },
});

// ------------------------------------------------------------------------------------------------------------ loading

async function load(address) {
  const answer = await fetch(address, { credentials: "same-origin" });
  if (!answer.ok) throw new Error((await answer.text()).trim());
  return answer.json();
}

function say(text) {
  find("message").textContent = text;
  find("message").hidden = text === "";
}

async function start() {
  try {
    state.page = await load("/predictions.json");
  } catch (error) {
    say(`The predictions could not be loaded: ${error.message}`);
    return;
  }
  document.title = `${state.page.title}: predictions`;
  find("title").textContent = state.page.title;
  panels.fillFilters(state.page.classes);
  drawColorBar();
  applyFilters();
  await followAddress();
}

// Shows what the part of the address behind # names.
async function followAddress() {
  const place = new URLSearchParams(location.hash.slice(1));
  const slide = toIndex(place.get("slide"), state.page.slides.length);
  const first = listWanted()[0]?.slide ?? 0;
  await openSlide(slide ?? first, { region: place.get("region"), patch: place.get("patch") });
}

// A number of an address, if it is one below `end`.
function toIndex(text, end) {
  const isNumber = text !== null && text !== undefined && /^\d{1,9}$/.test(text);
  return isNumber && Number(text) < end ? Number(text) : null;
}

async function openSlide(number, { region = null, patch = null } = {}) {
  state.request += 1;
  const { request } = state;
  panels.markCurrent(find("slides"), "data-slide", number);
  let slide;
  try {
    slide = await load(`/slides/${number}.json`);
  } catch (error) {
    if (request === state.request) showNothing(number, error.message);
    return;
  }
  if (request !== state.request) return; // another slide was chosen meanwhile
  say("");
  prepare(slide);
  state.slide = slide;
  state.rectangles = null;
  osd.open(makeSource(slide));
  showSwitches();
  const wanted = slide.regions.findIndex(panels.isWanted);
  chooseRegion(toIndex(region, slide.regions.length) ?? Math.max(wanted, 0), { moves: false });
  const index = toIndex(patch, currentRegion().patches.length);
  const isPart = region !== null && slide.regions.length > 1;
  osd.addOnceHandler("open", () => {
    if (request !== state.request) return;
    if (index !== null) choosePatch(index, { atOnce: true });
    else if (isPart) showBox(currentRegion().box, { atOnce: true });
    else showAll({ atOnce: true });
  });
}

function prepare(slide) {
  for (const region of slide.regions) {
    region.answer = panels.judge(region);
    const counts = { region: 0, patch: 0 };
    for (const patch of region.patches) {
      counts[patch.kind] += 1;
      patch.number = counts[patch.kind];
    }
  }
}

function showNothing(number, message) {
  state.slide = null;
  osd.close();
  say(message);
  find("name").textContent = state.page.slides[number]?.name ?? "";
  for (const id of ["place", "verdict", "classes", "notes", "layers", "shown", "annotation-classes", "patches", "patch-status"]) {
    find(id).replaceChildren();
  }
  remember(number);
  draw();
}

function makeSource({ number, version, width, height, tileSize, minLevel, maxLevel }) {
  return {
    width,
    height,
    tileSize,
    minLevel,
    maxLevel,
    getTileUrl: (level, x, y) => `/slides/${number}/${version}/${level}/${x}_${y}.jpg`,
  };
}

osd.world.addHandler("add-item", ({ item }) => {
  find("loading").hidden = item.getFullyLoaded();
  item.addHandler("fully-loaded-change", ({ fullyLoaded }) => {
    find("loading").hidden = fullyLoaded;
  });
});
osd.world.addHandler("remove-item", () => {
  find("loading").hidden = true;
});

osd.addHandler("tile-load-failed", async ({ tile }) => {
  const { request } = state;
  try {
    const answer = await fetch(tile.getUrl());
    if (!answer.ok && request === state.request) say((await answer.text()).trim());
  } catch {
    if (request === state.request) say("The command that serves this page has ended; start it again.");
  }
});

// ------------------------------------------------------------------------------------------------------------ choice

const currentRegion = () => state.slide.regions[state.region];

function chooseRegion(index, { moves = true } = {}) {
  const { slide } = state;
  state.region = index;
  state.patch = null;
  const region = currentRegion();
  find("name").textContent = slide.name;
  find("name").title = slide.file;
  const [row, col] = region.location;
  const isWhole = slide.regions.length === 1 && row === 0 && col === 0;
  const place = isWhole ? "" : `Region ${index + 1} of ${slide.regions.length}, at row ${row}, column ${col}. `;
  find("place").textContent = place + (region.group === slide.file ? "" : `Group: ${region.group}`);
  panels.showPrediction(region);
  showLayers(region);
  panels.listPatches(region, choosePatch);
  const count = region.patches.length;
  find("patch-status").textContent = `${count} ${count === 1 ? "box" : "boxes"}, by weight`;
  if (moves) showBox(region.box);
  remember(slide.number);
  draw();
}

function choosePatch(index, { atOnce = false } = {}) {
  const { patches } = currentRegion();
  state.patch = index;
  const patch = patches[index];
  const kind = patch.kind === "region" ? "Region" : "Patch";
  const attention = patch.attention === null ? "" : `, attention ${formatWeight(patch.attention)}`;
  find("patch-status").textContent =
    `${kind} ${patch.number}: ${patch.kind === "region" ? "" : `${patch.magnification}, `}` +
    `weight ${formatWeight(patch.weight)}${attention}`;
  panels.markCurrent(find("patches"), "data-patch", index);
  showBox(patch.box, { room: ROOM, atOnce });
  remember(state.slide.number);
  draw();
}

function stepPatch(step) {
  if (state.slide === null) return;
  const count = currentRegion().patches.length;
  if (count === 0) return;
  const before = state.patch ?? (step > 0 ? -1 : count);
  choosePatch((before + step + count) % count);
}

// All regions that the filters let pass, in the order of the list.
function listWanted() {
  return state.page.slides.flatMap(({ regions }, slide) =>
    regions.flatMap((region, index) => (panels.isWanted(region) ? [{ slide, region: index }] : [])),
  );
}

async function stepRegion(step) {
  const wanted = listWanted();
  if (wanted.length === 0) return;
  const slide = state.slide?.number ?? Number(new URLSearchParams(location.hash.slice(1)).get("slide"));
  const here = wanted.findIndex((entry) => entry.slide === slide && entry.region === state.region);
  const { length } = wanted;
  const next = wanted[here < 0 ? 0 : (here + step + length) % length];
  if (next.slide === state.slide?.number) chooseRegion(next.region);
  else await openSlide(next.slide, { region: String(next.region) });
}

// The address of this view, so that it can be loaded again; it is not sent to the server.
function remember(number) {
  const place = new URLSearchParams({ slide: number, region: state.region });
  if (state.patch !== null) place.set("patch", state.patch);
  history.replaceState(null, "", `#${place}`);
}

// -------------------------------------------------------------------------------------------------------------- view

const image = () => osd.world.getItemAt(0);

function showBox([x, y, width, height], { room = 1.15, atOnce = false } = {}) {
  if (!image()) return;
  const side = { width: width * room, height: height * room };
  const left = x - (side.width - width) / 2;
  const top = y - (side.height - height) / 2;
  osd.viewport.fitBounds(image().imageToViewportRectangle(left, top, side.width, side.height), atOnce);
}

function showAll({ atOnce = false } = {}) {
  if (state.slide !== null) showBox(state.slide.image, { room: 1.05, atOnce });
}

function findView() {
  const { clientWidth, clientHeight } = find("slide");
  const origin = image().imageToViewerElementCoordinates(new OpenSeadragon.Point(0, 0));
  const end = image().imageToViewerElementCoordinates(new OpenSeadragon.Point(state.slide.width, 0));
  return {
    x: origin.x,
    y: origin.y,
    scale: (end.x - origin.x) / state.slide.width,
    width: clientWidth,
    height: clientHeight,
  };
}

function draw() {
  const canvas = find("overlay");
  const ratio = window.devicePixelRatio || 1;
  const width = Math.round(canvas.clientWidth * ratio);
  const height = Math.round(canvas.clientHeight * ratio);
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
  const isOpen = state.slide !== null && Boolean(image());
  document.querySelector(".legends").hidden = !isOpen;
  if (isOpen) drawOver(context, findView());
}

function drawOver(context, view) {
  const { shown, slide } = state;
  panels.showScale(view.scale / slide.mpp);
  const regions = slide.regions.filter(panels.isWanted);
  if (shown.attention) showAttention(context, view);
  find("colors").hidden = !shown.attention || !state.rectangles?.some(({ rectangles }) => rectangles.length > 0);
  if (shown.annotations) drawOutlines(context, view, slide.annotations);
  const isAlone = slide.regions.length === 1;
  if (shown.regions) {
    for (const region of regions) drawRegion(context, view, region, { isChosen: region === currentRegion(), isAlone });
  }
  if (shown.patches) {
    for (const region of regions) if (region !== currentRegion()) drawPatches(context, view, region);
    if (regions.includes(currentRegion())) drawPatches(context, view, currentRegion());
  }
}

// The patches of largest weight last, so that they cover the others, and the chosen one over all.
function drawPatches(context, view, region) {
  const isOther = region !== currentRegion();
  const chosen = isOther ? null : state.patch;
  for (let i = region.patches.length - 1; i >= 0; i -= 1) {
    if (i !== chosen) drawPatch(context, view, region.patches[i], { isChosen: false, isOther });
  }
  if (chosen !== null) drawPatch(context, view, region.patches[chosen], { isChosen: true, isOther });
}

function showAttention(context, view) {
  state.rectangles ??= makeRectangles();
  const mosts = new Map(); // by stage
  for (const window of state.rectangles) {
    if (window.rectangles.length === 0 || !panels.isWanted(window.region)) continue;
    if (window.stage > 0) clearBox(context, view, window.box); // its own attention takes the place of its share
    drawAttention(context, view, window, { colors: state.page.colors, strength: state.strength });
    mosts.set(window.stage, window.most);
  }
  const lines = [...mosts].map(([stage, most]) => {
    const whose = stage > 0 ? `stage ${stage + 1}: ` : "";
    return panels.make("span", { text: `${whose}${Number(most.toPrecision(2))} \u00d7 the average` });
  });
  find("most").replaceChildren(...lines);
}

// The rectangles of each window, first stages first. One color means the same density in all windows of a stage, and
// whichever layers are on.
function makeRectangles() {
  const windows = [];
  for (const region of state.slide.regions) {
    for (const window of region.windows) {
      const rectangles = joinGrids(window, (layer) => isOn(region.layers[layer].name));
      const all = joinGrids(window, () => true);
      windows.push({ ...window, region, rectangles, most: findMost(all) });
    }
  }
  windows.sort((a, b) => a.stage - b.stage);
  for (const stage of new Set(windows.map((window) => window.stage))) {
    const ofStage = windows.filter((window) => window.stage === stage);
    const most = ofStage.reduce((largest, window) => Math.max(largest, window.most), LEAST_MOST);
    for (const window of ofStage) window.most = most;
  }
  return windows;
}

function findMost(rectangles) {
  return rectangles.reduce((largest, [, , , , density]) => Math.max(largest, density), 0);
}

function drawColorBar() {
  const context = find("color-bar").getContext("2d");
  const { width } = context.canvas;
  for (let x = 0; x < width; x += 1) {
    context.fillStyle = colorOf(x / (width - 1), state.page.colors, 1);
    context.fillRect(x, 0, 1, 1);
  }
}

// ---------------------------------------------------------------------------------------------------------- switches

function showLayers(region) {
  const switches = region.layers.map(({ name, mpp, texts }, number) =>
    panels.makeSwitch({
      id: `layer-${number}`,
      text: mpp === null ? name : `${name} (${Number(mpp.toPrecision(3))} \u00b5m/px)`,
      isOn: isOn(name),
      details: texts,
      change: (value) => {
        state.layers.set(name, value);
        state.rectangles = null;
        draw();
      },
    }),
  );
  find("layers").replaceChildren(...switches);
}

function isOn(name) {
  return state.layers.get(name) ?? true;
}

function showSwitches() {
  const { slide, shown } = state;
  const texts = { attention: "Attention", patches: "Boxes of patches" };
  texts.regions = slide.regions.length > 1 ? "Regions with their class" : "Predicted class";
  if (slide.annotations.length > 0) texts.annotations = "Annotations";
  const switches = Object.entries(texts).map(([name, text]) =>
    panels.makeSwitch({ id: `show-${name}`, text, isOn: shown[name], change: (isOn) => show(name, isOn) }),
  );
  find("shown").replaceChildren(...switches);
  panels.listAnnotations(slide.annotations);
}

function show(name, isOn) {
  state.shown[name] = isOn;
  draw();
}

function toggle(id) {
  const box = find(id);
  if (box) box.click();
}

function applyFilters() {
  const slides = state.page.slides.map(({ name, file, regions }, number) => ({
    number,
    name,
    file,
    wanted: regions.filter(panels.isWanted),
  }));
  const left = slides.filter(({ wanted }) => wanted.length > 0);
  panels.listSlides(left, openSlide);
  const count = (entries) => entries.reduce((sum, { wanted }) => sum + wanted.length, 0);
  const total = state.page.slides.reduce((sum, { regions }) => sum + regions.length, 0);
  find("count").textContent = `${count(left)} of ${total} predictions, ${left.length} of ${slides.length} slides`;
  if (state.slide !== null) panels.markCurrent(find("slides"), "data-slide", state.slide.number);
  draw();
}

// ----------------------------------------------------------------------------------------------------------- what acts

for (const id of ["filter-predicted", "filter-true", "filter-answer"]) {
  find(id).addEventListener("change", applyFilters);
}
find("strength").addEventListener("input", ({ target }) => {
  state.strength = target.value / 100;
  draw();
});
find("zoom-in").addEventListener("click", () => zoom(1.6));
find("zoom-out").addEventListener("click", () => zoom(1 / 1.6));
find("home").addEventListener("click", () => showAll());
find("next-patch").addEventListener("click", () => stepPatch(1));
find("previous-patch").addEventListener("click", () => stepPatch(-1));
find("next-region").addEventListener("click", () => stepRegion(1));
find("previous-region").addEventListener("click", () => stepRegion(-1));

function zoom(factor) {
  osd.viewport.zoomBy(factor);
  osd.viewport.applyConstraints();
}

function move(right, down) {
  const bounds = osd.viewport.getBounds();
  osd.viewport.panBy(new OpenSeadragon.Point(right * STEP * bounds.width, down * STEP * bounds.height));
  osd.viewport.applyConstraints();
}

const KEYS = {
  n: () => stepPatch(1),
  p: () => stepPatch(-1),
  j: () => stepRegion(1),
  k: () => stepRegion(-1),
  a: () => toggle("show-attention"),
  b: () => toggle("show-patches"),
  0: () => showAll(),
  "+": () => zoom(1.6),
  "=": () => zoom(1.6),
  "-": () => zoom(1 / 1.6),
  ArrowLeft: () => move(-1, 0),
  ArrowRight: () => move(1, 0),
  ArrowUp: () => move(0, -1),
  ArrowDown: () => move(0, 1),
};

document.addEventListener("keydown", (event) => {
  const isTyped = event.target instanceof Element && event.target.matches("select, input[type=range]");
  if (isTyped || event.ctrlKey || event.metaKey || event.altKey) return;
  const act = /^[1-9]$/.test(event.key) ? () => toggle(`layer-${event.key - 1}`) : KEYS[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

// A click chooses the smallest box under it, or else the region.
osd.addHandler("canvas-click", (event) => {
  if (!event.quick || state.slide === null || !image()) return;
  const { x, y } = image().viewerElementToImageCoordinates(event.position);
  const holds = ({ box: [left, top, width, height] }) =>
    left <= x && x < left + width && top <= y && y < top + height;
  const index = state.slide.regions.findIndex((region) => panels.isWanted(region) && holds(region));
  if (index >= 0 && index !== state.region) {
    chooseRegion(index, { moves: false });
    return;
  }
  const { patches } = currentRegion();
  const area = (number) => patches[number].box[2] * patches[number].box[3];
  const hits = patches.map((patch, number) => number).filter((number) => holds(patches[number]));
  if (hits.length > 0) choosePatch(hits.reduce((best, number) => (area(number) < area(best) ? number : best)));
});

osd.addHandler("update-viewport", draw);
osd.addHandler("open", draw);
window.addEventListener("resize", draw);
window.addEventListener("hashchange", followAddress);

start();
