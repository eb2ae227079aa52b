"""Flags of the command line: a config file, overrides, and errors a person can read."""

import contextlib
import difflib
import functools
import gc
import inspect
import logging
import os
import pathlib
import re
import runpy
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO

import ml_collections
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

import dpdm_jax
from dpdm_jax import config_upgrades, configs, streams, xla_flags
from dpdm_jax.errors import InputError, reason

#: The folder of the shipped configs: the repository's, or the installed package's.
CONFIGS = pathlib.Path(configs.__path__[0])
# --help lists the flags that are defined here as those of the entry point.
flags.disclaim_key_flags()
_OVERRIDE = re.compile(r"--?config\.([^=]+)(?:=.*)?")


# Not the flag's own default: config_flags would load it, and apply the overrides to it,
# before anything can catch an error.
_default_spec: str | None = None


def define_config_flag(
    default: str | None,
) -> flags.FlagHolder[ml_collections.ConfigDict]:
    """Defines ``--config=FILE.py[:VARIANT]`` and the overrides of its fields.

    Args:
        default: the shipped config that stands for a missing ``--config``, whatever
            the current folder has; None for nothing.

    Returns:
        The flag; its value is the config, or None.
    """
    global _default_spec
    _default_spec = default and str(CONFIGS / pathlib.Path(default).name)
    flag = config_flags.DEFINE_config_file(
        "config",
        None,
        "A config file, with a published variant: configs/mnist.py:eps=1."
        + (f" Default: {default}." if default else ""),
        lock_config=True,
    )
    flags.declare_key_flag(flag.name)
    return flag


# The mode that takes folders behind the flags.
_folders_mode: str | None = None


def take_folders(mode: str) -> None:
    """Has ``--mode`` of this name take names without a flag, as a shell's ``runs/*``.

    Args:
        mode: its value. The entry point's main function is given the names.
    """
    global _folders_mode
    _folders_mode = mode


def resolve_config_path(spec: str) -> str:
    """Finds the file of ``FILE.py[:VARIANT]``: ``configs/`` is there in any folder.

    Args:
        spec: a path. What the current folder has goes before a shipped config.

    Returns:
        The same with a path that exists.

    Raises:
        InputError: there is no such file.
    """
    name, colon, variant = spec.partition(":")
    path = pathlib.Path(name).expanduser()
    if not path.is_file() and path.parent == pathlib.Path(CONFIGS.name):
        path = CONFIGS / path.name
    if path.is_file():
        return f"{path}{colon}{variant}"
    known = sorted(p.stem for p in CONFIGS.glob("[!_]*.py"))
    listed = ", ".join(f"configs/{name}.py" for name in known if name != "base")
    raise InputError(f"--config is {spec!r}, no such file; allowed: {listed}.")


def load_config(spec: str) -> ml_collections.ConfigDict:
    """Loads the config of ``FILE.py[:VARIANT]``.

    Raises:
        InputError: there is no such file or variant, its code fails, or what it makes
            is no config of this version.
    """
    # Imported late: JAX, which comes with it, must find the flags set.
    from dpdm_jax import stored_config

    path, _, variant = resolve_config_path(spec).partition(":")
    with _of_users_code(path):
        get_config = runpy.run_path(path).get("get_config")
    if not callable(get_config):
        raise InputError(f"{path} defines no get_config(); allowed: a config file.")
    with _of_users_code(path):
        try:
            config = get_config(variant) if variant else get_config()
        except ValueError as e:  # what configs raise over a variant
            said = (str(e).strip().splitlines() or ["ValueError"])[0].rstrip(".")
            raise InputError(f"--config is {spec!r}: {said}.") from None
    if not isinstance(config, ml_collections.ConfigDict):
        raise InputError(
            f"get_config() of {path} returns a {type(config).__name__}; allowed: the "
            "config that base.get_config() returns, with changes."
        )
    for name in stored_config.unknown_fields(config):
        allowed = " or ".join(config_upgrades.MOVED.get(name, ()))
        hint = "" if allowed else _hint_whole(name, stored_config.known_names())
        raise InputError(
            f"{path} sets the unknown field {name}{hint}; allowed: "
            f"{allowed or 'those of configs/base.py'}."
        )
    for name in stored_config.missing_fields(config):
        raise InputError(
            f"{path} makes a config without the field {name}; allowed: the config that "
            "base.get_config() returns, with changes."
        )
    return config.lock()


@contextlib.contextmanager
def _of_users_code(path: str) -> Iterator[None]:
    """Makes one sentence of what the code of a config file raises, and where.

    Raises:
        InputError: the code raised something.
    """
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as e:
        frames = traceback.extract_tb(e.__traceback__)
        own = [frame.lineno for frame in frames if frame.filename == path]
        said, line = reason(e), own[-1] if own else None
        if isinstance(e, SyntaxError):
            said, line = f"{type(e).__name__}: {e.msg}", e.lineno
        where = f" in line {line}" if line else ""
        raise InputError(
            f"{path} cannot be loaded ({said}{where}); allowed: a Python file "
            "whose get_config() returns a config."
        ) from None


def parse(argv: Sequence[str]) -> list[str]:
    """Parses the command line for ``absl.app.run(..., flags_parser=parse)``.

    Args:
        argv: the command line with the program's name.

    Returns:
        What is left, the program's name; behind it folders, in the mode that takes
        them.

    Raises:
        InputError: a flag, a config, a field or a value is not known.
    """
    argv = list(argv)
    _answer(argv[1:])
    spec = _of_stored_run(argv[1:]) or _default_spec
    for i, arg in enumerate(argv):
        name, _, value = arg.partition("=")
        if name in ("--config", "-config"):
            if not value and i + 1 < len(argv):
                raise InputError(f"{arg} has no value; allowed: --config=FILE.py.")
            spec = value
            argv[i] = f"--config={resolve_config_path(value)}"
    # config_flags wants the file before the overrides of its fields.
    argv[1:] = sorted(argv[1:], key=lambda arg: not arg.startswith("--config="))
    given: set[str] = set()
    unset: list[str] = []
    if spec is not None:
        if not any(arg.startswith("--config=") for arg in argv):
            argv.insert(1, f"--config={resolve_config_path(spec)}")
        config = load_config(spec)
        for arg in argv[1:]:
            if match := _OVERRIDE.fullmatch(arg):
                given.add(_check_field(config, match.group(1)))
        # What a config file sets and none need be: config_flags cannot take it back.
        nones = {f"--config.{name}=None": name for name in given}
        asked = [arg for arg in argv if arg in nones and _may_be_none(nones[arg])]
        unset = [nones[arg] for arg in asked]
        argv = [arg for arg in argv if arg not in asked]
    # config_flags looks for overrides there, whatever it is given to parse.
    sys.argv = argv
    try:
        rest = flags.FLAGS(argv)
    except flags.UnrecognizedFlagError as e:
        raise InputError(
            f"--{e.flagname} is an unknown flag{_hint(e.flagname, list(flags.FLAGS))}; "
            "allowed: those that --help lists."
        ) from None
    except flags.Error as e:
        raise InputError(str(e).splitlines()[0].rstrip(".") + ".") from None
    takes_folders = _folders_mode and flags.FLAGS["mode"].value == _folders_mode
    if len(rest) > 1 and not takes_folders:
        raise InputError(f"{rest[1]!r} is not a flag; allowed: --flag=value.")
    if spec is not None:
        from dpdm_jax import rooms  # late, likewise

        flags.FLAGS.config.update_from_flattened_dict(dict.fromkeys(unset))
        if "mode" not in flags.FLAGS or flags.FLAGS["mode"].value not in _OF_RUNS:
            _check_public(config, flags.FLAGS.config, given)
        # What the file sets for a kind that the command line replaces is not meant.
        rooms.forget_foreign(flags.FLAGS.config, given)
        rooms.check(flags.FLAGS.config)
    return rest


#: Modes that go by what a run was trained with, unless --config says otherwise.
_OF_RUNS = ("sample", "evaluate", "select", "learning_curve", "release", "audit")


def _of_stored_run(args: Sequence[str]) -> str | None:
    """Returns the config of the run that a command is about; None if it is of none."""
    given = dict[str, str]()
    for arg, following in zip(args, [*args, ""][1:], strict=True):
        name, equals, value = arg.lstrip("-").partition("=")
        given[name] = value if equals else following
    workdir = given.get("workdir", "")
    if not _default_spec or not workdir or given.get("mode") not in _OF_RUNS:
        return None
    if not (pathlib.Path(workdir).expanduser() / "config.json").is_file():
        return None
    return f"{CONFIGS / 'stored.py'}:{workdir}"


def _answer(args: Sequence[str]) -> None:
    """Answers --help and --version, for which no config need be there, and exits."""
    asked = {arg.lstrip("-") for arg in args if arg.startswith("-")}
    if "version" in asked:
        print(f"dpdm_jax {dpdm_jax.__version__}")
        sys.exit(0)
    if "helpfull" in asked:
        app.usage(writeto_stdout=True)
        sys.exit(0)
    if asked & {"help", "helpshort", "h", "?"}:
        app.usage(shorthelp=True, writeto_stdout=True)
        print("\n--version prints the version, --helpfull lists libraries' flags, too.")
        sys.exit(0)


def _may_be_none(name: str) -> bool:
    """Whether a field, by its whole name, is None where nothing sets it."""
    from dpdm_jax.configs import base  # late, likewise

    value: object = base.get_config()
    for part in name.split("."):
        if not isinstance(value, ml_collections.ConfigDict) or part not in value:
            return False
        value = value[part]
    return value is None


def _check_field(config: ml_collections.ConfigDict, dotted: str) -> str:
    """Returns the whole name of the field that a flag sets.

    Raises:
        InputError: there is none.
    """
    # Tuples take an index: --config.network.adm.channel_multipliers[0]=2.
    dotted = dotted.partition("[")[0]
    node, parents = config, list[str]()
    if moved := config_upgrades.MOVED.get(dotted):
        raise InputError(
            f"--config.{dotted} is now {' or '.join(f'--config.{n}' for n in moved)}; "
            "allowed: that of a kind that is chosen."
        )
    for name in dotted.split("."):
        if not isinstance(node, ml_collections.ConfigDict) or name not in node:
            where = f"config.{'.'.join(parents)}" if parents else "config"
            fields = list(node) if isinstance(node, ml_collections.ConfigDict) else []
            allowed = ", ".join(fields) or "none, it is a value"
            raise InputError(
                f"--config.{dotted} is an unknown field{_hint(name, fields)}; "
                f"allowed in {where}: {allowed}."
            )
        node = node[name]
        parents.append(name)
    return dotted


def _check_public(
    loaded: ml_collections.ConfigDict,
    config: ml_collections.ConfigDict,
    given: set[str],
) -> None:
    """Refuses other data than that which a config file says is public.

    Args:
        loaded: the config as its file has it.
        config: with what the command line sets.
        given: whole names of what that is.

    Raises:
        InputError: the data is another, and nothing says that this is public, too.
    """
    public = loaded.data.public
    if not public or "data.public" in given:
        return
    names = ["source", "path"]
    if config.data.source == "tfds":  # whose path says where a data set lies
        names = ["source", "tfds.name"]
    for name in names:
        was, now = (
            functools.reduce(getattr, name.split("."), each.data)
            for each in (loaded, config)
        )
        if was != now:
            raise InputError(
                f"data.{name} is {now!r}, and data.public says of the data of "
                f"{loaded.name} that it is public ({public}); allowed: data.public "
                "beside it: the name of this data if it is public, or '' if it is "
                "to be protected."
            )


def _hint(name: str, known: Sequence[str]) -> str:
    """Returns the known name that was probably meant, for a message; "" if none."""
    near = difflib.get_close_matches(name, known, 1)
    return f" (did you mean {near[0]}?)" if near else ""


def _hint_whole(dotted: str, known: Sequence[str]) -> str:
    """As ``_hint`` for whole names, of which those beside the wrong one count."""
    group, dot, field = dotted.rpartition(".")
    beside = [name.rpartition(".") for name in known]
    fields = [name for path, _, name in beside if path == group]
    near = difflib.get_close_matches(field, fields, 1)
    return f" (did you mean {group}{dot}{near[0]}?)" if near else ""


def run(main: Callable[[list[str]], None]) -> None:
    """Runs an entry point: what the user got wrong is one sentence and exit status 2.

    Args:
        main: takes what the flags left of the command line.
    """
    with streams.tolerated():
        _run(main)


def _run(main: Callable[[list[str]], None]) -> None:
    # TensorFlow (by way of TFDS) announces itself on standard error.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    # Imports and tracing make millions of objects that stay. By default all are looked
    # through time and again, which took a sixth of a short run's processor time.
    gc.set_threshold(20_000, 20, 20)
    _say_what_this_package_logs()
    _say_once_what_is_raised()
    warnings.showwarning = _show_warning

    def quiet_main(argv: list[str]) -> None:
        # Orbax and TFDS narrate through absl, whose level app.run has just set.
        absl_logging.set_verbosity(absl_logging.ERROR)
        from dpdm_jax import jax_settings  # late: JAX must find the flags set

        jax_settings.pin()
        main(argv)

    try:
        xla_flags.configure()
        app.run(quiet_main, flags_parser=parse)
    except InputError as e:
        print(f"error: {e}", file=sys.stderr)
        _exit(2, e)
    except KeyboardInterrupt as e:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        # 128 plus the signal, as shells have it.
        _exit(128 + getattr(e, "signal_number", signal.SIGINT), e)
    except Exception as e:
        if said := _no_device(e):
            print(f"error: {said}", file=sys.stderr)
            _exit(2, e)
        traceback.print_exc()
        _exit(1, e)


def _no_device(error: Exception) -> str | None:
    """Returns a sentence if JAX cannot start what JAX_PLATFORMS asks for, else None.

    Without a GPU "cuda" fails by an assertion in JAX, others by other errors: so JAX is
    asked again.
    """
    asked = os.environ.get("JAX_PLATFORMS")
    is_jaxs = isinstance(error, (AssertionError, RuntimeError))
    if not asked or not is_jaxs or "jax" not in sys.modules:
        return None
    if not str(error).startswith("Unable to initialize backend"):
        try:
            sys.modules["jax"].devices()
        except (AssertionError, RuntimeError) as e:
            error = e
        else:
            return None
    why = f" ({reason(error).split(' (set')[0]})" if str(error) else ""
    return (
        f"JAX_PLATFORMS is {asked!r}, and JAX has no such device on this machine{why}; "
        "allowed: cpu, or a platform of this machine, or to leave it unset."
    )


def speak_only_of_errors() -> None:
    """Keeps a process from saying what another one says."""
    logging.getLogger("dpdm_jax").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")


def _exit(status: int, reason: BaseException) -> None:
    """Exits; as one of several processes, so that none is left waiting."""
    processes = sys.modules.get("dpdm_jax.processes")  # if not there, JAX is not, too
    if processes is not None and not processes.is_shared(reason):
        # An orderly exit would wait for the others, which wait for this one's part of
        # the work. A broken connection ends them.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _say_what_this_package_logs() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    ours = logging.getLogger("dpdm_jax")
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    ours.propagate = False


def _say_once_what_is_raised() -> None:
    """Silences what Orbax and TensorStore say of errors that they raise as well.

    Orbax's threads log the traceback of what is raised to the caller as well: there it
    becomes one sentence. TensorStore reads in coroutines; when one fails, the others
    are left behind, and the loop that the rest would report to is closed.
    """
    absl_logging.get_absl_logger().addFilter(
        lambda record: "orbax" not in pathlib.PurePath(record.pathname).parts
    )
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    show = sys.unraisablehook

    def show_others(ignored: "sys.UnraisableHookArgs") -> None:
        is_late = str(ignored.exc_value) == "Event loop is closed"
        if not is_late and not inspect.iscoroutine(ignored.object):
            show(ignored)

    sys.unraisablehook = show_others


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    del filename, lineno, file, line
    # Libraries' notes to developers are not for the people who run this.
    if category is UserWarning:
        print(f"warning: {message}", file=sys.stderr)
