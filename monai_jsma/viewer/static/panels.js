// Copyright (c) the monai_jsma contributors.
// SPDX-License-Identifier: Apache-2.0
// The list of slides and the panel of the prediction. All that comes from predictions is set as text, never as HTML.

import { contrast, formatWeight, lookOfOutline } from "./overlay.js";

export const find = (id) => document.getElementById(id);

export function make(tag, { text, ...attributes } = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  element.append(...children);
  return element;
}

// --------------------------------------------------------------------------------------------------- list of slides

export function judge(region) {
  if (region.true === null) return "unknown";
  return region.true === region.predicted ? "right" : "wrong";
}

export function fillFilters(classes) {
  for (const id of ["filter-predicted", "filter-true"]) {
    const options = classes.map((name) => make("option", { value: name, text: name }));
    find(id).replaceChildren(make("option", { value: "", text: "all" }), ...options);
  }
}

export function isWanted(region) {
  const wanted = [
    [find("filter-predicted").value, region.predicted],
    [find("filter-true").value, region.true],
    [find("filter-answer").value, judge(region)],
  ];
  return wanted.every(([value, own]) => value === "" || value === own);
}

export function listSlides(slides, choose) {
  const entries = slides.map(({ number, name, file, wanted }) => {
    const button = make("button", { type: "button", title: file, "data-slide": number }, make("b", { text: name }));
    button.append(describeRegions(wanted));
    button.addEventListener("click", () => choose(number));
    return make("li", {}, button);
  });
  find("slides").replaceChildren(...entries);
}

function describeRegions(regions) {
  if (regions.length === 1) return describeAnswer(regions[0]);
  const wrong = regions.filter((region) => judge(region) === "wrong").length;
  const text = make("span", { text: `${regions.length} regions` });
  if (wrong > 0) text.append(", ", make("span", { class: "wrong", text: `${wrong} wrong` }));
  return text;
}

export function describeAnswer(region) {
  const predicted = `predicted ${region.predicted} (${region.probability.toFixed(2)})`;
  const answer = judge(region);
  if (answer === "right") return make("span", {}, make("span", { class: "right", text: "\u2713 right: " }), predicted);
  if (answer === "unknown") return make("span", { text: predicted });
  const text = `${predicted}, true ${region.true}`;
  return make("span", {}, make("span", { class: "wrong", text: "\u2717 wrong: " }), text);
}

export function markCurrent(list, attribute, value) {
  for (const button of list.querySelectorAll("button")) {
    const isCurrent = button.getAttribute(attribute) === String(value);
    button.setAttribute("aria-current", isCurrent);
    if (isCurrent) scrollTo(list, button.parentElement);
  }
}

// Scrolls a list, and nothing around it, until an entry is seen.
function scrollTo(list, entry) {
  const top = entry.offsetTop;
  const bottom = top + entry.offsetHeight;
  if (top < list.scrollTop) list.scrollTop = top;
  else if (bottom > list.scrollTop + list.clientHeight) list.scrollTop = bottom - list.clientHeight;
}

// ------------------------------------------------------------------------------------------------------- prediction

export function showPrediction(region) {
  find("verdict").replaceChildren(describeAnswer(region));
  const lines = region.classes.flatMap(([name, probability]) => [
    make("dt", { text: name }),
    make("dd", {}, make("meter", { value: probability, "aria-label": `probability of ${name}` })),
    make("dd", { text: probability.toFixed(2) }),
  ]);
  find("classes").replaceChildren(...lines);
  find("notes").replaceChildren(...region.notes.map((text) => make("li", { text })));
}

// A checkbox with its text; `change` is told whether it is on.
export function makeSwitch({ id, text, isOn, details = [], change }) {
  const box = make("input", { type: "checkbox", id });
  box.checked = isOn;
  box.addEventListener("change", () => change(box.checked));
  const small = details.map((line) => make("small", { text: line }));
  return make("div", { class: "layer" }, box, make("label", { for: id, text }), ...small);
}

export function listAnnotations(classes) {
  const entries = classes.map(({ name }, number) => {
    const line = make("canvas", { width: 34, height: 8, "aria-hidden": "true" });
    const { color, dash } = lookOfOutline(number);
    const context = line.getContext("2d");
    context.strokeStyle = color;
    context.lineWidth = 3;
    context.setLineDash(dash);
    context.beginPath();
    context.moveTo(0, 4);
    context.lineTo(34, 4);
    context.stroke();
    return make("li", {}, line, make("span", { text: name }));
  });
  find("annotation-classes").replaceChildren(...entries);
}

export function listPatches(region, choose) {
  const entries = [];
  let kind = null;
  region.patches.forEach((patch, index) => {
    if (region.zooms && patch.kind !== kind) {
      const text = patch.kind === "region" ? "Regions that it looked into" : "Patches inside them";
      entries.push(make("li", {}, make("h4", { text })));
      kind = patch.kind;
    }
    const button = make("button", { type: "button", "data-patch": index }, makeSwatch(patch));
    button.append(
      make("span", { text: patch.kind === "region" ? "region" : patch.magnification }),
      make("span", { class: "weight", text: `weight ${formatWeight(patch.weight)}` }),
    );
    button.addEventListener("click", () => choose(index));
    entries.push(make("li", {}, button));
  });
  find("patches").replaceChildren(...entries);
}

function makeSwatch({ color, number }) {
  const text = makeDrawing("text", { x: 19, y: 21, "text-anchor": "middle", "font-size": 17, fill: contrast(color) });
  text.textContent = number;
  const box = { x: 1, y: 1, width: 36, height: 28, rx: 4, fill: color, stroke: "#000000", "stroke-width": 2 };
  const picture = makeDrawing("svg", { viewBox: "0 0 38 30", "aria-hidden": "true" });
  picture.append(makeDrawing("rect", box), text);
  return picture;
}

function makeDrawing(tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

// --------------------------------------------------------------------------------------------------------- scale bar

// The largest 1, 2 or 5 times a power of ten that is not above a length.
export function roundDown(length) {
  const step = 10 ** Math.floor(Math.log10(length));
  return ([5, 2].find((factor) => step * factor <= length) ?? 1) * step;
}

export function formatLength(micrometres) {
  return micrometres >= 1000 ? `${micrometres / 1000} mm` : `${Number(micrometres.toPrecision(6))} \u00b5m`;
}

export function showScale(pixelsPerMicrometre) {
  const length = roundDown(140 / pixelsPerMicrometre);
  find("scale-text").textContent = formatLength(length);
  find("scale-line").style.width = `${length * pixelsPerMicrometre}px`;
}
