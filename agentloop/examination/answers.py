"""The verifier, asked about answers that are known to be right and about others that are known not to be.

The verifier is what the loop optimises. One that refuses right answers teaches nothing, and one that accepts wrong ones teaches
them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from agentloop.environments import Environment
from agentloop.environments.model_judge import NotAsked
from agentloop.environments.questions import same_answer
from agentloop.errors import StoreError
from agentloop.examination.part import Part, named
from agentloop.examination.subject import Subject
from agentloop.records import SOLVED, Task
from agentloop.rollout.grammar import FinalAnswer, GrammarError, answer_text, parse
from agentloop.text import one_line_of
from agentloop.verification import SUCCESS, scored

TRIED = 200
"""Tasks that wrong answers are tried at."""
OFTEN = 0.1
"""Share of tasks at which other tasks' answers may be accepted before the verifier is said to let wrong answers pass."""
_LISTED = 30
"""Answers in an answer that is a list of many."""

Answered = Callable[[Task], str | None]


def examine(subject: Subject) -> Part:
    """Ask the verifier about the tasks' own answers, other spellings of them and wrong ones."""
    if subject.by_outcome:
        return Part("Verifier", ("score() goes by what the world tells of an episode, not by the answer alone",), ())
    lines: list[str] = []
    faults: list[str] = []
    try:
        for part in (_own, _spellings, _wrong):
            told, wrong = part(subject)
            lines += told
            faults += wrong
    except StoreError as error:
        if isinstance(error.__cause__, NotAsked):
            return Part("Verifier", ("a model judges the answers, and is not asked here",), ())
        return Part("Verifier", tuple(lines), (*faults, str(error)))
    common_lines, common = _common(subject.tasks)
    return Part("Verifier", (*lines, *common_lines), (*faults, *common))


def _value(subject: Subject, task: Task, answer: str | None) -> float:
    plain = type(subject.environment).score is Environment.score
    if plain and answer is None:  # of which the default score does not ask
        return scored(
            lambda task, _: subject.environment.verify(task, None), task, "", None, who="verify() without an answer"
        )[SUCCESS]
    return scored(subject.environment, task, answer, None, who="verify()" if plain else "score()")[SUCCESS]


def _own(subject: Subject) -> tuple[list[str], list[str]]:
    refused, unsayable, unsteady = [], [], []
    for task in subject.tasks:
        said = _as_said(task.answer)
        if said is None:
            unsayable.append(task)
            continue
        value = _value(subject, task, said)
        if value < SOLVED:
            refused.append((task, value))
        if _value(subject, task, said) != value:
            unsteady.append(task)
    count = len(subject.tasks)
    lines = [f"the tasks' own answers: {count - len(refused) - len(unsayable):,} of {count:,} are right"]
    faults = []
    if refused:
        places = subject.places(task for task, _ in refused)
        about = [
            f"{place} ({one_line_of(task.answer, most=40)!r}: {value:g})"
            for place, (task, value) in zip(places, refused, strict=True)
        ]
        faults.append(f"verify() refuses the tasks' own answers at {len(refused):,} of {count:,}: {named(about)}")
    if unsayable:
        faults.append(
            f"answers that cannot be said, on one line as they must be: {len(unsayable):,} of {count:,}: "
            f"{named(subject.places(unsayable))}"
        )
    if unsteady:
        faults.append(f"verify() says different things of the same answer: {named(subject.places(unsteady))}")
    return lines, faults


def _as_said(answer: str) -> str | None:
    """The answer as it is read once a model has said it; None where it cannot say it."""
    try:
        read = parse(answer_text(answer))
    except GrammarError:
        return None
    return read.text if isinstance(read, FinalAnswer) and read.text == answer.strip() else None


def _spellings(subject: Subject) -> tuple[list[str], list[str]]:
    """How other spellings of right answers fare: whether that is right is the user's choice."""
    kinds: dict[str, Callable[[str], str]] = {
        "in capitals": str.upper,
        "in small letters": str.lower,
        "with a full stop": lambda answer: f"{answer}.",
        "in a sentence": lambda answer: f"The answer is {answer}",
    }
    numbers: dict[str, Callable[[str], str]] = {
        "with a decimal (46.0)": lambda answer: f"{answer}.0" if "." not in answer else f"{answer}0",
        "with a sign (+46)": lambda answer: f"+{answer}",
        "with commas (1,234)": lambda answer: f"{int(answer):,}" if answer.isascii() and answer.isdigit() else answer,
    }
    found = []
    tasks = subject.some(TRIED)
    for name, spelt in {**kinds, **numbers}.items():
        asked = [
            (task, spelt(task.answer)) for task in tasks if name in kinds or task.answer.replace(".", "", 1).isdecimal()
        ]
        asked = [(task, answer) for task, answer in asked if answer != task.answer]
        if asked:
            accepted = sum(_value(subject, task, answer) >= SOLVED for task, answer in asked)
            found.append(f"{name} {_share(accepted, len(asked))}")
    return [f"right answers spelt otherwise, accepted: {', '.join(found)}"] if found else [], []


def _wrong(subject: Subject) -> tuple[list[str], list[str]]:
    tasks = subject.some(TRIED)
    others = {task.id: _others(task, tasks, place) for place, task in enumerate(tasks)}
    never: dict[str, Answered] = {
        "none at all": lambda task: None,
        "an empty one": lambda task: "",
        "the question itself": lambda task: task.question,
    }
    seldom: dict[str, Answered] = {
        "another task's": lambda task: others[task.id][0],
        "a list of many, the right one among them": lambda task: ", ".join([*others[task.id], task.answer]),
    }
    lines, faults = [], []
    for name, answered in {**never, **seldom}.items():
        asked = [task for task in tasks if name in never or others[task.id]]
        if name == "the question itself":
            asked = [task for task in asked if not same_answer(task.question, task.answer)]
        accepted = [task for task in asked if _value(subject, task, answered(task)) >= SOLVED]
        if not asked:
            continue
        lines.append(f"{name} {_share(len(accepted), len(asked))}")
        if accepted and (name in never or len(accepted) > OFTEN * len(asked)):
            faults.append(
                f"verify() takes wrong answers for right: {name}, at {len(accepted):,} of {len(asked):,} tasks: "
                f"{named(subject.places(accepted))}"
            )
    return [f"wrong answers, accepted: {', '.join(lines)}"], faults


def _others(task: Task, tasks: Sequence[Task], place: int) -> list[str]:
    """Answers of other tasks, none of which is this task's in another spelling."""
    found: dict[str, None] = {}
    for other in (*tasks[place + 1 :], *tasks[:place]):
        if len(found) == _LISTED:
            break
        if not same_answer(other.answer, task.answer):
            found.setdefault(other.answer)
    return list(found)


def _common(tasks: Sequence[Task]) -> tuple[list[str], list[str]]:
    answer, count = Counter(task.answer for task in tasks).most_common(1)[0]
    share = count / len(tasks)
    if len(tasks) == 1 or share <= OFTEN:
        return [], []
    shown = repr(one_line_of(answer, most=40))
    if share == 1:
        return [], [f"every task has the answer {shown}: there is nothing to learn"]
    return [f"whoever always says {shown} is right at {share:.0%} of the tasks"], []


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if part in (0, whole) or 0.005 <= part / whole < 0.995 else f"{part / whole:.1%}"
