"""The frozen records that every room maps to one another.

Holds no behaviour beyond small derived properties, reads no files and imports no other room.
Token ids are the truth (text is derived from them); all values and labels lie in [0, 1].
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Literal

Form = Literal["stdin", "call", "assertion"]
Prompt = Literal["pseudocode", "direct", "completion"]
FinishReason = Literal["stop", "eos", "length", "cancelled"]
ACTIONS = (1, 2, 3)  # define the structure, refine part of the pseudocode, generate Python
GRADERS = ("exact", "fold_case", "unordered")  # of standard output; "" is the sandbox's own comparison
# Of returned values, of sets that keep some values in a list of one, or all of them, and where 1 equals True:
# the stated value or its one item; the stated value or a list of it alone.
CALL_GRADERS = ("value_or_item", "value_or_list")

MOST_SEGMENTS = 64  # of a packed row: kernels that are told where segments lie have so many places


class InputError(ValueError):
    """The user's input is wrong: the message is one line with what was seen, wanted, and the fix."""


@dataclasses.dataclass(frozen=True)
class TestCase:
    """One test of a problem, in the problem's form."""

    __test__ = False  # not a pytest class

    # stdin: the text on standard input; call: the Python literal of the list of positional arguments;
    # assertion: one assert statement, or a block of them
    input: str
    # stdin: the expected standard output; call: the literal of the expected value; assertion: empty
    output: str = ""


@dataclasses.dataclass(frozen=True)
class Step:
    """One reasoning step."""

    action: int  # one of ACTIONS
    text: str  # its body, without header and markers; of action 3 the program


@dataclasses.dataclass(frozen=True)
class Problem:
    """A programming problem."""

    id: str
    question: str
    form: Form
    tests: tuple[TestCase, ...] = ()  # which search and RL may use
    hidden_tests: tuple[TestCase, ...] = ()  # which evaluation alone may use
    entry_point: str = ""  # the function that tests call
    starter_code: str = ""  # which the answer begins with
    setup: str = ""  # code that the tests need beside the program
    prelude: str = ""  # imports that every program may count on: it runs before the program
    solutions: tuple[str, ...] = ()  # reference programs
    reasoning: tuple[tuple[Step, ...], ...] = ()  # reference chains; the last step of each is the program
    difficulty: str = ""  # by which figures are broken down
    source: str = ""  # the data set
    tags: tuple[str, ...] = ()
    time_limit_s: float = 0.0  # of CPU, an execution; 0: the judge's default
    memory_limit_mb: int = 0  # MiB; 0: the judge's default
    json_values: bool = True  # whether values of form call came through JSON, so that a tuple equals a list
    # how answers are compared: one of GRADERS (form stdin) or CALL_GRADERS (form call); "": numbers by value
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
    SANDBOX_ERROR = "SANDBOX_ERROR"  # infrastructure failed, three times: nobody's failure, never a reward


@dataclasses.dataclass(frozen=True)
class CaseResult:
    """What one test said of a program."""

    status: Status
    detail: str = ""  # one line: the exception, the signal, the first difference
    cpu_s: float = 0.0  # 0 in records that are kept: it differs from run to run
    output: str | None = None  # what was printed, where that was asked for and the program ended well

    @property
    def passed(self) -> bool:
        return self.status in (Status.AC, Status.PE)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the judge says of one program on all tests."""

    compiled: bool
    cases: tuple[CaseResult, ...]  # one a test, in order
    isolation: str = ""  # the sandbox's tier, for example "T0"

    @property
    def pass_rate(self) -> float:
        """passed tests / tests, in [0, 1]; 0 without tests."""
        return sum(case.passed for case in self.cases) / len(self.cases) if self.cases else 0.0

    @property
    def lost(self) -> bool:
        """The infrastructure failed: neither a pass nor a failure of the program's."""
        return any(case.status is Status.SANDBOX_ERROR for case in self.cases)

    @property
    def passed(self) -> bool:
        """Every test passes, and there is at least one."""
        return bool(self.cases) and all(case.passed for case in self.cases)


@dataclasses.dataclass(frozen=True)
class Node:
    """One step of a tree. The root (index 0, parent -1, action 0) holds no tokens."""

    index: int
    parent: int  # its index; -1 of the root
    depth: int  # steps from the root
    action: int  # one of ACTIONS; 0 of the root and of a malformed step
    token_ids: tuple[int, ...] = ()  # with the token that ends the step
    log_probs: tuple[float, ...] = ()  # nats, as sampled (float32, temperature applied); one a token
    is_policy_token: tuple[bool, ...] = ()  # whether the policy sampled the token
    text: str = ""  # derived from the token ids
    finish_reason: Literal["", FinishReason] = ""  # "" of the root
    policy_version: int = 0  # of the weights that sampled it
    visits: int = 0  # of UCT
    value_sum: float = 0.0  # of UCT: the sum of the values of its visits
    terminal: bool = False  # holds a program, which ends its path
    value: float | None = None  # terminal value in [0, 1] of a judged or dead leaf (rewards/outcome.py)
    verdict: Verdict | None = None  # of a leaf with a program
    error: str = ""  # why a malformed step is dead
    score: float | None = None  # the process reward model's, in (0, 1), where one was asked
    program_from: int = 0  # as in Rollout, in this step's token_ids

    @property
    def passed(self) -> bool:
        """Whether it holds a program that passes every test."""
        return self.verdict is not None and self.verdict.passed


@dataclasses.dataclass(frozen=True)
class Tree:
    """A searched problem."""

    problem_id: str
    prompt_ids: tuple[int, ...]
    nodes: tuple[Node, ...]  # in order of creation: a parent precedes its children
    seed: int
    temperature: float
    rollouts: int
    generated_tokens: int  # every sampled token, also those of steps that were dropped
    judged_programs: int  # different ones
    program_prompt_ids: tuple[int, ...] = ()  # as in Rollout

    @property
    def solved(self) -> bool:
        return any(node.passed for node in self.nodes)


@dataclasses.dataclass(frozen=True)
class SftSample:
    """A prompt and an answer to imitate."""

    id: str
    problem_id: str
    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    is_trained: tuple[bool, ...]  # one an answer token
    weight: float = 1.0  # of each trained token in the loss
    program_prompt_ids: tuple[int, ...] = ()  # as in Rollout
    program_from: int = 0  # as in Rollout, in answer_ids


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
    """A path with a label a step."""

    id: str
    problem_id: str
    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    step_ends: tuple[int, ...]  # the index in answer_ids of each step's last token
    soft: tuple[float, ...]  # one a step: the mean pass rate of the distinct leaves below (D8)
    hard: tuple[float, ...]  # one a step: 1 if one of those leaves passes everything
    n_leaves: tuple[int, ...]  # one a step: how many such leaves there are
    n_paths: tuple[int, ...] = ()  # one a step: how many labelled paths it is on; (): this one alone


@dataclasses.dataclass(frozen=True)
class StepPair:
    """Two sibling steps under one prefix, the chosen one with the higher soft label."""

    id: str
    problem_id: str
    prefix_ids: tuple[int, ...]  # the prompt and the steps before
    chosen_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...]
    chosen_value: float  # soft label
    rejected_value: float
    chosen_is_program: bool = False  # whether the step is an action 3
    rejected_is_program: bool = False


@dataclasses.dataclass(frozen=True)
class Rollout:
    """One sampled answer, as RL and evaluation keep it."""

    id: str
    group_id: str  # answers with one are compared with each other
    problem_id: str
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]  # of the answer
    log_probs: tuple[float, ...]  # nats, as sampled (float32, temperature applied); one a token
    is_policy_token: tuple[bool, ...]  # whether the policy sampled the token
    finish_reason: FinishReason
    temperature: float
    policy_version: int  # of the weights that sampled it
    prompt: Prompt  # which one it answers
    program: str  # the source that is judged; "" where none could be read
    verdict: Verdict | None = None  # None without a program
    reward: float = 0.0  # rewards.outcome.outcome_of the verdict: 1 if every test passes, else 0
    error: str = ""  # how the answer breaks the form that search and RL teach; a program may be read even so
    # Where the question is hidden from the program (style nano_hidden): the prompt that stands in place of
    # prompt_ids before the tokens from the index program_from on. Empty: it is hidden from none.
    program_prompt_ids: tuple[int, ...] = ()
    program_from: int = 0  # the number of tokens where there is no program
