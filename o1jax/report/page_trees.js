// Searched trees: nested <details>, whose children are made when they are opened.
"use strict";

const CHILDREN = 100; // shown at once
const DEEPEST = 60; // opened without being asked for
const ACTIONS = ["malformed", "1 structure", "2 refine", "3 program"];
const HEADER = /^\s*<Step_Begin>\s*### Step \d+: <Action \d>\n/;

function showTrees(target, data, questions) {
  if (data.trees.length === 0) {
    target.append(element("p", { class: "note" }, "No search has written trees yet."));
    return () => {};
  }
  const [stageLabel, stage] = select("search", data.stages.map((name, k) => [k, name]), () => list());
  const [problemLabel, problem] = select("problem", [], () => draw());
  const step = (by) => { problem.selectedIndex += by; draw(); };
  const previous = element("button", { type: "button" }, "previous");
  const next = element("button", { type: "button" }, "next");
  previous.addEventListener("click", () => step(-1));
  next.addEventListener("click", () => step(1));
  const left = element("p", { class: "note" });
  const shown = element("div", { class: "tree" });
  target.append(element("div", { class: "filters" }, stageLabel, problemLabel, previous, next), left, shown);

  function list() {
    const out = data.left_out[stage.value];
    left.textContent = out ? `${out} more trees of this search are not on this page, to keep it small.` : "";
    problem.replaceChildren(...data.trees.flatMap((tree, k) => (String(tree.stage) === stage.value ? [option(tree, k)] : [])));
    draw();
  }

  function option(tree, k) {
    const { difficulty, question } = questions.get(tree.problem) || { difficulty: "", question: tree.problem };
    const mark = isSolved(tree) ? "✓" : "✗";
    return element("option", { value: k }, `${mark} ${difficulty ? `${difficulty}: ` : ""}${question.slice(0, 70)}`);
  }

  function draw() {
    previous.disabled = problem.selectedIndex <= 0;
    next.disabled = problem.selectedIndex >= problem.options.length - 1;
    const tree = data.trees[problem.value];
    shown.replaceChildren(...(tree === undefined ? [] : drawTree(tree, questions.get(tree.problem))));
  }

  list();
  return (id) => {
    const found = data.trees.findLastIndex((tree) => tree.problem === id);
    stage.value = data.trees[found].stage;
    list();
    problem.value = found;
    draw();
    target.parentElement.scrollIntoView();
    problem.focus({ preventScroll: true });
  };
}

function isSolved(tree) {
  return Object.values(tree.verdict).some(([, , , failing]) => failing === null);
}

function drawTree(tree, problem) {
  const children = tree.parent.map(() => []);
  tree.parent.forEach((parent, node) => { if (parent >= 0) children[parent].push(node); });
  const cut = tree.parent.length < tree.nodes ? `; only the first ${tree.parent.length} are on this page` : "";
  const facts = `${tree.nodes} nodes${cut}, ${tree.rollouts} rollouts, ${tree.generated_tokens} tokens, seed ${tree.seed}`;
  const root = element("div", { role: "group", "aria-label": "tree" });
  addChildren(root, tree, children, 0, 0);
  openPath(root, tree, children);
  root.addEventListener("keydown", (event) => move(event, root));
  return [
    element("p", { class: "question" }, problem ? problem.question : ""),
    element("p", { class: "note" }, `${tree.problem}: ${facts}. Opened on its best path; arrow keys walk the tree.`),
    root,
  ];
}

function addChildren(target, tree, children, parent, from) {
  const found = children[parent];
  target.append(...found.slice(from, from + CHILDREN).map((node) => drawNode(tree, children, node)));
  if (found.length > from + CHILDREN) {
    const more = element("button", { type: "button" }, `${found.length - from - CHILDREN} more steps`);
    more.addEventListener("click", () => {
      more.remove();
      addChildren(target, tree, children, parent, from + CHILDREN);
    });
    target.append(more);
  }
}

function drawNode(tree, children, node) {
  const verdict = tree.verdict[node], error = tree.error[node];
  const kind = error ? "fails" : verdict === undefined ? "" : verdict[3] === null ? "passes" : "fails";
  const made = element("details", { class: `node ${kind}`, "data-node": node }, summary(tree, node, verdict, error));
  const fill = () => {
    if (made.childElementCount > 1 || !made.open) return;
    made.append(element("pre", {}, body(tree.text[node])));
    if (error) made.append(element("p", { class: "bad" }, `Malformed: ${error}`));
    if (verdict !== undefined) made.append(judged(tree, verdict));
    addChildren(made, tree, children, node, 0);
  };
  made.addEventListener("toggle", fill);
  made.fill = () => { made.open = true; fill(); };
  return made;
}

function summary(tree, node, verdict, error) {
  const action = error ? 0 : tree.action[node];
  const numbers = [`visits ${tree.visits[node]}`];
  if (tree.mean[node] !== null) numbers.push(`value ${tree.mean[node].toFixed(3)}`);
  if (node in tree.score) numbers.push(`PRM ${tree.score[node].toFixed(3)}`);
  const outcome = verdict === undefined ? null
    : element("span", { class: verdict[3] === null ? "good" : "bad" }, `${verdict[3] === null ? "✓" : "✗"} ${verdict[1]}/${verdict[2]} tests`);
  return element("summary", {},
    element("span", { class: `badge a${action}` }, ACTIONS[action] || `action ${action}`),
    element("span", { class: "number" }, numbers.join(" · ")), outcome,
    element("span", { class: "text" }, body(tree.text[node]).replaceAll("```python", "").split("\n").find((line) => line.trim()) || ""));
}

function body(text) {
  return text.replace(HEADER, "").replace(/<Step_End>\s*$/, "");
}

function judged(tree, [compiled, passed, tests, failing, status, detail]) {
  if (failing === null) return element("p", { class: "good" }, `Passes all ${tests} tests.`);
  const test = tree.tests[failing];
  const lines = [`${compiled ? "Compiles" : "Does not compile"}; passes ${passed} of ${tests} tests.`];
  if (status) lines.push(`Fails test ${failing + 1}: ${status} ${detail}`);
  if (test !== undefined) lines.push(`input:    ${test[0]}`, `expected: ${test[1]}`);
  return element("pre", { class: "bad verdict" }, lines.join("\n"));
}

// The path to the judged program of the highest value, opened.
function openPath(root, tree, children) {
  const judged = Object.keys(tree.verdict).map(Number);
  const value = (node) => (tree.verdict[node][3] === null ? 2 : tree.value[node] || 0);
  let node = judged.reduce((best, one) => (best === -1 || value(one) > value(best) ? one : best), -1);
  const path = [];
  for (; node > 0; node = tree.parent[node]) path.unshift(node);
  let target = root;
  for (const step of path.slice(0, DEEPEST)) {
    target = [...target.children].find((child) => child.dataset.node === String(step));
    if (target === undefined) return;
    target.fill();
  }
}

function move(event, root) {
  const node = event.target.closest("details.node");
  if (event.target.tagName !== "SUMMARY" || node === null) return;
  const visible = [...root.querySelectorAll("summary")].filter((one) => one.checkVisibility());
  const at = visible.indexOf(event.target);
  const parent = node.parentElement.closest("details.node");
  const acts = {
    ArrowDown: () => visible[at + 1]?.focus(),
    ArrowUp: () => visible[at - 1]?.focus(),
    ArrowRight: () => (node.open ? visible[at + 1]?.focus() : node.fill()),
    ArrowLeft: () => { if (node.open) node.open = false; else parent?.querySelector("summary").focus(); },
  };
  if (acts[event.key] !== undefined) {
    event.preventDefault();
    acts[event.key]();
  }
}
