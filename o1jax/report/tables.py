"""A run's summary as text, for a terminal: one table a part of it. Gathers nothing (summary.py does)."""

from __future__ import annotations

from typing import Any


def of_run(summary: dict[str, Any]) -> str:
    """Every table that has something to show."""
    parts = {"tcg": generators, "prm": reward_models, "rl": reinforcement}
    tables = [show(summary) for part, show in parts.items() if summary[part]]
    curve = [curves(summary)] if summary["held_out_pass_at_1"] else []
    return "\n\n".join(tables + curve)


def curves(summary: dict[str, Any]) -> str:
    """The curves as text: one line an arm and round."""
    head = f"{'arm':16} {'round':8} {'pass@1':>7} {'95 % interval':>16} {'pass@8':>7}"
    lines = [f"{head} {'no program':>10} {'cut':>6}"]
    for arm, curve in [("self-play", summary), *summary["compare"].items()]:
        for name, figure in curve["held_out_pass_at_1"].items():
            if name != "final":
                interval = f"[{figure['low']:.3f}, {figure['high']:.3f}]"
                at_8 = curve["held_out_pass_at_8"][name]["mean"]
                of = curve["lost"][name]["pseudocode"]
                lost = f"{_share(of, 'no_program_share'):>10} {_share(of, 'cut_share'):>6}"
                lines.append(f"{arm:16} {name:8} {figure['mean']:7.3f} {interval:>16} {at_8:7.3f} {lost}")
    return "\n".join(lines)


def generators(summary: dict[str, Any]) -> str:
    """The generators as text: before the gate over cases, after it over wrong and right programs."""
    before = ("validity", "validity_not_degenerate", "degenerate_share", "useful")
    after = ("false_accept_mutants", "false_accept_policy", "false_reject")
    names = ("validity", "not empty", "degenerate", "useful", "accepts mutant", "accepts wrong", "rejects")
    lines = [f"{'test-case generator':24} " + " ".join(f"{name:>14}" for name in names)]
    for arm, figures in summary["tcg"].items():
        if arm != "selection":
            program, generated = figures["before"]["program"], figures["after"].get("generated", {})
            cells = [*(program[key] for key in before), *(generated.get(key) for key in after)]
            lines.append(f"{arm:24} " + " ".join(f"{_mean(cell):>14}" for cell in cells))
    return "\n".join(lines)


def reward_models(summary: dict[str, Any]) -> str:
    """How the process reward models rank held-out steps, and what choosing and searching by one gives."""
    lines = []
    for objective, figures in summary["prm"].items():
        if "auc" in figures:
            auc, less = figures["auc"], figures["auc_difference"]
            untrained = figures.get("likelihood", {}).get("auc")
            lines.append(
                f"prm {objective}: held-out AUC {auc['mean']:.3f} [{auc['low']:.3f}, {auc['high']:.3f}], "
                f"number and length alone {figures['baseline']['auc']['mean']:.3f}, "
                f"difference [{less['low']:.3f}, {less['high']:.3f}]"
                + (f", likelihood before training {untrained['mean']:.3f}" if untrained else "")
            )
    rates = summary["prm"].get("search", {})
    if rates:
        lines.append("pass rate: " + ", ".join(f"{name} {_mean(rate)}" for name, rate in rates.items()))
    return "\n".join(lines)


def reinforcement(summary: dict[str, Any]) -> str:
    """RL and DPO as text: one line a stage, what was watched as first > last, raised flags at its end."""
    return "\n".join(f"{path:40} {_rl_line(figures)}" for path, figures in summary["rl"].items())


def _rl_line(figures: dict[str, Any]) -> str:
    if "pairs" in figures:
        return f"{figures['steps']} steps, {figures['pairs']} pairs of {figures['problems']} problems"
    kept, dropped = figures["groups_kept"], figures["groups_dropped"]
    parts = [f"{figures['updates']} updates", f"{kept} of {kept + dropped} groups"]
    rewards = ("outcome", "process")
    watched = {name: {end: figures[f"{end}_{name}"] for end in ("first", "last")} for name in rewards}
    for name, ends in (watched | figures.get("watch", {})).items():
        if ends["first"] is not None:
            parts.append(f"{name} {ends['first']:.3g} > {ends['last']:.3g}")
    parts += [name.upper() for name, is_raised in figures["flags"].items() if is_raised]
    return ", ".join(parts).replace("_", " ")


def _share(figures: dict[str, float], name: str) -> str:
    return f"{figures[name]:.3f}" if name in figures else "-"


def _mean(figure: dict[str, Any] | None) -> str:
    return "-" if figure is None or figure["mean"] is None else f"{figure['mean']:.3f}"
