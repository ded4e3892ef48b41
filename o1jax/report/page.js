// Starts the page: makes elements out of text alone, and hands the data to the table and the trees.
"use strict";

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

function select(label, options, onChange) {
  const list = element("select", { "aria-label": label });
  options.forEach(([value, text]) => list.append(element("option", { value }, text)));
  list.addEventListener("change", onChange);
  return [element("label", {}, label, list), list];
}

const holder = document.getElementById("data");
if (holder !== null) {
  const data = JSON.parse(holder.textContent);
  const questions = new Map(data.problems.rows.map(([id, , difficulty, question]) => [id, { difficulty, question }]));
  const show = showTrees(document.querySelector("#trees > div"), data.trees, questions);
  showProblems(document.querySelector("#problems > div"), data.problems, data.trees, show);
}
