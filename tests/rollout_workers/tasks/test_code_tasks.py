"""HumanEval, MBPP and KodCode: prompts to the letter, what is handed to the sandbox, and verdicts from it."""

from __future__ import annotations

import pytest

from cluster.errors import UserError
from rollout_workers.config import TaskConfig
from rollout_workers.grading.answers import Grade, GradeKind
from rollout_workers.grading.sandbox import SandboxError, SandboxMode
from rollout_workers.tasks import Split, make_task
from tests.fakes.rows import task_over
from tests.fakes.shared_data import shared_data

HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": 'def double(x: int) -> int:\n    """Twice x."""\n',
    "entry_point": "double",
    "canonical_solution": "    return 2 * x\n",
    "test": "def check(candidate):\n    assert candidate(3) == 6\n    assert candidate(0) == 0\n",
}
KODCODE = {
    "question": "Count the even numbers.",
    "solution": "import operator\n\ndef count_even(numbers):\n    # comment\n"
    "    return operator.length_hint(list(filter(even, numbers)))\n\ndef even(n):\n    return n % 2 == 0\n",
    "test": "from solution import count_even\n\ndef test_some():\n    assert count_even([1, 2, 4]) == 2\n\n"
    "def test_none():\n    assert count_even([]) == 0\n",
    "test_info": [
        {"function_name": "count_even", "function_declaration": "def count_even(numbers):", "docstring": "."}
    ],
}


def mbpp_row(task_id: int) -> dict:
    return {
        "task_id": task_id,
        "text": f"Write a function to add {task_id}.",
        "code": f"def add(x):\r\n    return x + {task_id}",
        "test_list": [f"assert add({x}) == {x + task_id}" for x in range(3)],
        "test_setup_code": "",
        "challenge_test_list": [],
    }


MBPP = [mbpp_row(task_id) for task_id in (1, 2, 3, 4, 5, 11, 12, 510, 511, 601, 974)]


@pytest.fixture
def checks(monkeypatch) -> list:
    """Checks that reach the sandbox, which is faked."""
    seen = []

    def run_check(check, *, sandbox):
        seen.append((check, sandbox))
        return Grade(GradeKind.CORRECT, 1.0, check.candidate)

    monkeypatch.setattr("rollout_workers.tasks.code_task.run_check", run_check)
    monkeypatch.setattr("rollout_workers.tasks.code_task.open_sandbox", lambda mode, limits: (mode, limits))
    return seen


class TestPrompts:
    def test_humaneval(self, tmp_path):
        example = task_over("humaneval", tmp_path, test=[HUMANEVAL]).example(Split.TEST, 0)
        assert example.prompt == (
            "Write a solution to the following problem and make sure that it passes the tests:\n"
            '```python\ndef double(x: int) -> int:\n    """Twice x."""\n\n```\n'
        )
        assert example.prefill == (
            'Here is the completed function:\n```python\ndef double(x: int) -> int:\n    """Twice x."""\n\n'
        )

    def test_kodcode(self, tmp_path):
        task = task_over("kodcode", tmp_path, train=[KODCODE], test=[KODCODE])
        example = task.example(Split.TEST, 0)
        assert example.prompt == (
            "You are an expert Python programmer, and here is your task:\n\nCount the even numbers.\n\n"
            "Implement the function exactly as specified below."
        )
        assert example.prefill == "Here is the completed function:\n```python\ndef count_even(numbers):\n"

    def test_mbpp_shows_three_examples_and_the_tests(self, tmp_path):
        def task_text(task_id: int) -> str:
            tests = "\n".join(f"assert add({x}) == {x + task_id}" for x in range(3))
            return (
                "You are an expert Python programmer, and here is your task:\n"
                f"Write a function to add {task_id}.\nYour code should pass these tests:\n{tests}"
            )

        shown = [f"{task_text(i)}\n```python\ndef add(x):\n    return x + {i}\n```" for i in (2, 3, 4, 5)]
        for few_shot, num in ((None, 3), (0, 0), (1, 1), (4, 4)):
            example = task_over("mbpp", tmp_path, test=MBPP, few_shot=few_shot).example(Split.TEST, 1)
            assert example.prompt == "\n\n".join([*shown[:num], task_text(12)])
            assert example.prefill == "\n```python\n"


class TestMbppSplits:
    @pytest.mark.parametrize("part", ["train", "test"])
    def test_task_ids_say_the_split_and_one_file_is_enough(self, tmp_path, part):
        task = task_over("mbpp", tmp_path, **{part: MBPP})
        assert [task.size(split) for split in (Split.TEST, Split.VALIDATION, Split.TRAIN)] == [3, 1, 2]
        assert "add 510" in task.example(Split.TEST, 2).prompt
        assert "add 974" in task.example(Split.TRAIN, 1).prompt

    def test_too_many_or_missing_examples_are_named(self, tmp_path):
        with pytest.raises(UserError, match=r"few_shot' is 11; allowed: 0 to 10"):
            task_over("mbpp", tmp_path, test=MBPP, few_shot=11).example(Split.TEST, 0)
        with pytest.raises(UserError, match=r"few_shot' is 3: data file .*test\.jsonl' has no row with 'task_id' 2"):
            task_over("mbpp", tmp_path, test=MBPP[5:]).example(Split.TEST, 0)
        with pytest.raises(UserError, match=r"few_shot' is 5: .* has no row with 'task_id' 6"):
            task_over("mbpp", tmp_path, test=MBPP, few_shot=5).example(Split.TEST, 0)

    def test_a_split_without_rows_is_named(self, tmp_path):
        with pytest.raises(UserError, match="1 rows leave none for the validation split"):
            task_over("mbpp", tmp_path, train=MBPP[5:6]).size(Split.VALIDATION)


class TestChecks:
    """What is handed to the sandbox."""

    def test_humaneval(self, tmp_path, checks):
        task = task_over("humaneval", tmp_path, test=[HUMANEVAL], grade_deadline_s=2.5, sandbox="process")
        example = task.example(Split.TEST, 0)
        assert task.grade(example, "    return x + x\n```\nDone.").is_correct
        ((check, (mode, limits)),) = checks
        assert check.candidate == f"{HUMANEVAL['prompt']}    return x + x\n"
        assert check.tests.endswith("\ncheck(double)\n")
        assert (check.exports, check.context) == (("double",), HUMANEVAL["prompt"])
        assert (mode, limits.wall_s, limits.cpu_s) == (SandboxMode.PROCESS, 2.5, 3)

    def test_mbpp(self, tmp_path, checks):
        row = mbpp_row(11) | {
            "code": "class Node:\r\n    pass\r\ndef sum(n):\r\n    return 0\r\ndef helper():\r\n    return 1",
            "test_list": ["assert sum(root) == 0"],
            "test_setup_code": "root = Node()\r\n",
        }
        task = task_over("mbpp", tmp_path, test=[row], few_shot=0)
        task.grade(task.example(Split.TEST, 0), "def sum(n):\n    return 0\n```")
        ((check, _),) = checks
        assert check.candidate == "def sum(n):\n    return 0\n"
        assert check.tests == "root = Node()\n\nassert sum(root) == 0"
        assert check.exports == ("sum", "Node")

    def test_kodcode(self, tmp_path, checks):
        task = task_over("kodcode", tmp_path, test=[KODCODE])
        task.grade(task.example(Split.TEST, 0), "    return 0\n```")
        ((check, _),) = checks
        assert check.candidate == "def count_even(numbers):\n    return 0\n"
        assert check.tests == KODCODE["test"]

    @pytest.mark.parametrize(("num_cpus", "num_graders"), [(None, 1), (2, 2), (96, 16)])
    def test_as_many_run_at_a_time_as_there_are_processors(self, tmp_path, monkeypatch, num_cpus, num_graders):
        monkeypatch.setattr("os.cpu_count", lambda: num_cpus)
        assert task_over("humaneval", tmp_path, test=[HUMANEVAL]).num_graders == num_graders


def test_kodcode_continuations_hold_the_body_first_and_all_the_rest(tmp_path):
    task = task_over("kodcode", tmp_path, test=[KODCODE])
    text = task.canonical(task.example(Split.TEST, 0))
    assert text.startswith("    return operator.length_hint(")
    assert "import operator" in text
    assert "def even(n):\n    return n % 2 == 0\n```" in text
    compile(f"{KODCODE['test_info'][0]['function_declaration']}\n{text.removesuffix('```')}", "solution", "exec")


@pytest.mark.parametrize("solution", ["", "def count_even(n", "def other(n):\n    return 1", "count_even = len"])
def test_kodcode_solutions_without_the_function_have_no_canonical_text(tmp_path, solution):
    task = task_over("kodcode", tmp_path, test=[KODCODE | {"solution": solution}])
    example = task.example(Split.TEST, 0)
    assert task.canonical(example) is None
    assert task.perturbed(example) is None


def test_a_refused_sandbox_is_found_before_the_run(tmp_path, monkeypatch):
    def refuse(mode, limits):
        raise SandboxError("sandbox mode 'namespaces' cannot start here")

    monkeypatch.setattr("rollout_workers.tasks.code_task.open_sandbox", refuse)
    with pytest.raises(UserError, match="cannot start here"):
        task_over("mbpp", tmp_path, test=MBPP).prepare()


@pytest.mark.parametrize(
    ("name", "row", "words"),
    [
        ("humaneval", HUMANEVAL | {"entry_point": "no name"}, ["'entry_point' is 'no name'"]),
        ("humaneval", HUMANEVAL | {"entry_point": "triple"}, ["'prompt'", "'triple'"]),
        ("humaneval", HUMANEVAL | {"test": "assert True"}, ["'test'", "check(candidate)"]),
        ("humaneval", {"prompt": "?"}, ["'task_id' is missing"]),
        ("mbpp", mbpp_row(975), ["'task_id' is 975", "1 to 974"]),
        ("mbpp", mbpp_row(11) | {"task_id": "11"}, ["'task_id' is '11'", "an integer"]),
        ("mbpp", mbpp_row(11) | {"test_list": []}, ["'test_list' is []"]),
        ("mbpp", mbpp_row(11) | {"test_list": [1]}, ["'test_list' is [1]"]),
        ("mbpp", mbpp_row(11) | {"code": " "}, ["'code' is empty"]),
        ("kodcode", KODCODE | {"test_info": []}, ["'test_info' is []"]),
        ("kodcode", KODCODE | {"test_info": [{"function_name": "f"}]}, ["'test_info[0].function_declaration' is None"]),
        ("kodcode", KODCODE | {"test_info": ["f"]}, ["'test_info' is ['f']"]),
        ("kodcode", KODCODE | {"question": ""}, ["'question' is empty"]),
    ],
)
def test_malformed_rows_are_one_line_that_names_file_row_and_key(tmp_path, name, row, words):
    with pytest.raises(UserError) as caught:
        task_over(name, tmp_path, test=[row]).size(Split.TEST)
    message = str(caught.value)
    assert "\n" not in message
    for word in (*words, "test.jsonl", "row 1"):
        assert word in message


def test_kodcode_has_no_pinned_revision():
    with pytest.raises(UserError, match=r"KodCode-Light-RL-10K has no pinned revision.*'task_settings.kodcode.train'"):
        make_task("kodcode").size(Split.TRAIN)


@pytest.fixture
def sandboxed():
    """Skips where this machine has no namespaces for bubblewrap."""
    try:
        make_task("mbpp").prepare()
    except SandboxError as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("sandboxed")
class TestVerdicts:
    @pytest.mark.parametrize(
        ("name", "rows"), [("humaneval", [HUMANEVAL]), ("mbpp", MBPP[5:6]), ("kodcode", [KODCODE])]
    )
    def test_canonical_texts_pass_and_perturbed_ones_fail(self, tmp_path, name, rows):
        task = task_over(name, tmp_path, test=rows, **({"few_shot": 0} if name == "mbpp" else {}))
        example = task.example(Split.TEST, 0)
        grade = task.grade(example, task.canonical(example))
        assert grade.is_correct, grade.detail
        assert task.grade(example, task.perturbed(example)).kind is GradeKind.WRONG
        assert task.grade(example, "").kind is GradeKind.WRONG

    def test_the_deadline_is_the_tasks(self, tmp_path):
        task = task_over("humaneval", tmp_path, test=[HUMANEVAL], grade_deadline_s=0.5)
        grade = task.grade(task.example(Split.TEST, 0), "    while True: pass\n```")
        assert grade.kind is GradeKind.TIMED_OUT

    @pytest.mark.parametrize(
        ("name", "file", "every"), [("humaneval", "HumanEval.jsonl.gz", 41), ("mbpp", "mbpp.jsonl", 125)]
    )
    def test_published_rows(self, name, file, every):
        """A few of them; all are graded by `python -m evaluation.check_task`."""
        task = make_task(name, TaskConfig(test=str(shared_data(file)), grade_deadline_s=60.0))
        for index in range(0, task.size(Split.TEST), every):
            example = task.example(Split.TEST, index)
            assert task.grade(example, task.canonical(example)).is_correct
            assert task.grade(example, task.perturbed(example)).kind is GradeKind.WRONG
