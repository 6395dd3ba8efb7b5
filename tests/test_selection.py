"""Which merchants `check` and `test` are about, in a git repository; on top of it the hooks and the CI snippet."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from click.testing import CliRunner

from fraudengine.cli import program
from fraudengine.cli.options import Problem

ROOT: Final = Path(__file__).parents[1]
SHARED_LIST: Final = "list: bad_mails\nof: email_domain\nentries: [mailinator.com]\n"
PLATFORM: Final = "rule_set: platform\nrules:\n  - {id: expired, when: {card_expired: true}, then: refuse}\n"
MERCHANT: Final = "merchant: {name}\nextends: platform\n"
READER: Final = (
    MERCHANT + "rules:\n  - {{id: mails, when: {{email_domain: {{in_list: bad_mails}}}}, then: refuse}}\n"
)
TEST: Final = "merchant: {name}\ntransaction: {{amount: 5 TND}}\ntests:\n  - {{name: ordinary, expect: accept}}\n"


def git(directory: Path, *arguments: str) -> None:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.tn", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *arguments], cwd=directory, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One commit with house rules, a shared list that `one` reads, and the merchants `one` and `two` with tests."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    rules = tmp_path / "rules"
    (rules / "merchants").mkdir(parents=True)
    (rules / "lists").mkdir()
    (rules / "platform.yaml").write_text(PLATFORM)
    (rules / "lists" / "bad_mails.yaml").write_text(SHARED_LIST)
    for name, form in (("one", READER), ("two", MERCHANT)):
        (rules / "merchants" / f"{name}.yaml").write_text(form.format(name=name))
        (rules / "merchants" / f"{name}.test.yaml").write_text(TEST.format(name=name))
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_tests(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(program, ["test", *arguments, "--data", str(ROOT / "data")])
    return result.exit_code, result.output.splitlines()[-1]


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def nothing(repository: Path) -> None:
    pass


def edit_merchant(repository: Path) -> None:
    append(repository / "rules/merchants/two.yaml", "otherwise: challenge\n")


def edit_test(repository: Path) -> None:
    append(repository / "rules/merchants/two.test.yaml", "  - {name: another, expect: accept}\n")


def edit_shared_list(repository: Path) -> None:
    (repository / "rules/lists/bad_mails.yaml").write_text(SHARED_LIST.replace("]", ", example.net]"))


def edit_platform(repository: Path) -> None:
    append(repository / "rules/platform.yaml", "  - {id: moto, when: {channel: moto}, then: challenge}\n")


def commit_merchant(repository: Path) -> None:
    edit_merchant(repository)
    git(repository, "commit", "-qam", "second")


def add_merchant(repository: Path) -> None:
    (repository / "rules/merchants/three.yaml").write_text(MERCHANT.format(name="three"))
    (repository / "rules/merchants/three.test.yaml").write_text(TEST.format(name="three"))


def edit_elsewhere(repository: Path) -> None:
    (repository / "README.yaml").write_text("merchant: two\n")


@pytest.mark.parametrize(
    ("change", "revision", "result"),
    [
        (nothing, "HEAD", (0, "0 tests of 0 merchants: 0 passed, 0 failed")),
        (edit_elsewhere, "HEAD", (0, "0 tests of 0 merchants: 0 passed, 0 failed")),
        (edit_merchant, "HEAD", (1, "1 test of 1 merchant: 0 passed, 1 failed")),
        (edit_test, "HEAD", (0, "2 tests of 1 merchant: 2 passed, 0 failed")),
        (edit_shared_list, "HEAD", (0, "1 test of 1 merchant: 1 passed, 0 failed")),
        (edit_platform, "HEAD", (0, "2 tests of 2 merchants: 2 passed, 0 failed")),
        (add_merchant, "HEAD", (0, "1 test of 1 merchant: 1 passed, 0 failed")),
        (commit_merchant, "HEAD", (0, "0 tests of 0 merchants: 0 passed, 0 failed")),
        (commit_merchant, "HEAD~1", (1, "1 test of 1 merchant: 0 passed, 1 failed")),
    ],
)
def test_merchants_that_changed_are_tested(
    repository: Path, change: Callable[[Path], None], revision: str, result: tuple[int, str]
) -> None:
    change(repository)
    assert run_tests("--changed-since", revision) == result


def run_check(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(program, ["check", *arguments, "--data", str(ROOT / "data")])
    return result.exit_code, result.output


def test_check_names_only_what_changed(repository: Path) -> None:
    (repository / "rules/merchants/one.yaml").write_text("merchant: one\notherwise: acept\n")
    append(repository / "rules/merchants/two.yaml", "otherwise: refuse\n")
    git(repository, "commit", "-qam", "a mistake that is there already")
    append(repository / "rules/merchants/two.yaml", "timezone: Africa/Tunis\n")
    assert run_check("--changed-since", "HEAD") == (0, "2 files checked: no mistakes\n")
    assert run_check()[0] == 1


def test_shared_file_that_is_gone_concerns_everybody(repository: Path) -> None:
    (repository / "rules/lists/bad_mails.yaml").unlink()
    code, output = run_check("--changed-since", "HEAD")
    assert code == 1
    assert "unknown list `bad_mails`" in output


def test_several_files_are_named(repository: Path) -> None:
    assert "\n4 files checked" in "\n" + run_check("rules/merchants/one.yaml", "rules/merchants/two.test.yaml")[1]
    assert "\n4 files checked" in "\n" + run_check("rules/merchants")[1]
    assert "\n3 files checked" in "\n" + run_check("rules/lists/bad_mails.yaml")[1]
    assert "\n5 files checked" in "\n" + run_check("rules/platform.yaml")[1]
    assert run_tests("rules/merchants/one.yaml", "rules/merchants/two.yaml")[1].startswith("2 tests of 2 merchants")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.yaml"], "there is no file or directory nowhere.yaml"),
        (["--changed-since", "nothing"], "nothing"),
        (["--changed-since", "--output=x"], "is no revision"),
        (["rules/platform.yaml", "--changed-since", "HEAD"], "name files or --changed-since, not both"),
    ],
)
def test_wrong_call(repository: Path, arguments: list[str], said: str) -> None:
    code, output = run(f"fraudengine check {shlex.join(arguments)}")
    assert code == 2
    assert said in output


# ---- hooks and CI ---------------------------------------------------------------------------------


def run(command: str) -> tuple[int, str]:
    """The exit code and output of a command as a hook or CI step gives it."""
    name, *arguments = shlex.split(command.partition(" >> ")[0])
    assert name == "fraudengine"
    result = CliRunner().invoke(program, arguments, env={"FRAUDENGINE_DATA": str(ROOT / "data")})
    code = result.exception.exit_code if isinstance(result.exception, Problem) else result.exit_code
    return code, result.output or str(result.exception)


def hooks(name: str) -> list[dict[str, Any]]:
    read = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
    if isinstance(read, dict):
        return [hook for repo in read["repos"] for hook in repo["hooks"] if hook["id"].startswith("fraudengine-")]
    assert isinstance(read, list)
    return read


@pytest.mark.parametrize("name", [".pre-commit-config.yaml", ".pre-commit-hooks.yaml"])
def test_hooks_stop_a_bad_commit(repository: Path, name: str) -> None:
    found = {hook["id"]: hook for hook in hooks(name)}
    assert set(found) == {"fraudengine-check", "fraudengine-test", "fraudengine-fmt"}
    merchant = repository / "rules/merchants/two.yaml"

    def codes() -> list[int]:
        done = []
        for hook in found.values():
            files = [] if hook.get("pass_filenames") is False else ["rules/merchants/two.yaml"]
            assert re.search(hook["files"], "rules/merchants/two.yaml")
            assert not re.search(hook["files"], "rules/README.md")
            done.append(run(shlex.join([*shlex.split(hook["entry"]), *files]))[0])
        return done

    append(merchant, "timezone: Africa/Tunis\n")
    assert codes() == [0, 0, 0]
    append(merchant, "otherwise: refuse\n")
    assert codes() == [0, 1, 0]
    append(merchant, "otherwise: acept\n")
    assert [code != 0 for code in codes()] == [True, True, True]


def test_ci_snippet_of_the_handbook_runs(repository: Path) -> None:
    handbook = (ROOT / "rules" / "README.md").read_text(encoding="utf-8")
    snippet = re.search(
        r"^```yaml\n(# \.github/workflows/rules\.yml\n.*?)^```$", handbook, re.MULTILINE | re.DOTALL
    )
    assert snippet is not None
    steps = yaml.safe_load(snippet[1])["jobs"]["rules"]["steps"]
    commands = [step["run"] for step in steps if step.get("run", "").startswith("fraudengine")]
    assert len(commands) == 4
    git(repository, "branch", "origin/main")
    append(repository / "rules/merchants/two.yaml", "timezone: Africa/Tunis\n")
    git(repository, "commit", "-qam", "good")
    for command in commands:
        code, output = run(command.replace("${{ github.base_ref }}", "main"))
        assert code == 0, (command, output)
    append(repository / "rules/merchants/two.yaml", "otherwise: acept\n")
    code, output = run(commands[0].replace("${{ github.base_ref }}", "main"))
    assert code == 1
    assert output.startswith(
        "::error file=rules/merchants/two.yaml,line=4,col=12,endColumn=17,title=unknown-word::"
    )
