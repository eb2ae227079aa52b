"""README and docs/: what stands in a block runs, and what is named is there."""

import configparser
import dataclasses
import pathlib
import re
import shlex
from collections.abc import Callable, Iterator

import pytest
from commands import CHECKOUT

from dpdm_jax.configs import base

DOCS = CHECKOUT / "docs"
PAGES = [
    # What a page makes the next ones may read, as a newcomer goes through them.
    "README.md",
    "docs/tutorials/first_run.md",
    "docs/tutorials/own_images.md",
    "docs/tutorials/run_to_release.md",
]
# After which the first run has other weights than its samples.
_LAST = ["docs/how_to/extend.md"]
PAGES += sorted(
    name
    for path in DOCS.rglob("*.md")
    if (name := path.relative_to(CHECKOUT).as_posix()) not in PAGES + _LAST
)
PAGES += _LAST

_BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```', re.M | re.S)
_HERE_DOCUMENT = re.compile(r"^python - <<'EOF'\n(.*?)^EOF\n", re.M | re.S)
# Makes the long short; behind what a page says, so that it holds.
_TINY = (
    "--config.diffusion.noise_multiplicity=1",
    "--config.train.batch_size=100",
    "--config.train.num_steps=2",
    "--config.train.learning_rate=3e-3",
    "--config.train.microbatch_size=64",
    "--config.train.engine_microbatch_size=0",
    "--config.checkpoint.every_steps=2",
    "--config.log.snapshot_every_steps=0",
    "--config.log.tensorboard=False",
    "--config.sampler.name=ddim",
    "--config.sampler.num_steps=2",
    "--config.sample.num_images=120",
    "--config.sample.batch_size=120",
    "--config.evaluate.metrics=('logreg',)",
    "--config.evaluate.epochs=1",
    "--config.evaluate.batch_size=64",
    "--config.evaluate.seeds=1",
    "--config.evaluate.dp_sgd.epochs=0",
    "--config.select.grid.classifier=('logreg',)",
    "--config.learning_curve.classifiers=('logreg',)",
    "--config.learning_curve.num_images=(20,30)",
    "--config.learning_curve.selection_images=20",
    "--config.audit.canaries=100",
    "--config.audit.num_steps=2",
    "--config.audit.runs=0",
    "--config.audit.images=20",
    "--config.audit.noise_draws=1",
)
# Whose data is at hand. Commands of others are parsed, which loads their config, and
# tests/configs_test.py plans each of these.
_PARENTS = {"digits_finetune": "digits_public", "digits_text": "digits_text_public"}
_EMBEDDED = {"digits", *_PARENTS, *_PARENTS.values(), "released"}
_ONLY_PARSE = str(CHECKOUT / "tests" / "plugins" / "only_parse.py")
_LARGE = ("--compile-for", "--coordinator_address", "--distributed")


@dataclasses.dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        language: behind the fence.
        title: the file that it is, or "".
        text: what is in it.
    """

    language: str
    title: str
    text: str


def _blocks(page: str) -> list[Block]:
    text = (CHECKOUT / page).read_text(encoding="utf-8")
    found = [Block(*match) for match in _BLOCK.findall(text)]
    assert len(found) * 2 == len(re.findall(r"^```", text, re.M)), "an open fence"
    return found


def _commands(block: str) -> Iterator[tuple[str, list[str]]]:
    """Yields the commands of a shell block: "python" and its text, or "" and words."""
    parts = _HERE_DOCUMENT.split(block)
    for shell, script in zip(parts[::2], [*parts[1::2], ""], strict=True):
        for line in shell.replace("\\\n", " ").splitlines():
            for command in re.split(r"\s&&\s", line):
                if words := shlex.split(command, comments=True):
                    yield "", words
        if script:
            yield "python", [script]


class Newcomer:
    """Types what pages say, in one folder.

    Attributes:
        folder: the folder.
    """

    def __init__(self, folder: pathlib.Path, run: Callable) -> None:
        self.folder = folder
        self._typed: set[tuple[str, ...]] = set()  # what would find itself done
        self._run = run

    def python(self, text: str) -> None:
        script = self.folder / "block.py"
        script.write_text(text)
        self._must(module=str(script))

    def type(self, words: list[str]) -> None:
        match words:
            case ["pip", "install", *what]:
                _check_install(what)
            case ["python", "-m", module, *args]:
                self._module(module, args)
            case ["mkdocs", *_] | ["python3", "-m", "venv", *_] | ["source", *_]:
                pass  # .ci/run builds the site
            case _:
                raise AssertionError(f"no test knows {shlex.join(words)}")

    def _module(self, module: str, args: list[str]) -> None:
        if module in ("pytest", "venv"):
            return
        if module.startswith("experiments."):
            path = CHECKOUT / module.replace(".", "/")
            assert path.with_suffix(".py").is_file() or path.is_dir()
            return
        if module == "dpdm_jax.main" and self._is_small(args):
            if "--mode=plan" not in args:
                self._must(module, *args, module=_ONLY_PARSE)
                short = [*_TINY, *_beginning(args)]
                # A second value of a tuple would be added to the first.
                names = {flag.partition("=")[0] for flag in short}
                args = [arg for arg in args if arg.partition("=")[0] not in names]
                args += short
        elif module == "dpdm_jax.main" or "--checkpoint=FILE.pth" in args:
            module, args = _ONLY_PARSE, [module, *args]
        elif module == "dpdm_jax.evaluation":
            args = [*args, "--epochs=1", "--classifier_seeds=1"]
            args += ["--cache=", "--lenet_steps=10"]
        if (module, *args) not in self._typed:
            self._must(*args, module=module)
            self._typed.add((module, *args))

    def _is_small(self, args: list[str]) -> bool:
        if any(arg.startswith(_LARGE) for arg in args):
            return False
        chosen = [arg for arg in args if arg.startswith("--config=")]
        name = chosen[0].removeprefix("--config=") if chosen else "configs/digits.py"
        path = pathlib.Path(name.partition(":")[0])
        # A page's own file is planned, for it may be of anything.
        return path.stem in _EMBEDDED or (self.folder / path).is_file()

    def _must(self, *args: str, module: str) -> None:
        env = {"PYTHONPATH": str(self.folder)}
        done = self._run(*args, module=module, cwd=self.folder, env=env)
        assert done.returncode == 0, (module, args, done.stderr[-2000:])


def _beginning(args: list[str]) -> list[str]:
    """Returns flags that a mode needs, or by which a run begins with a short one."""
    begins = any(arg.startswith("--config.initial.weights=") for arg in args)
    for child, parent in _PARENTS.items():
        if f"--config=configs/{child}.py" in args and not begins:
            return [f"--config.initial.weights=runs/{parent}"]
        if f"--config=configs/{parent}.py" in args:
            number = "--config.data.num_examples=100"
            return [number, "--config.data.glyphs.images_per_character=10"]
    return ["--config.extend.num_steps=2"] if "--mode=extend" in args else []


def _check_install(what: list[str]) -> None:
    config = configparser.ConfigParser()
    config.read(CHECKOUT / "setup.cfg")
    extras = config["options.extras_require"]
    match what:
        case ["-e", target]:
            for name in re.findall(r"[a-z]+", target):
                assert name in extras, f"there is no extra {name}"
        case ["-r", file]:
            assert (CHECKOUT / file).is_file()
        case _:
            raise AssertionError(f"no test knows pip install {shlex.join(what)}")


@pytest.fixture(scope="module")
def newcomer(commands, tmp_path_factory) -> Newcomer:
    """A folder in which public stages have been trained, shortly."""
    # Once for all pages: the plans that most of their commands make.
    commands.plan()
    commands.plan(privacy__epsilon=1.0)
    commands.plan(train__num_steps=2, train__batch_size=100)
    made = Newcomer(tmp_path_factory.mktemp("newcomer"), commands.run)
    for parent in _PARENTS.values():
        command = f"python -m dpdm_jax.main --mode=train --config=configs/{parent}.py"
        made.type(command.split())
    return made


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_says_works(page, newcomer):
    for block in _blocks(page):
        if block.title:
            (newcomer.folder / block.title).write_text(block.text)
        elif block.language == "python":
            newcomer.python(block.text)
        elif block.language == "bash":
            for kind, words in _commands(block.text):
                newcomer.python(*words) if kind else newcomer.type(words)
        else:
            assert block.language == "text"


def test_tests_that_pages_name_are_there():
    named = {
        name
        for page in PAGES
        for name in re.findall(r"`(test_\w+)`", (CHECKOUT / page).read_text())
    }
    assert named
    tests = [p.read_text() for p in (CHECKOUT / "tests").rglob("*_test.py")]
    there = set(re.findall(r"^def (test_\w+)", "\n".join(tests), re.M))
    assert not named - there


def test_links_of_pages_lead_somewhere():
    """Also those into the repository, and those of pages outside docs/."""
    for page in [*PAGES, "CONTRIBUTING.md", "SECURITY.md"]:
        text = _BLOCK.sub("", (CHECKOUT / page).read_text())
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            generated = link.endswith("config.md")
            if not generated and not link.startswith(("https:", "mailto:")):
                assert ((CHECKOUT / page).parent / link).exists(), f"{page}: {link}"


def test_readme_is_short():
    assert len((CHECKOUT / "README.md").read_text().split()) <= 1200


def test_every_page_is_in_the_navigation():
    navigation = (CHECKOUT / "mkdocs.yml").read_text()
    named = set(re.findall(r"[\w/]+\.md", navigation.partition("nav:")[2]))
    there = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert named == there | {"reference/config.md"}


def test_every_field_is_explained(monkeypatch):
    """By a comment or a docstring, from which the site's page is made."""
    pytest.importorskip("mkdocs")
    monkeypatch.syspath_prepend(str(DOCS / "hooks"))
    import config_reference

    found = config_reference.fields(base.get_config())
    assert len(found) > 200
    assert not [field.name for field in found if not field.text]
    page = config_reference.page()
    assert "`network.mlp.hidden_width` = `128`" in page
    assert "\n## train\n" in page
