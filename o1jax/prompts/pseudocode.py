"""The pseudocode prompt: reasoning in steps of three actions, rendered and strictly parsed.

A path is `<Step_Begin>### Step 1: <Action 1>\\nBODY<Step_End>` and so on, a newline between steps.
An action-3 step's text is the program itself; only its rendering is fenced.

With style nano_hidden the question is hidden once a step says that it is the program: what follows is written
after another prompt (program_messages) and the same steps. So a program depends on the question by way of the
steps alone, which it need not where it can be looked up from the question.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from o1jax.prompts import extraction, fence
from o1jax.prompts.chat import Message
from o1jax.prompts.examples import EXAMPLES
from o1jax.prompts.fence import Style, task_text
from o1jax.records import ACTIONS, InputError, Problem, Step

BEGIN, STOP = "<Step_Begin>", "<Step_End>"
NANO_MARKER = "Think in pseudocode."
PROGRAM_MARKER = "Write Python by the steps."
PROGRAM_BEGINS = f"<Action {ACTIONS[-1]}>"  # from what follows it on, nano_hidden hides the question
_HEADER = re.compile(r"### Step (\d+): <Action (\d+)>\n")
# How a model that was not taught the form begins its program: without the marker, by the action's name.
_PROGRAM = re.compile(rf"{PROGRAM_BEGINS}|^(?:{BEGIN})?### Step \d+: Generate Python\b", re.MULTILINE)
_INSTRUCTION = """\
You are an expert Python programmer who thinks in pseudocode before writing code. \
Solve the problem in steps. Every step is one of three actions:

<Action 1> Define the structure: outline the program in pseudocode, main parts and data, no details.
<Action 2> Refine part of the pseudocode: take one part and make it precise, close to code. \
May be repeated.
<Action 3> Generate Python: turn the refined pseudocode into the complete program, in exactly one \
```python block. This is the last step.

Write every step exactly in this form, with nothing between or around the steps:
<Step_Begin>### Step k: <Action a>
...
<Step_End>"""


class StepError(ValueError):
    """A step or path is malformed; the message says what was seen and what was wanted."""


def messages(problem: Problem, few_shot: int = 0, style: Style = "full") -> tuple[Message, ...]:
    """The conversation that asks for a path. Styles nano: the question and a marker, no examples."""
    if style != "full":
        if few_shot:
            raise InputError(f"pseudocode prompt: few_shot {few_shot} with style {style!r}, wanted 0")
        return ({"role": "user", "content": f"{problem.question}\n{NANO_MARKER}"},)
    if not 0 <= few_shot <= len(EXAMPLES):
        raise InputError(f"pseudocode prompt: few_shot {few_shot}, wanted 0 to {len(EXAMPLES)}")
    turns: list[Message] = [{"role": "system", "content": _INSTRUCTION}]
    for task, steps in EXAMPLES[:few_shot]:
        turns.append({"role": "user", "content": task})
        # With the marker on a line of its own, as the instruction shows it, Qwen2.5-Coder-1.5B-Instruct keeps
        # to the form in 46 of 48 answers; at the end of a line, in 31.
        turns.append({"role": "assistant", "content": render_path(steps, before_end="\n")})
    return (*turns, {"role": "user", "content": task_text(problem)})


def program_messages() -> tuple[Message, ...]:
    """The conversation in place of `messages` before a program that must not see the question."""
    return ({"role": "user", "content": PROGRAM_MARKER},)


def render_step(step: Step, number: int, before_end: str = "") -> str:
    """One step with its markers and header, counted from 1; white space `before_end` may stand before the
    last marker."""
    body = fence.render(step.text) if step.action == 3 else step.text
    return f"{BEGIN}### Step {number}: <Action {step.action}>\n{body}{before_end}{STOP}"


def render_path(steps: Sequence[Step], before_end: str = "") -> str:
    """All steps, a newline between them: the text after the prompt, without end-of-message token."""
    return "\n".join(render_step(step, number, before_end) for number, step in enumerate(steps, 1))


def parse_step(text: str, number: int) -> Step:
    """The step that `text` (white space around it aside) renders; StepError says what is wrong."""
    stripped = text.strip()
    if not stripped.startswith(BEGIN):
        raise StepError(f"step {number}: saw {stripped[:20]!r}, wanted {BEGIN} first")
    if not stripped.endswith(STOP):
        raise StepError(f"step {number}: saw {stripped[-20:]!r}, wanted {STOP} last")
    inside = stripped[len(BEGIN) : -len(STOP)]
    if BEGIN in inside or STOP in inside:
        raise StepError(f"step {number}: saw another step marker inside, wanted one step")
    header = _HEADER.match(inside)
    if header is None:
        raise StepError(f"step {number}: saw {inside[:40]!r}, wanted '### Step {number}: <Action 1, 2 or 3>'")
    if header[1] != str(number):
        raise StepError(f"step {number}: saw number {header[1]}, wanted {number}")
    if header[2] not in map(str, ACTIONS):
        raise StepError(f"step {number}: saw action {header[2]}, wanted 1, 2 or 3")
    action, body = int(header[2]), inside[header.end() :]
    if not body.strip():
        raise StepError(f"step {number}: saw an empty body, wanted text")
    if action != 3:
        return Step(action, body.strip("\n"))
    try:
        return Step(3, fence.only_program(body))
    except fence.FenceError as error:
        raise StepError(f"step {number}: {error}") from error


def program_part(text: str) -> str:
    """What an answer says from its first action 3 on, "" without one; markers are line ends. For evaluations
    that find a program there although the path is malformed: its last marker is missing, say, a refinement
    calls itself action 3, or a step has the action's name in the place of its marker."""
    answer = extraction.without_thinking(text)
    begun = _PROGRAM.search(answer)
    rest = answer[begun.end() :] if begun else ""
    return rest.replace(BEGIN, "\n").replace(STOP, "\n")
