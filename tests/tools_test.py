"""The checks before a commit and those of CI are the same, by the same tools."""

import configparser
import importlib.metadata
import re

import pytest
import yaml
from commands import CHECKOUT


def test_commits_are_checked_as_ci_does():
    text = (CHECKOUT / ".pre-commit-config.yaml").read_text()
    hooks = [hook for repo in yaml.safe_load(text)["repos"] for hook in repo["hooks"]]
    # Of the environment: setup.cfg alone has versions.
    assert all(hook["language"] == "system" for hook in hooks)
    at_commits = [hook["entry"] for hook in hooks if "stages" not in hook]
    ci = (CHECKOUT / ".ci" / "run").read_text()
    assert at_commits == re.findall(r"^(?:ruff .*|mypy)$", ci, re.MULTILINE)
    for hook in hooks:
        for name in re.findall(r"tests/\S+", hook["entry"]):
            assert (CHECKOUT / name).is_file()


@pytest.mark.parametrize("tool", ["ruff", "mypy"])
def test_the_tool_is_the_one_that_is_pinned(tool):
    config = configparser.ConfigParser()
    config.read(CHECKOUT / "setup.cfg")
    test_extra = config["options.extras_require"]["test"].split()
    assert f"{tool}=={importlib.metadata.version(tool)}" in test_extra


def test_ci_runs_the_test_command_of_the_readme():
    """CI takes the one ``pip`` line of the marked block; there is just one."""
    readme = (CHECKOUT / "README.md").read_text()
    blocks = re.findall(r"<!-- test command -->\n```bash\n(.*?)```", readme, re.DOTALL)
    (block,) = blocks
    (command,) = block.strip().splitlines()
    assert command.startswith("pip install -r requirements.txt && python -m pytest ")
