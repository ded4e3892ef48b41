"""The frozen records that every room maps to one another.

Holds no behaviour beyond small derived properties, reads no files and imports no other room.
Token ids are the truth (text is derived from them); all values and labels lie in [0, 1].
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Literal

Form = Literal["stdin", "call", "assertion"]
ACTIONS = (1, 2, 3)  # define the structure, refine part of the pseudocode, generate Python
GRADERS = ("exact", "fold_case", "unordered")  # of standard output; "" is the sandbox's own comparison


class InputError(ValueError):
    """The user's input is wrong: the message is one line with what was seen, wanted, and the fix."""


@dataclasses.dataclass(frozen=True)
class TestCase:
    """One test.

    form stdin: `input` is the text on stdin, `output` the expected stdout.
    form call: `input` is the Python literal of the list of positional arguments, `output` the
    literal of the expected value.
    form assertion: `input` is one assert statement (or a block of them), `output` is empty.
    """

    __test__ = False  # not a pytest class

    input: str
    output: str = ""


@dataclasses.dataclass(frozen=True)
class Step:
    """One reasoning step: `action` is 1, 2 or 3; `text` is its body, without header and markers."""

    action: int
    text: str


@dataclasses.dataclass(frozen=True)
class Problem:
    """A programming problem. `tests` may be used by search and RL, `hidden_tests` by evaluation only.

    `solutions` are reference programs; `reasoning` holds reference step chains (each ends in an
    action-3 step whose text is the program). `entry_point` names the function that tests call.
    `setup` is code that the tests need beside the program. `json_values` says that call-form
    values came through JSON, so that a tuple equals a list. `grader` is one of GRADERS where standard output
    counts letter by letter, whatever its case, or with its lines in any order.
    """

    id: str
    question: str
    form: Form
    tests: tuple[TestCase, ...] = ()
    hidden_tests: tuple[TestCase, ...] = ()
    entry_point: str = ""
    starter_code: str = ""
    setup: str = ""
    solutions: tuple[str, ...] = ()
    reasoning: tuple[tuple[Step, ...], ...] = ()
    difficulty: str = ""
    source: str = ""
    tags: tuple[str, ...] = ()
    time_limit_s: float = 0.0  # 0: the judge's default
    memory_limit_mb: int = 0
    json_values: bool = True
    grader: str = ""


class Status(enum.StrEnum):
    """The verdict on one execution, decided outside the child."""

    AC = "AC"  # accepted
    PE = "PE"  # accepted but for white space: counts as accepted
    WA = "WA"  # wrong answer
    TLE = "TLE"  # CPU or wall time
    MLE = "MLE"  # memory
    OLE = "OLE"  # output
    RE = "RE"  # exit status, signal or exception
    CE = "CE"  # does not compile
    NORESULT = "NORESULT"  # no function of that name, or nothing came back
    BADVALUE = "BADVALUE"  # a value that is not of an exact built-in type
    SANDBOX_ERROR = "SANDBOX_ERROR"  # infrastructure: retried, then raised; never a reward


@dataclasses.dataclass(frozen=True)
class CaseResult:
    """One test's outcome. `detail` is one line (the exception, the signal, the first difference).
    `output` is what the program printed, where that was asked for and it ended well, else None."""

    status: Status
    detail: str = ""
    cpu_s: float = 0.0
    output: str | None = None

    @property
    def passed(self) -> bool:
        return self.status in (Status.AC, Status.PE)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the judge says of one program on all tests: `compiled`, and one result a test, in order."""

    compiled: bool
    cases: tuple[CaseResult, ...]
    isolation: str = ""  # the sandbox's tier, for example "T0"

    @property
    def pass_rate(self) -> float:
        """passed tests / tests, in [0, 1]; 0 without tests."""
        return sum(case.passed for case in self.cases) / len(self.cases) if self.cases else 0.0

    @property
    def passed(self) -> bool:
        """Every test passes, and there is at least one."""
        return bool(self.cases) and all(case.passed for case in self.cases)


FinishReason = Literal["stop", "eos", "length", "cancelled"]


@dataclasses.dataclass(frozen=True)
class Node:
    """One step of a tree. The root (index 0, parent -1, action 0) holds no tokens.

    `token_ids`, `log_probs` (behaviour, float32, temperature applied) and `is_policy_token` are
    aligned. `visits` and `value_sum` are UCT's; `value` is the terminal value of a leaf that was
    judged, else None. `error` says why a malformed step is dead, else is empty. `score` is the process
    reward model's, where one was asked.
    """

    index: int
    parent: int
    depth: int
    action: int
    token_ids: tuple[int, ...] = ()
    log_probs: tuple[float, ...] = ()
    is_policy_token: tuple[bool, ...] = ()
    text: str = ""
    finish_reason: str = ""
    policy_version: int = 0
    visits: int = 0
    value_sum: float = 0.0
    terminal: bool = False
    value: float | None = None
    verdict: Verdict | None = None
    error: str = ""
    score: float | None = None


@dataclasses.dataclass(frozen=True)
class Tree:
    """A searched problem: nodes in order of creation (a parent precedes its children)."""

    problem_id: str
    prompt_ids: tuple[int, ...]
    nodes: tuple[Node, ...]
    seed: int
    temperature: float
    rollouts: int
    generated_tokens: int  # every sampled token, also those of steps that were dropped
    judged_programs: int

    @property
    def solved(self) -> bool:
        return any(node.verdict is not None and node.verdict.passed for node in self.nodes)


@dataclasses.dataclass(frozen=True)
class SftSample:
    """A prompt and an answer to imitate. `is_trained` is aligned with `answer_ids`."""

    id: str
    problem_id: str
    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    is_trained: tuple[bool, ...]
    weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class PreferencePair:
    """Two answers to one prompt, the chosen one better."""

    id: str
    problem_id: str
    prompt_ids: tuple[int, ...]
    chosen_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...]
    margin: float = 0.0  # difference of values, in [0, 1]


@dataclasses.dataclass(frozen=True)
class StepLabel:
    """A path with a label a step: `step_ends[j]` is the index in `answer_ids` of step j's last token.

    soft = mean terminal value of the distinct leaves below, hard = 1 if one of them passes
    everything, n_leaves how many there are (all aligned with step_ends).
    """

    id: str
    problem_id: str
    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    step_ends: tuple[int, ...]
    soft: tuple[float, ...]
    hard: tuple[float, ...]
    n_leaves: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class StepPair:
    """Two sibling steps under one prefix, the chosen one with the higher soft label."""

    id: str
    problem_id: str
    prefix_ids: tuple[int, ...]
    chosen_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...]
    chosen_value: float
    rejected_value: float
    chosen_is_program: bool = False
    rejected_is_program: bool = False


@dataclasses.dataclass(frozen=True)
class Rollout:
    """One sampled answer, as RL and evaluation keep it."""

    id: str
    group_id: str
    problem_id: str
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    is_policy_token: tuple[bool, ...]
    finish_reason: str
    temperature: float
    policy_version: int
    verdict: Verdict | None = None
    reward: float = 0.0
