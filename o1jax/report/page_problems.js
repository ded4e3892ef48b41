// The table of problems with its filters.
"use strict";

const PAGE = 50;

function showProblems(target, problems, trees, showTree) {
  const withTree = new Set(trees.trees.map((tree) => tree.problem));
  const rows = problems.rows.map(([id, split, difficulty, question, results]) => {
    const own = results.filter(([stage]) => problems.own.includes(stage));
    const first = own[0], last = own[own.length - 1];
    return { id, split, difficulty, question, results, first, last, words: `${id} ${question}`.toLowerCase() };
  });
  const states = {
    "": () => true,
    solved: (row) => row.last !== undefined && row.last[1] > 0,
    unsolved: (row) => row.last !== undefined && row.last[1] === 0,
    gained: (row) => row.last !== undefined && row.first[1] === 0 && row.last[1] > 0,
    lost: (row) => row.last !== undefined && row.first[1] > 0 && row.last[1] === 0,
    untried: (row) => row.last === undefined,
  };
  let shown = PAGE;
  const change = () => { shown = PAGE; draw(); };
  const values = (key) => [["", "all"], ...[...new Set(rows.map((row) => row[key]))].sort().filter(Boolean).map((v) => [v, v])];
  const [splitLabel, split] = select("split", values("split"), change);
  const [rungLabel, rung] = select("difficulty", values("difficulty"), change);
  const [stateLabel, state] = select("solved", [
    ["", "all"], ["solved", "solved at the end"], ["unsolved", "not solved at the end"], ["gained", "newly solved"],
    ["lost", "lost again"], ["untried", "no result"],
  ], change);
  const words = element("input", { type: "search", placeholder: "words of a question, or an id" });
  words.addEventListener("input", change);
  const count = element("p", { class: "note", role: "status" });
  const body = element("tbody", {});
  const more = element("button", { type: "button" }, "Show more");
  more.addEventListener("click", () => { shown += PAGE; draw(); });
  const head = ["problem", "split", "difficulty", "passed first → last", "tree"];
  target.append(
    element("div", { class: "filters" }, splitLabel, rungLabel, stateLabel, element("label", { class: "search" }, "search", words)),
    count,
    element("table", { class: "problems" },
      element("thead", {}, element("tr", {}, ...head.map((name) => element("th", { scope: "col" }, name)))), body),
    more);

  function draw() {
    const wanted = words.value.toLowerCase().split(/\s+/);
    const found = rows.filter((row) => (!split.value || row.split === split.value)
      && (!rung.value || row.difficulty === rung.value) && states[state.value](row)
      && wanted.every((word) => row.words.includes(word)));
    const left = problems.left_out ? `; ${problems.left_out} more are not on this page, to keep it small` : "";
    count.textContent = `${found.length} of ${rows.length} problems${left}`;
    body.replaceChildren(...found.slice(0, shown).map(line));
    more.hidden = found.length <= shown;
  }

  function line(row) {
    const open = element("button", { type: "button", class: "question", "aria-expanded": "false" }, row.question || row.id);
    const button = element("button", { type: "button" }, "tree");
    button.addEventListener("click", () => showTree(row.id));
    const made = element("tr", {}, element("td", {}, open), element("td", {}, row.split), element("td", {}, row.difficulty),
      passes(row), element("td", {}, ...(withTree.has(row.id) ? [button] : [])));
    open.addEventListener("click", () => {
      const isOpen = open.getAttribute("aria-expanded") === "true";
      open.setAttribute("aria-expanded", String(!isOpen));
      if (isOpen) made.nextSibling.remove();
      else made.after(details(row));
    });
    return made;
  }

  function passes(row) {
    if (row.last === undefined) return element("td", { class: "quiet" }, "no result");
    const share = ([, passed, tried]) => `${passed}/${tried}`;
    const style = row.last[1] > 0 ? "good" : "bad";
    const text = row.first === row.last ? share(row.last) : `${share(row.first)} → ${share(row.last)}`;
    return element("td", { class: style }, `${row.last[1] > 0 ? "✓" : "✗"} ${text}`);
  }

  function details(row) {
    const lines = row.results.map(([stage, passed, tried]) =>
      element("li", {}, `${problems.stages[stage]}: ${passed} of ${tried} programs or answers pass`));
    return element("tr", {}, element("td", { class: "wide", colspan: "5" },
      row.question, element("div", { class: "mono quiet" }, row.id), element("ul", {}, ...lines)));
  }

  draw();
}
